"""LBFGS against torch's: with a line search and without, eagerly, in nn.jit and in plain jax.jit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings(
    "ignore:Converting a tensor with requires_grad"
)  # torch's LBFGS, of its own loss

RNG = np.random.RandomState(2)
X = RNG.randn(24, 4).astype(np.float32)
Y = (X @ RNG.randn(4, 3)).argmax(1).astype(np.int32)
START = RNG.randn(3, 4).astype(np.float32)
OPTIONS = [
    {},
    {"lr": 0.01},
    {"lr": 0.5, "max_iter": 4},
    {"tolerance_grad": 1e-6},
    {"line_search_fn": "strong_wolfe"},
    {"line_search_fn": "strong_wolfe", "history_size": 3, "max_iter": 7},
    {"line_search_fn": "strong_wolfe", "lr": 30.0, "max_iter": 5, "max_eval": 9},
    {"history_size": 2, "max_iter": 6, "lr": 0.3},
    {"max_eval": 1},
    {"max_iter": 0},
]
STEPS = 6


class Softmax(nn.Module):
    """A convex loss: its path is the algorithm's own, and no chaos."""

    def __init__(self, dtype=np.float32):
        super().__init__()
        self.w, self.b = nn.Parameter(START.astype(dtype)), nn.Parameter(jnp.zeros(3, dtype))
        self.calls = nn.Buffer(jnp.zeros((), jnp.int32))

    def forward(self, x):
        self.calls = self.calls + 1
        return x @ self.w.T + self.b


def loss_of(model):
    return F.cross_entropy(model(X.astype(model.w.dtype)), Y) + 0.01 * (model.w**2).sum()


def torchs(options, dtype, steps=STEPS):
    w, b = (torch.nn.Parameter(torch.tensor(v, dtype=dtype)) for v in (START, np.zeros(3)))
    x, y = torch.tensor(X, dtype=dtype), torch.tensor(Y, dtype=torch.long)
    optimizer = torch.optim.LBFGS([w, b], **options)
    calls, losses = [0], []

    def closure():
        optimizer.zero_grad()
        calls[0] += 1
        loss = torch.nn.functional.cross_entropy(x @ w.T + b, y) + 0.01 * (w**2).sum()
        loss.backward()
        return loss

    for _ in range(steps):
        losses.append(float(optimizer.step(closure)))
    return w.detach().double().numpy(), np.array(losses), calls[0], optimizer


def ours(options, how, dtype=np.float32, steps=STEPS):
    model = Softmax(dtype)
    optimizer = nn.optim.LBFGS(model, **options)
    losses = []

    def step(model, optimizer):
        loss = optimizer.step(model, loss_of)
        return (model, optimizer, loss) if how == "plain" else loss

    run = {"eager": lambda f: f, "nn.jit": nn.jit, "plain": jax.jit}[how](step)
    for _ in range(steps):
        out = run(model, optimizer)
        if how == "plain":
            model, optimizer, out = out
        losses.append(float(out))
    if how == "nn.jit":
        assert run.compiled._cache_size() == 1
    return model, np.array(losses), optimizer


@pytest.mark.parametrize(
    ("options", "how"),
    # A plain jax.jit traces what nn.jit does.
    [*itertools.product(OPTIONS, ["eager", "nn.jit"]), (OPTIONS[0], "plain"), (OPTIONS[5], "plain")],
    ids=str,
)
def test_the_path_is_torchs(options, how):
    """In float64, where rounding decides nothing: each loss, the weights, and how often the loss was asked for."""
    truth, exact_losses, calls, theirs = torchs(options, torch.float64)
    with jax.enable_x64(True):
        model, found, optimizer = ours(options, how, np.float64)
        np.testing.assert_allclose(found, exact_losses, rtol=1e-10)
        np.testing.assert_allclose(model.w, truth, rtol=1e-6, atol=1e-7)
        assert int(model.calls) == calls
        fields = optimizer.state_dict()["state"][0]
        for name in ("func_evals", "n_iter"):
            assert fields[name] == theirs.state_dict()["state"][0][name]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_losses_in_float32_are_as_near_as_torchs(options):
    exact, losses = (torchs(options, dtype, 2)[1] for dtype in (torch.float64, torch.float32))
    found = ours(options, "nn.jit", steps=2)[1]
    own = max(np.abs(losses - exact).max(), 2 * np.spacing(np.float32(exact.max())))
    assert np.abs(found - exact).max() <= 2 * own


def test_state_goes_both_ways():
    options = {"line_search_fn": "strong_wolfe", "history_size": 5, "max_iter": 3}
    truth = torchs(options, torch.float64, 4)[0]
    _, _, _, theirs = torchs(options, torch.float32, 2)
    model, _, optimizer = ours(options, "eager", steps=2)
    other = Softmax()
    other.load_state_dict(model.state_dict())
    loaded = nn.optim.LBFGS(other)
    loaded.load_state_dict(theirs.state_dict())
    assert loaded.param_groups[0]["history_size"] == 5
    mine, its = optimizer.state_dict()["state"][0], theirs.state_dict()["state"][0]
    assert mine.keys() == its.keys() - {"al"}
    for name in mine:
        np.testing.assert_allclose(mine[name], its[name], rtol=2e-3, atol=2e-3, err_msg=name)
    back = torch.optim.LBFGS([torch.nn.Parameter(torch.tensor(np.asarray(v))) for v in (model.w, model.b)])
    tensors = lambda v: torch.tensor(np.asarray(v)) if isinstance(v, jax.Array) else v  # noqa: E731
    back.load_state_dict(jax.tree.map(tensors, optimizer.state_dict()))
    for _ in range(2):
        loaded.step(other, loss_of)
        optimizer.step(model, loss_of)
    np.testing.assert_allclose(other.w, truth, atol=1e-3)
    np.testing.assert_allclose(model.w, truth, atol=1e-3)


def test_what_the_loss_changes_beside_comes_back_and_frozen_parameters_stay():
    nn.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Linear(5, 3))
    model[0]._parameters["bias"].requires_grad = False
    before = np.asarray(model[0].bias)
    optimizer = nn.optim.LBFGS(model, lr=0.1, max_iter=4, history_size=4)
    step = nn.jit(lambda model, optimizer: optimizer.step(model, lambda m: F.cross_entropy(m(X), Y)))
    losses = {float(step(model, optimizer)) for _ in range(3)}
    assert len(losses) == 3 and np.isfinite(list(losses)).all()
    assert int(model[1].num_batches_tracked) == optimizer.state_dict()["state"][0]["func_evals"] > 3
    np.testing.assert_array_equal(model[0].bias, before)


def test_another_history_size_keeps_the_newest():
    model, _, optimizer = ours({"history_size": 6, "max_iter": 5}, "eager", steps=2)
    rows = optimizer.state_dict()["state"][0]["old_stps"]
    optimizer.param_groups[0]["history_size"] = 3
    np.testing.assert_array_equal(optimizer.state_dict()["state"][0]["old_stps"], rows[-3:])
    optimizer.step(model, loss_of)
    optimizer.param_groups[0]["history_size"] = 9
    optimizer.step(model, loss_of)
    assert len(optimizer.state_dict()["state"][0]["old_stps"]) <= 9


def broken(model):
    model(X)
    raise OSError("no loss")


def grows(model):
    model.extra = nn.Parameter(jnp.ones(2))
    return loss_of(model)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: nn.optim.LBFGS(m, lr=-1), ValueError, "Invalid learning rate: -1"),
        (lambda m: nn.optim.LBFGS(m, lr=jnp.ones(2)), ValueError, "1-element"),
        (lambda m: nn.optim.LBFGS([{"params": [p]} for p in m.parameters()]), ValueError, "per-parameter options"),
        (lambda m: nn.optim.LBFGS(m, line_search_fn="golden"), RuntimeError, "only 'strong_wolfe'"),
        (lambda m: nn.optim.LBFGS(m).step(m, {"w": m.w}), TypeError, "function of it that returns the loss"),
        (lambda m: nn.optim.LBFGS(m).step(), TypeError, "function of it that returns the loss"),
        (lambda m: nn.optim.LBFGS(m).step(m, broken), OSError, "no loss"),
        (lambda m: nn.optim.LBFGS(m).step(m, grows), ValueError, "structure"),
    ],
)
def test_bad_input_changes_nothing(call, error, message):
    model = Softmax()
    with pytest.raises(error, match=message):
        call(model)
    np.testing.assert_array_equal(model.w, START)
    assert int(model.calls) == 0 and not hasattr(model, "extra")
