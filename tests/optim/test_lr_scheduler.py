"""Schedulers against torch's: 200 epochs of learning rates and momentum, outside and inside a compiled step.

Outside the numbers are torch's bit for bit; inside they are 1e-7 of torch's, and one program serves all epochs.
"""

import copy
import math
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.optim.schedules import (
    CASES,
    EPOCHS,
    GRADS,
    GROUPS,
    OPTIMIZERS,
    Two,
    cycled,
    half,
    our_optimizer,
)

torch = pytest.importorskip("torch")


def torchs_optimizer(kind="SGD", options=None):
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], **group} for group in GROUPS]
    return getattr(torch.optim, kind)(groups, lr=0.1, **(OPTIMIZERS[kind] if options is None else options))


def torchs_run(make, kind, epochs=EPOCHS):
    optimizer = torchs_optimizer(kind)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rows = []
    for _ in range(epochs):
        rows.append([(group["lr"], cycled(group)) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rows, scheduler


# torch and we warn where a ChainedScheduler inside a SequentialLR steps at its start
@pytest.mark.filterwarnings("ignore:Detected call")
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", CASES)
def test_outside_a_compiled_step_the_numbers_are_torchs_bit_for_bit(name, kind):
    expected, theirs = torchs_run(CASES[name], kind)
    model, optimizer = our_optimizer(kind)
    scheduler = CASES[name](nn.optim.lr_scheduler, optimizer)
    assert scheduler.get_last_lr() == [lr for lr, _ in expected[0]]
    for row in expected:
        assert [(group["lr"], cycled(group)) for group in optimizer.param_groups] == row
        assert scheduler.get_last_lr() == [lr for lr, _ in row]
        if row is expected[0]:
            optimizer.step(model, GRADS)
        scheduler.step()
    assert scheduler.get_last_lr() == theirs.get_last_lr()


# torch and we warn where a ChainedScheduler inside a SequentialLR steps at its start
@pytest.mark.filterwarnings("ignore:Detected call")
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", CASES)
def test_inside_a_compiled_step_one_program_serves_all_epochs(name, kind):
    expected, theirs = torchs_run(CASES[name], kind)
    model, optimizer = our_optimizer(kind)
    scheduler = CASES[name](nn.optim.lr_scheduler, optimizer)

    @nn.jit
    def step(model, optimizer, scheduler):
        optimizer.step(model, GRADS)
        scheduler.step()

    found = []
    for _ in range(EPOCHS):
        found.append([(group["lr"], cycled(group)) for group in optimizer.param_groups])
        step(model, optimizer, scheduler)
    # at the end of a cosine nothing is left but the rounding of cos(pi)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-15)
    np.testing.assert_allclose(scheduler.get_last_lr(), theirs.get_last_lr(), rtol=1e-7, atol=1e-15)
    assert step.compiled._cache_size() == 1


@pytest.mark.filterwarnings("ignore:Detected call")
@pytest.mark.parametrize("name", CASES)
def test_state_goes_both_ways_in_the_middle(name):
    half_way = 77
    expected, _ = torchs_run(CASES[name], "SGD")
    _, theirs = torchs_run(CASES[name], "SGD", half_way)
    model, optimizer = our_optimizer()
    ours = CASES[name](nn.optim.lr_scheduler, optimizer)
    ours.load_state_dict(theirs.state_dict())
    optimizer.load_state_dict(theirs.optimizer.state_dict())
    optimizer.step(model, GRADS)
    back_optimizer = torchs_optimizer()
    back = CASES[name](torch.optim.lr_scheduler, back_optimizer)
    back.load_state_dict(ours.state_dict())
    back_optimizer.load_state_dict(theirs.optimizer.state_dict())
    back_optimizer.step()
    for row in expected[half_way:]:
        for opt, scheduler in ((optimizer, ours), (back_optimizer, back)):
            assert [(group["lr"], cycled(group)) for group in opt.param_groups] == row
            scheduler.step()


METRICS = np.cumsum(np.random.RandomState(1).randn(EPOCHS)) * 0.01 + np.linspace(3, 1, EPOCHS)
PLATEAUS = [
    dict(),
    dict(patience=3, factor=0.5),
    dict(mode="max", patience=2, cooldown=4, factor=0.7, min_lr=[0.01, 0.02]),
    dict(threshold_mode="abs", threshold=0.05, patience=1, factor=0.9),
    dict(mode="max", threshold_mode="abs", threshold=0.05, patience=5, eps=0.01),
]


@pytest.mark.parametrize("options", PLATEAUS, ids=str)
def test_plateaus(options):
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(torchs_optimizer(), **options)
    outside = nn.optim.lr_scheduler.ReduceLROnPlateau(our_optimizer()[1], **options)
    inside = nn.optim.lr_scheduler.ReduceLROnPlateau(our_optimizer()[1], **options)
    step = nn.jit(lambda scheduler, metric: scheduler.step(metric))
    for metric in METRICS.astype(np.float32):
        theirs.step(float(metric))
        outside.step(jnp.asarray(metric))
        step(inside, metric)
        assert outside.get_last_lr() == theirs.get_last_lr()
        np.testing.assert_allclose(inside.get_last_lr(), theirs.get_last_lr(), rtol=1e-7)
    assert step.compiled._cache_size() == 1
    loaded = nn.optim.lr_scheduler.ReduceLROnPlateau(our_optimizer()[1])
    loaded.load_state_dict(theirs.state_dict())
    assert loaded.state_dict() == {"_get_lr_called_within_step": False, "_is_initial": False} | theirs.state_dict()


def test_numbers_of_a_scheduler_are_no_part_of_a_program():
    step = nn.jit(lambda scheduler: scheduler.step())
    for size, gamma in ((3, 0.1), (5, 0.2), (7, 0.7)):
        step(nn.optim.lr_scheduler.StepLR(our_optimizer()[1], size, gamma))
    assert step.compiled._cache_size() == 1


def test_epochs_may_be_given():
    for make in (CASES["WarmRestarts"], CASES["StepLR"], CASES["CosineAnnealingLR"], CASES["LinearLR"]):
        theirs = make(torch.optim.lr_scheduler, torchs_optimizer())
        model, optimizer = our_optimizer()
        ours = make(nn.optim.lr_scheduler, optimizer)
        optimizer.step(model, GRADS)
        theirs.optimizer.step()
        for epoch in (3, 40, 11):
            for scheduler in (theirs, ours):
                if isinstance(scheduler, nn.optim.lr_scheduler.CosineAnnealingWarmRestarts) or "Warm" in str(scheduler):
                    scheduler.step(epoch + 0.5)
                else:
                    with pytest.warns(UserWarning, match="epoch parameter"):
                        scheduler.step(epoch)
            assert ours.get_last_lr() == theirs.get_last_lr()


def test_resuming_by_last_epoch():
    theirs = torchs_optimizer()
    _, ours = our_optimizer()
    for optimizer in (theirs, ours):
        with pytest.raises(KeyError, match="initial_lr"):
            type_of = torch.optim.lr_scheduler if optimizer is theirs else nn.optim.lr_scheduler
            type_of.CosineAnnealingLR(optimizer, 50, last_epoch=9)
        for group in optimizer.param_groups:
            group["initial_lr"] = 0.3
    a = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 50, last_epoch=9)
    b = nn.optim.lr_scheduler.CosineAnnealingLR(ours, 50, last_epoch=9)
    theirs.step()
    for _ in range(5):
        assert a.get_last_lr() == b.get_last_lr()
        a.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            b.step()


def test_a_scheduler_of_ones_own_in_torchs_spelling():
    class Sawtooth(nn.optim.lr_scheduler.LRScheduler):
        def __init__(self, optimizer, period, last_epoch=-1):
            self.period = period
            super().__init__(optimizer, last_epoch)

        def get_lr(self):
            return [lr * (1 - (self.last_epoch % self.period) / self.period) for lr in self.base_lrs]

    model, optimizer = our_optimizer()
    scheduler = Sawtooth(optimizer, 4)
    step = nn.jit(lambda model, optimizer, scheduler: (optimizer.step(model, GRADS), scheduler.step()) and None)
    for epoch in range(9):
        assert scheduler.get_last_lr() == pytest.approx([lr * (1 - (epoch % 4) / 4) for lr in (0.05, 0.7)])
        step(model, optimizer, scheduler)
    assert scheduler.last_epoch == 9 and isinstance(scheduler.last_epoch, int)
    copied = copy.deepcopy(scheduler)
    assert copied.get_last_lr() == scheduler.get_last_lr() and copied.optimizer is not optimizer
    scheduler.base_lrs[0] = 2.0
    assert scheduler.base_lrs == [2.0, 0.7]


def test_a_plain_jit_returns_the_scheduler_with_its_optimizer():
    _, optimizer = our_optimizer()
    scheduler = nn.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    @jax.jit
    def step(scheduler):
        scheduler.step()
        return scheduler

    new = step(step(scheduler))
    assert new.get_last_lr() == pytest.approx([0.0125, 0.175])
    assert new.optimizer.param_groups[1]["lr"] == pytest.approx(0.175)
    assert scheduler.get_last_lr() == [0.05, 0.7]


def test_a_scheduler_pickles():
    scheduler = nn.optim.lr_scheduler.ExponentialLR(our_optimizer()[1], 0.5)
    loaded = pickle.loads(pickle.dumps(scheduler))
    assert loaded.get_last_lr() == [0.05, 0.7] and loaded.state_dict() == scheduler.state_dict()


def test_stepping_before_the_optimizer_warns_once():
    model, optimizer = our_optimizer()
    scheduler = nn.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()
    scheduler = nn.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    nn.jit(lambda m, o: o.step(m, GRADS))(model, optimizer)
    scheduler.step()
    with pytest.warns(UserWarning, match="get_last_lr"):
        scheduler.get_lr()


def test_one_cycle_ends():
    model, optimizer = our_optimizer()
    scheduler = nn.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 3)
    optimizer.step(model, GRADS)
    step = nn.jit(lambda scheduler: scheduler.step())
    for _ in range(3):
        step(scheduler)
    with pytest.raises(ValueError, match="Tried to step 4 times"):
        scheduler.step()
    step(scheduler)
    assert all(math.isnan(lr) for lr in scheduler.get_last_lr())


def branching(epoch):
    return 1.0 if epoch < 5 else 0.1


def by_math(epoch):
    return math.cos(epoch)


def our_one():
    return our_optimizer()[1]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda s: s.StepLR(1, 3), TypeError, "int is not an Optimizer"),
        (lambda s: s.LambdaLR(our_one(), [half]), ValueError, "Expected 2 lr_lambdas, but got 1"),
        (lambda s: s.MultiplicativeLR(our_one(), 3), TypeError, "should be a function"),
        (lambda s: s.ConstantLR(our_one(), 1.5), ValueError, "between 0 and 1"),
        (lambda s: s.LinearLR(our_one(), 0.0), ValueError, "greater than 0"),
        (lambda s: s.LinearLR(our_one(), 0.5, -1.0), ValueError, "between 0 and 1"),
        (lambda s: s.CosineAnnealingWarmRestarts(our_one(), 0), ValueError, "T_0"),
        (lambda s: s.CosineAnnealingWarmRestarts(our_one(), 3, 0), ValueError, "T_mult"),
        (lambda s: s.CosineAnnealingWarmRestarts(our_one(), 3).step(-1), ValueError, "non-negative epoch"),
        (lambda s: s.CyclicLR(our_one(), [0.1], 0.2), ValueError, "same length"),
        (lambda s: s.CyclicLR(our_one(), 0.1, 0.2, mode="round"), ValueError, "mode is invalid"),
        (lambda s: s.CyclicLR(nn.optim.Adagrad(Two()), 0.1, 0.2), ValueError, "cycle_momentum"),
        (lambda s: s.OneCycleLR(our_one(), 0.1), ValueError, "total_steps OR"),
        (lambda s: s.OneCycleLR(our_one(), 0.1, -3), ValueError, "positive integer total_steps"),
        (lambda s: s.OneCycleLR(our_one(), 0.1, 5, pct_start=2.0), ValueError, "pct_start"),
        (lambda s: s.OneCycleLR(our_one(), 0.1, 5, anneal_strategy="no"), ValueError, "'cos' or 'linear'"),
        (lambda s: s.ReduceLROnPlateau(our_one(), factor=1.5), ValueError, "Factor should be"),
        (lambda s: s.ReduceLROnPlateau(our_one(), "low"), ValueError, "mode low is unknown"),
        (lambda s: s.ReduceLROnPlateau(our_one(), min_lr=[0.1]), ValueError, "expected 2 min_lrs"),
        (lambda s: s.ChainedScheduler([]), ValueError, "no scheduler"),
        (lambda s: s.ChainedScheduler([s.ReduceLROnPlateau(our_one())]), ValueError, "ReduceLROnPlateau"),
        (lambda s: s.SequentialLR(our_one(), [s.StepLR(our_one(), 1)], []), ValueError, "same optimizer"),
        (lambda s: s.StepLR(nn.optim.SGD(Two(), lr=lambda n: 0.1), 3), TypeError, "optax schedule"),
        (lambda s: nn.jit(lambda x: x.step())(s.LambdaLR(our_one(), branching)), TypeError, "jnp.where"),
        (lambda s: nn.jit(lambda x: x.step())(s.LambdaLR(our_one(), by_math)), TypeError, "jnp.where"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make(nn.optim.lr_scheduler)
