"""The same seed gives torch's batches in torch's order: samplers, splits, loaders, and what they take from the stream."""

import json
import subprocess
import sys

import numpy as np
import pytest

import jaxnn as nn

torch = pytest.importorskip("torch")
import torch.utils.data as theirs  # noqa: E402

ours = nn.utils.data
SEEDS, EPOCHS, N = range(5), 3, 41
X = np.arange(N) * 3


def subset(data, generator):
    return {"sampler": data.SubsetRandomSampler(list(range(3, 30)), generator)}


def weighted(replacement):
    weights = np.linspace(0.1, 2.0, N) ** 2
    return lambda data, generator: {"sampler": data.WeightedRandomSampler(weights.tolist(), 37, replacement, generator)}


def random_order(**options):
    return lambda data, generator: {"sampler": data.RandomSampler(range(N), generator=generator, **options)}


def batches_of(make):
    def options(data, generator):
        sampler = make(data, generator)["sampler"]
        return {"batch_sampler": data.BatchSampler(sampler, 4, True)}

    return options


ORDERS = {
    "shuffle": lambda data, generator: {"shuffle": True},
    "in order": lambda data, generator: {},
    "subset": subset,
    "weighted": weighted(True),
    "weighted, nothing twice": weighted(False),
    "replacement": random_order(replacement=True),
    "70 with replacement": random_order(replacement=True, num_samples=70),
    "64 with replacement": random_order(replacement=True, num_samples=64),
    "several permutations": random_order(num_samples=100),
    "fewer": random_order(num_samples=7),
    "batch sampler": batches_of(subset),
}


def _seeded(seed, own_generator):
    nn.manual_seed(seed)
    torch.manual_seed(seed)
    if not own_generator:
        return None, None
    return nn.Generator().manual_seed(seed + 50), torch.Generator().manual_seed(seed + 50)


@pytest.mark.parametrize("own_generator", [False, True], ids=["global", "generator"])
@pytest.mark.parametrize("order", ORDERS)
def test_loaders(order, own_generator):
    for seed in SEEDS:
        mine, torchs = _seeded(seed, own_generator)
        size = {} if order == "batch sampler" else {"batch_size": 4, "drop_last": bool(seed % 2)}
        found = ours.DataLoader(ours.TensorDataset(X), generator=mine, **size, **ORDERS[order](ours, mine))
        expected = theirs.DataLoader(
            theirs.TensorDataset(torch.from_numpy(X)), generator=torchs, **size, **ORDERS[order](theirs, torchs)
        )
        assert len(found) == len(expected)
        for _ in range(EPOCHS):
            batches = [batch[0].tolist() for batch in found]
            assert batches == [batch[0].tolist() for batch in expected]
            assert order == "in order" or batches[0] != X[: len(batches[0])].tolist()
        # What comes after is where torch's stream has got to, too.
        assert nn.init.uniform_(nn.Parameter(np.zeros(3, np.float32))).tolist() == torch.rand(3).tolist()


WORKERS = """
import json, sys, torch, torch.utils.data as data

def batches(own, persistent, workers):
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4) if own else None
    loader = data.DataLoader(range(11), 3, shuffle=True, num_workers=workers, generator=generator, persistent_workers=persistent)
    found = [[batch.tolist() for batch in loader] for _ in range(3)]
    return found, torch.rand(3, generator=generator).tolist(), torch.rand(3).tolist()

print(json.dumps([batches(own, persistent, 1) for own in (False, True) for persistent in (False, True)]))
"""


def test_loaders_with_workers():
    """torch starts the sampler's pass twice where there are workers, and draws no new base seed where these are kept."""
    done = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = []
    for own in (False, True):
        for persistent in (False, True):
            nn.manual_seed(3)
            generator = nn.Generator().manual_seed(4) if own else None
            loader = ours.DataLoader(
                range(11), 3, shuffle=True, num_workers=2, generator=generator, persistent_workers=persistent
            )
            batches = [[batch.tolist() for batch in loader] for _ in range(3)]
            streams = (generator or nn.default_generator, nn.default_generator)
            found.append([batches, *(stream.host.uniform((3,)).tolist() for stream in streams)])
    assert found == json.loads(done.stdout)


@pytest.mark.parametrize("lengths", [[30, 11], [0.5, 0.3, 0.2], [0.33, 0.33, 0.34], [41]], ids=str)
def test_random_split(lengths):
    for seed in SEEDS:
        mine, torchs = _seeded(seed, seed % 2)
        kwargs = ({}, {}) if mine is None else ({"generator": mine}, {"generator": torchs})
        for _ in range(EPOCHS):
            found, expected = ours.random_split(X, lengths, **kwargs[0]), theirs.random_split(X, lengths, **kwargs[1])
            assert [part.indices for part in found] == [part.indices for part in expected]


@pytest.mark.parametrize("n", [1, 2, 16, 700])
def test_weights_of_all_sizes(n):
    for seed in SEEDS:
        _seeded(seed, False)
        weights = np.random.RandomState(seed).rand(n)
        weights[n // 2 + 1 :: 3] = 0
        some = int((weights > 0).sum())
        for replacement, count in [(True, 1), (True, 3 * n), (False, 1), (False, some)]:
            found = ours.WeightedRandomSampler(weights, count, replacement)
            assert list(found) == list(theirs.WeightedRandomSampler(weights, count, replacement))


def test_a_loader_in_a_loader_draws_as_torchs_does():
    """The seed of an epoch is taken from the global stream when its first batch is asked for."""
    _seeded(0, False)
    pairs = []
    for data, x in ((ours, X), (theirs, torch.from_numpy(X))):
        outer, inner = (data.DataLoader(data.TensorDataset(x[:6]), 2, shuffle=True) for _ in range(2))
        pairs.append([(a[0].tolist(), b[0].tolist()) for a in outer for b in inner])
    assert pairs[0] == pairs[1]
