"""What is recorded of PyTorch's training tools: optimizers, and orders of data; for both packages."""

import numpy as np

RNG = np.random.RandomState(0)
A, B, X = (RNG.randn(*shape).astype(np.float32) for shape in ((4, 5), (5, 2), (8, 4)))
STEPS = 100
SHOWN = (10, 100)  # after so many steps the weights are recorded

OPTIMIZERS = {
    "SGD": [{"lr": 0.1}, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}],
    "Adam": [{"lr": 0.01}, {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1, "betas": (0.8, 0.95)}],
    "AdamW": [{"lr": 0.01, "weight_decay": 0.1}],
    "Adamax": [{"lr": 0.01}],
    "NAdam": [{"lr": 0.01, "momentum_decay": 0.01}],
    "RAdam": [{"lr": 0.01, "weight_decay": 0.01}],
    "Adadelta": [{"lr": 1.0}],
    "Adagrad": [{"lr": 0.05, "lr_decay": 0.01}],
    "ASGD": [{"lr": 0.05, "t0": 20}],
    "Rprop": [{"lr": 0.001}],
    "RMSprop": [{"lr": 0.002, "centered": True, "momentum": 0.5}],
    "Adafactor": [{"lr": 0.05}],
    "Muon": [{"lr": 0.01}],
}

# Of either package's `utils.data`: what gives an order, and the order's seeds.
SEEDS = (0, 7, 2**31)
DATA = np.arange(23)
ORDERS = {
    "shuffled": lambda data: data.DataLoader(DATA, 4, shuffle=True),
    "the last left out": lambda data: data.DataLoader(DATA, 5, shuffle=True, drop_last=True),
    "with replacement": lambda data: data.RandomSampler(DATA, replacement=True, num_samples=40),
    "weighted": lambda data: data.WeightedRandomSampler(np.arange(1.0, 24.0).tolist(), 30),
    "weighted without replacement": lambda data: data.WeightedRandomSampler(np.arange(1.0, 24.0).tolist(), 20, False),
    "split": lambda data: [index for part in data.random_split(DATA, [5, 8, 10]) for index in part.indices],
}


def epochs(data, make):
    """The indices of three epochs of an order, one after another."""
    order = make(data)
    return np.concatenate([np.ravel(np.asarray(batch)) for _ in range(3) for batch in order])
