"""Schedulers in both packages' spelling, and optimizers of two groups that they move; no PyTorch is needed here."""

import jax.numpy as jnp

import jaxnn as nn

EPOCHS = 200
GROUPS = [{"lr": 0.05}, {"lr": 0.7}]


def half(epoch):
    return 0.97**epoch


def stairs(epoch):
    return 0.8 ** (epoch // 30)


def shrink(epoch):
    return 1.0 / (1.0 + 0.0005 * epoch)


# For both packages: what makes a scheduler from torch.optim.lr_scheduler or ours, and the optimizer.
CASES = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, [half, stairs]),
    "LambdaLR one": lambda s, o: s.LambdaLR(o, half),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, shrink),
    "StepLR": lambda s, o: s.StepLR(o, 30, 0.3),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [5, 80, 80, 130], 0.4),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.25, 17),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.3, 0.8, 60),
    "LinearLR default": lambda s, o: s.LinearLR(o),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.98),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, 120, 1.7),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 70, 0.003),
    "CosineAnnealingLR whole": lambda s, o: s.CosineAnnealingLR(o, EPOCHS),
    "WarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 7, 2, 0.01),
    "WarmRestarts equal": lambda s, o: s.CosineAnnealingWarmRestarts(o, 9),
    "CyclicLR": lambda s, o: s.CyclicLR(o, 0.01, [0.1, 0.4], 8, 13),
    "CyclicLR triangular2": lambda s, o: s.CyclicLR(o, [0.01, 0.02], 0.1, 20, mode="triangular2"),
    "CyclicLR exp_range": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 11, mode="exp_range", gamma=0.99, cycle_momentum=False),
    "CyclicLR function": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 11, scale_fn=shrink, scale_mode="iterations"),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 0.4, EPOCHS + 1),
    "OneCycleLR three": lambda s, o: s.OneCycleLR(o, [0.4, 0.1], epochs=67, steps_per_epoch=3, three_phase=True),
    "OneCycleLR linear": lambda s, o: s.OneCycleLR(o, 0.4, EPOCHS + 1, anneal_strategy="linear", pct_start=0.11),
    "Chained": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 20), s.ExponentialLR(o, 0.99)]),
    "Chained of four": lambda s, o: s.ChainedScheduler([
        s.LinearLR(o, 0.2, 1.0, 12), s.StepLR(o, 40, 0.5), s.MultiStepLR(o, [33], 0.7), s.CosineAnnealingLR(o, 90)
    ]),
    "Sequential": lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, 1.0, 10), s.CosineAnnealingLR(o, 190)], [10]),
    "Sequential of three": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.1, 8), s.ExponentialLR(o, 0.97), s.StepLR(o, 9)], [12, 100]
    ),
    "Sequential of many": lambda s, o: s.SequentialLR(
        o,
        [
            s.LambdaLR(o, half), s.MultiStepLR(o, [0, 4, 9]), s.LinearLR(o, 0.5, 0.9, 7), s.ConstantLR(o, 0.5, 4),
            s.PolynomialLR(o, 15, 2.0), s.StepLR(o, 3, 0.8), s.CosineAnnealingLR(o, 9), s.MultiplicativeLR(o, shrink),
        ],
        [10, 30, 45, 60, 90, 120, 150],
    ),
    "Sequential of restarts": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 5), s.CosineAnnealingWarmRestarts(o, 13)], [5]
    ),
    "Sequential of chained": lambda s, o: s.SequentialLR(
        o, [s.ChainedScheduler([s.ConstantLR(o, 0.2, 3), s.ExponentialLR(o, 0.9)]), s.PolynomialLR(o, 50)], [15]
    ),
}  # fmt: skip
OPTIMIZERS = {"SGD": dict(momentum=0.9), "AdamW": {}}


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(jnp.ones(2)), nn.Parameter(jnp.ones(2))


def our_optimizer(kind="SGD", options=None):
    model = Two()
    groups = [{"params": [box], **group} for box, group in zip(model.parameters(), GROUPS)]
    optimizer = getattr(nn.optim, kind)(groups, lr=0.1, **(OPTIMIZERS[kind] if options is None else options))
    optimizer._bind([model])
    return model, optimizer


GRADS = {"a": jnp.ones(2), "b": jnp.ones(2)}


def cycled(group):
    return group["betas"][0] if "betas" in group else group["momentum"]
