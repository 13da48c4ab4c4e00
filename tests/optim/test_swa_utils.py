"""Averaged models, the statistics of their batch norms, and SWALR, against torch's."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.optim.test_lr_scheduler import GRADS, our_optimizer, torchs_optimizer

torch = pytest.importorskip("torch")
swa, theirs_swa = nn.optim.swa_utils, torch.optim.swa_utils

RNG = np.random.RandomState(5)
BATCHES = [RNG.randn(6, 4).astype(np.float32) for _ in range(7)]


def make(package):
    return package.Sequential(package.Linear(4, 5), package.BatchNorm1d(5), package.ReLU(), package.Linear(5, 2))


def pair():
    torch.manual_seed(3)
    theirs, ours = make(torch.nn), make(nn)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


AVERAGES = {
    "mean": lambda package: {},
    "swa multi": lambda package: dict(multi_avg_fn=package.get_swa_multi_avg_fn()),
    "swa": lambda package: dict(avg_fn=package.get_swa_avg_fn()),
    "ema multi": lambda package: dict(multi_avg_fn=package.get_ema_multi_avg_fn(0.9)),
    "ema quick": lambda package: dict(multi_avg_fn=package.get_ema_multi_avg_fn(0.2)),
    "ema": lambda package: dict(avg_fn=package.get_ema_avg_fn(0.9)),
    "ema buffers": lambda package: dict(avg_fn=package.get_ema_avg_fn(0.9), use_buffers=True),
    "ema multi buffers": lambda package: dict(multi_avg_fn=package.get_ema_multi_avg_fn(0.9), use_buffers=True),
    "mean buffers": lambda package: dict(use_buffers=True),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", AVERAGES)
def test_averages_are_torchs(name, compiled):
    theirs, ours = pair()
    their_average = theirs_swa.AveragedModel(theirs, **AVERAGES[name](theirs_swa))
    our_average = swa.AveragedModel(ours, **AVERAGES[name](swa))
    their_optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)

    def update(average, model):
        average.update_parameters(model)

    run = nn.jit(update) if compiled else update
    for batch in BATCHES:
        their_optimizer.zero_grad()
        theirs(torch.tensor(batch)).square().mean().backward()
        their_optimizer.step()
        ours.load_state_dict(theirs.state_dict())  # the same weights: what differs is the average
        their_average.update_parameters(theirs)
        run(our_average, ours)
    expected, found = their_average.state_dict(), our_average.state_dict()
    assert list(expected) == list(found)
    for key, value in expected.items():
        np.testing.assert_allclose(np.asarray(found[key]), value.numpy(), rtol=3e-7, atol=1e-7, err_msg=key)
    back = theirs_swa.AveragedModel(theirs)
    back.load_state_dict({key: torch.tensor(np.asarray(value)) for key, value in found.items()})


@pytest.mark.parametrize("training", [True, False])
def test_update_bn_is_torchs(training):
    theirs, ours = pair()
    for package, model, to in ((theirs_swa, theirs, torch.tensor), (swa, ours, jnp.asarray)):
        model.train(training)
        package.update_bn([to(batch) for batch in BATCHES], model)
        package.update_bn([(to(batch), 1) for batch in BATCHES], model)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(np.asarray(ours.state_dict()[key]), value.numpy(), rtol=1e-5, atol=1e-6)
    assert ours[1].momentum == theirs[1].momentum == 0.1 and ours.training is training
    swa.update_bn(iter(()), nn.Linear(2, 2))

    def broken():
        yield BATCHES[0]
        raise OSError("no more data")

    with pytest.raises(OSError, match="no more"):
        swa.update_bn(broken(), ours)
    assert ours[1].momentum == 0.1 and ours.training is training


def test_an_average_shares_no_array_with_its_model():
    model = make(nn)
    average = swa.AveragedModel(model)
    step = jax.jit(lambda arrays: [array + 1 for array in arrays], donate_argnums=0)
    for update in (lambda a, m: None, lambda a, m: a.update_parameters(m), nn.jit(lambda a, m: a.update_parameters(m))):
        update(average, model)
        arrays = [box.value for box in (*model.parameters(), *model.buffers())]
        for box, array in zip((*model.parameters(), *model.buffers()), step(arrays)):
            box.value = array
        assert all(np.isfinite(np.asarray(value)).all() for value in average.state_dict().values())


def test_one_program_and_no_gradient():
    model = nn.Linear(4, 2)
    average = swa.AveragedModel(model, multi_avg_fn=swa.get_ema_multi_avg_fn())
    run = nn.jit(lambda a, m: a.update_parameters(m))
    for _ in range(4):
        run(average, model)
    assert run.compiled._cache_size() == 1 and int(average.n_averaged) == 4


SWALRS = [
    dict(swa_lr=0.01),
    dict(swa_lr=[0.5, 0.02], anneal_epochs=17),
    dict(swa_lr=0.3, anneal_epochs=5, anneal_strategy="linear"),
    dict(swa_lr=0.3, anneal_epochs=0),
]


@pytest.mark.parametrize("options", SWALRS, ids=str)
def test_swalr(options):
    theirs = theirs_swa.SWALR(torchs_optimizer(), **options)
    (model, optimizer), (_, other) = our_optimizer(), our_optimizer()
    outside, inside = swa.SWALR(optimizer, **options), swa.SWALR(other, **options)
    theirs.optimizer.step()
    optimizer.step(model, GRADS)
    step = nn.jit(lambda scheduler: scheduler.step())
    for epoch in range(200):
        if epoch == 7:  # goes on from torch's state
            outside.load_state_dict(theirs.state_dict())
            copy.deepcopy(theirs).load_state_dict(outside.state_dict())
        assert outside.get_last_lr() == theirs.get_last_lr()
        np.testing.assert_allclose(inside.get_last_lr(), theirs.get_last_lr(), rtol=1e-7)
        theirs.step()
        outside.step()
        step(inside)
    assert step.compiled._cache_size() == 1


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: swa.get_ema_avg_fn(1.5), ValueError, "Invalid decay value 1.5"),
        (lambda: swa.get_ema_multi_avg_fn(-1), ValueError, "Invalid decay value -1"),
        (lambda: swa.SWALR(our_optimizer()[1], [0.1]), ValueError, "same length"),
        (lambda: swa.SWALR(our_optimizer()[1], 0.1, -1), ValueError, "anneal_epochs"),
        (lambda: swa.SWALR(our_optimizer()[1], 0.1, anneal_strategy="no"), ValueError, "'cos' or 'linear'"),
        (lambda: swa.SWALR(3, 0.1), TypeError, "not an Optimizer"),
        (lambda: swa.AveragedModel(nn.Linear(2, 2), avg_fn=min, multi_avg_fn=min), AssertionError, "Only one of"),
        (
            lambda: swa.AveragedModel(nn.Linear(2, 2)).update_parameters(nn.Linear(2, 3)),
            ValueError,
            "expected the shape",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_function_in_torchs_spelling_is_refused():
    model = nn.Linear(2, 2)
    average = swa.AveragedModel(model, multi_avg_fn=lambda averaged, current, count: None)
    average.update_parameters(model)
    with pytest.raises(TypeError, match="do not change in place"):
        average.update_parameters(model)
    assert int(average.n_averaged) == 1


def test_update_bn_takes_a_platforms_name_and_commits_nothing():
    """A step that was compiled for uncommitted arrays is not compiled anew for what comes back."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    step = nn.jit(lambda m, x: m(x))
    step(model, np.ones((4, 2), np.float32))
    nn.optim.swa_utils.update_bn([np.ones((4, 2), np.float32)], model.to("cpu"), device="cpu")
    step(model, np.ones((4, 2), np.float32))
    assert int(model[1].num_batches_tracked) == 2 and step.compiled._cache_size() == 1
    assert not model[0].weight.committed and model[0].weight is model.to("cpu")[0].weight
    with pytest.raises(RuntimeError, match="update_bn: device"):
        nn.optim.swa_utils.update_bn([], model, device="no such")
