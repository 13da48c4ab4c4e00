"""Lazy modules: what PyTorch's test_lazy_modules.py checks, over all thirteen classes, in eager and under nn.jit."""

import copy
import gc
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

# class: constructor arguments, shape of the input, the ordinary class
CLASSES = {
    "LazyLinear": ((5,), (2, 3)),
    "LazyConv1d": ((6, 2), (2, 3, 8)),
    "LazyConv2d": ((6, 2), (2, 3, 8, 8)),
    "LazyConv3d": ((6, 2), (2, 3, 4, 4, 4)),
    "LazyConvTranspose1d": ((6, 2), (2, 3, 8)),
    "LazyConvTranspose2d": ((6, 2), (2, 3, 8, 8)),
    "LazyConvTranspose3d": ((6, 2), (2, 3, 4, 4, 4)),
    "LazyBatchNorm1d": ((), (2, 3, 8)),
    "LazyBatchNorm2d": ((), (2, 3, 8, 8)),
    "LazyBatchNorm3d": ((), (2, 3, 4, 4, 4)),
    "LazyInstanceNorm1d": ((1e-4, 0.2, True, True), (2, 3, 8)),
    "LazyInstanceNorm2d": ((1e-4, 0.2, True, True), (2, 3, 8, 8)),
    "LazyInstanceNorm3d": ((1e-4, 0.2, True, True), (2, 3, 4, 4, 4)),
}
RUNS = {"eager": lambda f: f, "nn.jit": nn.jit}


def make(name):
    args, shape = CLASSES[name]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return getattr(nn, name)(*args), getattr(nn, name.removeprefix("Lazy"))(3, *args), jnp.asarray(x)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", CLASSES)
def test_the_first_call_makes_the_parameters_and_the_ordinary_class(name, run):
    lazy, ordinary, x = make(name)
    assert isinstance(lazy, type(ordinary)) and name in repr(lazy)
    out = RUNS[run](lambda m, x: m(x))(lazy, x)
    assert type(lazy) is type(ordinary)
    assert repr(lazy) == repr(ordinary)
    assert {k: v.shape for k, v in lazy.state_dict().items()} == {k: v.shape for k, v in ordinary.state_dict().items()}
    assert out.shape == ordinary(x).shape
    if (
        run == "eager"
    ):  # the same class of values: what it computes is what the ordinary class computes from its weights
        lazy.eval(), ordinary.eval()
        ordinary.load_state_dict(lazy.state_dict())
        np.testing.assert_array_equal(lazy(x), ordinary(x))


@pytest.mark.parametrize("name", CLASSES)
def test_the_draws_and_the_repr_are_torchs(name):
    torch = pytest.importorskip("torch")
    args, _ = CLASSES[name]
    lazy, _, x = make(name)
    torch.manual_seed(3), nn.manual_seed(3)
    theirs = getattr(torch.nn, name)(*args)
    ours = getattr(nn, name)(*args)
    assert repr(ours) == repr(theirs)
    theirs(torch.from_numpy(np.array(x)))
    ours(x)
    assert repr(ours) == repr(theirs)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value.numpy(), rtol=1e-5, atol=1e-7, err_msg=key)
        if key.rpartition(".")[2] in ("weight", "bias"):
            np.testing.assert_array_equal(ours.state_dict()[key], value.numpy(), err_msg=key)


@pytest.mark.parametrize("name", CLASSES)
def test_copies_and_pickles_are_lazy_too_and_stay_apart(name):
    lazy, ordinary, x = make(name)
    for other in (pickle.loads(pickle.dumps(lazy)), copy.deepcopy(lazy)):
        assert type(other) is type(lazy)
        other(x)
        assert type(other) is type(ordinary) and type(lazy) is not type(ordinary)
        again = pickle.loads(pickle.dumps(other))
        assert type(again) is type(ordinary)
        chex.assert_trees_all_equal(again.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", CLASSES)
def test_loading_a_state_dict_gives_the_shapes(name):
    lazy, ordinary, x = make(name)
    ordinary(x)
    lazy.load_state_dict(ordinary.state_dict())
    assert not lazy.has_uninitialized_params()
    out = lazy.eval()(x)
    assert type(lazy) is type(ordinary)
    np.testing.assert_array_equal(out, ordinary.eval()(x))


@pytest.mark.parametrize("name", CLASSES)
def test_a_lazy_state_dict_saves_and_loads(name):
    lazy, _, x = make(name)
    state = lazy.state_dict()
    assert state.keys() == make(name)[1].state_dict().keys()
    other = make(name)[0]
    other.load_state_dict(state)
    assert other.has_uninitialized_params() == lazy.has_uninitialized_params()
    other(x)
    with pytest.raises(RuntimeError, match="no array for it yet"):  # an ordinary module cannot take what has no shape
        make(name)[1].load_state_dict(make(name)[0].state_dict())


@pytest.mark.parametrize("name", [name for name in CLASSES if "Conv" in name])
def test_an_input_of_the_wrong_rank_is_refused(name):
    lazy, _, x = make(name)
    with pytest.raises(RuntimeError, match="input"):
        lazy(x[None, None])
    assert type(lazy).__name__ == name
    lazy(x)


def test_chained_layers_and_the_optimizer():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.LazyLinear(7), nn.LazyLinear(2)

        def forward(self, x):
            return self.second(jnp.tanh(self.first(x)))

    net, x = Net(), jnp.ones((4, 5))
    boxes = list(net.parameters())
    net(x)
    assert all(a is b for a, b in zip(boxes, net.parameters()))  # an optimizer that held them still holds them
    assert net.first.in_features == 5 and net.second.in_features == 7
    optimizer = nn.optim.SGD(net.parameters(), lr=0.1)
    before = np.asarray(net.first.weight)
    optimizer.step(net, nn.grad(lambda m: m(x).sum())(net))
    assert not np.array_equal(before, net.first.weight)


def test_an_optimizer_made_before_the_first_call_trains_what_it_makes():
    lazy, x = nn.LazyLinear(2), jnp.ones((4, 3))
    optimizer = nn.optim.SGD(lazy.parameters(), lr=0.1, momentum=0.9)
    lazy(x)
    before = np.asarray(lazy.weight)
    for _ in range(2):
        optimizer.step(lazy, nn.grad(lambda m: m(x).sum())(lazy))
    np.testing.assert_allclose(lazy.weight, before - 0.1 * 4 - 0.1 * 1.9 * 4, rtol=1e-5)


def test_hooks_run_on_the_first_call():
    seen = []
    lazy = nn.LazyLinear(2)
    lazy.register_forward_pre_hook(lambda module, args: seen.append(("before", type(module).__name__)))
    lazy.register_forward_hook(lambda module, args, out: seen.append(("after", type(module).__name__)))
    lazy(jnp.ones((1, 3)))
    assert [when for when, _ in seen] == ["before", "after"]
    lazy(jnp.ones((1, 3)))
    assert len(seen) == 4


def test_a_dtype_given_is_kept_and_to_casts_before_there_is_a_shape():
    lazy = nn.LazyLinear(2, dtype=jnp.bfloat16)
    lazy(jnp.ones((1, 3), jnp.bfloat16))
    assert lazy.weight.dtype == lazy.bias.dtype == jnp.bfloat16
    lazy = nn.LazyLinear(2).half()
    lazy(jnp.ones((1, 3), jnp.float16))
    assert lazy.weight.dtype == jnp.float16


def test_an_uninitialized_parameter_has_no_shape_and_says_what_to_do():
    lazy = nn.LazyLinear(2)
    box = dict(lazy.named_parameters())["weight"]
    assert isinstance(box, nn.UninitializedParameter)
    with pytest.raises(RuntimeError, match="shape"):
        _ = box.shape
    box.materialize((2, 3))
    assert box.shape == (2, 3) and isinstance(box, nn.Parameter)


def test_eval_shape_leaves_the_module_lazy():
    lazy = nn.LazyLinear(2)
    with pytest.warns(UserWarning, match="lost"):
        out = jax.eval_shape(lambda m, x: m(x), lazy, jnp.ones((1, 3)))
        gc.collect()
    assert out.shape == (1, 2) and type(lazy) is nn.LazyLinear


@pytest.mark.filterwarnings("ignore:.*the change was lost")
def test_plain_jit_says_what_to_do():
    with pytest.raises(RuntimeError, match="nn.jit"):
        jax.jit(lambda m, x: m(x))(nn.LazyLinear(2), jnp.ones((1, 3)))
    gc.collect()
