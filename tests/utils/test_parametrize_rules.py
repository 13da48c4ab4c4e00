"""nn.utils.parametrize: what is refused, several originals, cached, copies, transfer, and layers that read attributes."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.utils.parametrize as P
from tests.utils.conftest import close, read, traces_of
from tests.utils.test_parametrize import Double, Plus, RankOne, Skew, X, doubled


def _kind(forward=lambda self, x: x, **methods):
    return type("Case", (nn.Module,), {"forward": forward, **methods})()


WRONG_FIRST = {
    "a forward of too many arrays": (TypeError, lambda self, x, y, z: x, lambda self, w: (w, w)),
    "right_inverse gives None": (ValueError, lambda self, x: x, lambda self, w: None),
    "right_inverse gives None among arrays": (ValueError, lambda self, x, y: y, lambda self, w: (None, w)),
    "right_inverse changes the dtype": (
        ValueError,
        lambda self, x: x.astype(jnp.float32),
        lambda self, w: w.astype(bool),
    ),
    "forward gives a number": (ValueError, lambda self, x: 2, None),
    "forward changes the dtype": (ValueError, lambda self, x: x.astype(bool), None),
    "forward changes the shape": (ValueError, lambda self, x: x[:-1], None),
    "forward of two changes the dtype": (ValueError, lambda self, x, y: (x + y) > 0, lambda self, w: (w, w + 1)),
    "right_inverse changes the value and forward the shape": (ValueError, lambda self, x: x[:1], lambda self, w: w + 1),
}


def _register(forward, inverse):
    """A function that registers a parametrization of these methods."""
    kind = _kind(forward, **({"right_inverse": inverse} if inverse else {}))
    return lambda layer: P.register_parametrization(layer, "weight", kind).weight


@pytest.mark.parametrize("case", WRONG_FIRST)
def test_a_wrong_first_parametrization_changes_nothing(case, way):
    error, forward, inverse = WRONG_FIRST[case]
    layer = nn.Linear(3, 4)
    box, before = layer._parameters["weight"], layer.weight
    with pytest.raises(error):
        way(_register(forward, inverse))(layer)
    assert not P.is_parametrized(layer) and type(layer) is nn.Linear
    assert layer._parameters["weight"] is box and layer.weight is before


def test_right_inverse_may_not_change_the_device():
    layer, second = nn.Linear(3, 4), jax.devices()[1]
    with pytest.raises(ValueError, match="may not change the device"):
        _register(lambda self, x: x, lambda self, w: jax.device_put(w, second))(layer)
    assert type(layer) is nn.Linear and layer.weight.devices() != {second}


@pytest.mark.parametrize("name", ["foo", "bias"])
def test_registering_on_nothing_raises(name):
    layer = nn.Linear(3, 4, bias=False)
    with pytest.raises(ValueError, match=f"tensor_name.*{name}"):
        P.register_parametrization(layer, name, Double())
    with pytest.raises(ValueError, match=f"tensor_name.*{name}"):
        P.remove_parametrizations(layer, name)
    assert not P.is_parametrized(layer)


WRONG_NEXT = {
    "forward gives two": (lambda self, x: (x, x), None),
    "forward changes the dtype": (lambda self, x: x.astype(bool), None),
    "forward changes the shape": (lambda self, x: x[:-1], None),
    "right_inverse gives two": (lambda self, x: x, lambda self, x: (x, x)),
    "right_inverse changes the dtype": (lambda self, x: x, lambda self, x: x.astype(bool)),
    "right_inverse changes the shape": (lambda self, x: x, lambda self, x: x[:-1]),
}


@pytest.mark.parametrize("case", WRONG_NEXT)
def test_a_wrong_next_parametrization_is_not_added(case, way):
    layer = P.register_parametrization(nn.Linear(3, 4), "weight", nn.Identity())
    with pytest.raises(ValueError):
        way(_register(*WRONG_NEXT[case]))(layer)
    assert len(layer.parametrizations.weight) == 1 and type(layer.parametrizations.weight[0]) is nn.Identity


def test_unsafe_may_change_the_shape(way):
    class Resize(nn.Module):
        def forward(self, X):
            return X[:1]

    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Resize(), unsafe=True)
    P.register_parametrization(layer, "weight", nn.Identity())
    assert way(lambda layer: layer.weight)(layer).shape == (1, 4)
    assert layer.parametrizations.weight.unsafe
    P.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert layer.weight.shape == (4, 4)


def test_assignment_without_right_inverse_raises(way):
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Skew())
    with pytest.raises(RuntimeError, match="right_inverse"):
        way(lambda layer, value: setattr(layer, "weight", value))(layer, jnp.eye(4))


def test_assigned_arrays_are_checked(way):
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Plus())
    layer.parametrizations.weight[0].__class__ = type(
        "Bad", (Plus,), {"right_inverse": lambda self, z: (z, z.astype(jnp.bfloat16))}
    )
    before = layer.parametrizations.weight.original0
    with pytest.raises(ValueError, match="original1.*dtype"):
        way(lambda layer, value: setattr(layer, "weight", value))(layer, jnp.eye(4))
    assert layer.parametrizations.weight.original0 is before


def test_a_parameter_cannot_take_the_place_of_a_parametrized_attribute(way):
    layer = doubled()
    with pytest.raises(KeyError, match="already exists"):
        way(lambda layer: setattr(layer, "weight", nn.Parameter(jnp.eye(4))))(layer)
    with pytest.raises(AttributeError):
        way(lambda layer: delattr(layer, "weight"))(layer)


def test_errors_inside_a_parametrization_are_not_hidden(way):
    class Broken(nn.Module):
        def forward(self, x):
            return x if self.ready else self.missing

    broken = Broken()
    broken.ready = True
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", broken)
    broken.ready = False
    with pytest.raises(AttributeError, match="missing"):
        way(lambda layer, x: layer(x))(layer, X)


def test_one_array_in_a_sequence(way):
    class Single(nn.Module):
        def forward(self, x):
            return x

        def right_inverse(self, w):
            return (w,)

    layer = nn.Linear(3, 4)
    before = layer.weight
    P.register_parametrization(layer, "weight", Single())
    originals = layer.parametrizations.weight
    assert hasattr(originals, "original0") and not hasattr(originals, "original1")
    close(read(way, layer), before, 0)
    P.remove_parametrizations(layer, "weight")
    close(layer.weight, before, 0)


def test_several_originals(way):
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", RankOne())
    originals = layer.parametrizations.weight
    assert set(originals._parameters) == {"original0", "original1"} and "weight" not in layer._parameters
    assert np.linalg.matrix_rank(way(lambda layer: layer.weight)(layer)) == 1
    with pytest.raises(ValueError, match="leave_parametrized"):
        P.remove_parametrizations(layer, "weight", leave_parametrized=False)
    before = layer.weight
    P.register_parametrization(layer, "weight", Double())
    close(layer.weight, 2 * before)
    assert len(list(layer.parameters())) == 3
    grads = way(lambda layer: nn.grad(lambda layer: (layer.weight.T @ layer.bias).sum())(layer))(layer)
    assert set(grads) == {"bias", "parametrizations.weight.original0", "parametrizations.weight.original1"}
    layer.weight = 6 * before
    close(layer.weight, 6 * before)
    P.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear and set(layer._parameters) == {"bias", "weight"}
    close(layer.weight, 6 * before)


def test_donation_after_a_split_that_keeps_the_array():
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Plus())
    step = nn.jit(lambda layer: layer(X), donate_argnums=0)
    close(step(layer), step(layer))


@pytest.mark.parametrize("requires_grad", [True, False])
def test_requires_grad_is_kept(requires_grad, way):
    layer = nn.Linear(4, 4)
    layer._parameters["weight"].requires_grad = requires_grad
    P.register_parametrization(layer, "weight", Plus())
    originals = layer.parametrizations.weight.originals().values()
    assert [box.requires_grad for box in originals] == [requires_grad] * 2
    grads = way(lambda layer: nn.grad(lambda layer: layer(X).sum())(layer))(layer)
    assert ("parametrizations.weight.original0" in grads) is requires_grad
    P.remove_parametrizations(layer, "weight")
    assert ("weight" in layer._parameters) is requires_grad  # torch: what is not trained becomes a buffer


def test_cached_computes_once(way):
    calls = []

    class Noted(nn.Module):
        def forward(self, x):
            calls.append(1)
            return x + 1

    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Noted())

    def read_twice(layer):
        return layer.weight, layer.weight

    calls.clear()
    with P.cached():
        first, second = way(read_twice)(layer)
        assert len(calls) == 1
        with P.cached():
            pass
        if way is not nn.jit and way is not jax.jit:
            assert first is second is layer.weight
    close(first, layer.weight)
    calls.clear()
    way(read_twice)(layer)
    assert len(calls) == 2


def test_cached_is_part_of_what_is_compiled():
    call, count = traces_of(lambda layer: layer.weight)
    compiled, layer = jax.jit(call), doubled()
    compiled(layer)
    with P.cached():
        compiled(layer)
    compiled(layer)
    assert count.value == 2


def test_cached_value_is_never_old():
    layer = doubled()
    with P.cached():
        before = layer.weight
        layer.weight = jnp.eye(4)
        close(layer.weight, np.eye(4), 0)
        layer.eval()
        close(layer.weight, np.eye(4), 0)
    assert before is not layer.weight


def test_cached_keeps_no_tracer(leak_checker):
    layer = doubled()
    with P.cached():
        close(jax.jit(lambda x: x @ layer.weight.T)(X), X @ layer.weight.T)
        jax.grad(lambda x: (x @ layer.weight).sum())(X)
        close(nn.jit(lambda layer, x: layer(x))(layer, X), layer(X))


def test_cached_with_transfer_keeps_modules_apart():
    layer, other = P.register_parametrization(nn.Linear(4, 4), "weight", Skew()), nn.Linear(4, 4)
    P.transfer_parametrizations_and_params(layer, other)
    with P.cached():
        assert layer.weight is layer.weight and other.weight is other.weight
        assert layer.weight is not other.weight


def test_registration_sets_the_training_mode():
    layer = nn.Linear(4, 4).eval()
    P.register_parametrization(layer, "weight", nn.Identity())
    assert not layer.parametrizations.weight[0].training
    layer.train()
    P.register_parametrization(layer, "weight", nn.Identity().eval())
    assert all(parametrization.training for parametrization in layer.parametrizations.weight)


def test_type_before_parametrizations():
    layer = nn.Linear(4, 4)
    assert P.type_before_parametrizations(layer) is nn.Linear
    P.register_parametrization(layer, "weight", nn.Identity())
    assert P.type_before_parametrizations(layer) is nn.Linear and isinstance(layer, nn.Linear)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(jnp.ones(4))
        self.bias = nn.Parameter(jnp.zeros(4))
        self.attr = [1.0, 2.0]


class OwnCopy(Plain):
    def __deepcopy__(self, memo):
        result = OwnCopy.__new__(type(self))
        memo[id(self)] = result
        result.__setstate__(copy.deepcopy({k: v for k, v in self.__dict__.items() if k != "_cache"}, memo))
        return result


@pytest.mark.parametrize("kind", [Plain, OwnCopy])
@pytest.mark.parametrize("names", [("weight",), ("weight", "bias"), ("weight", "bias", "weight")])
def test_deepcopy(kind, names, way):
    model = kind()
    for name in names:
        P.register_parametrization(model, name, Double())
    other = copy.deepcopy(model)
    assert type(other) is type(model) and other.attr == model.attr and other.attr is not model.attr
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        assert mine is not its
        close(mine.value, its.value, 0)
    before = model.weight
    other.weight = jnp.full(4, 8.0)
    close(read(way, model), before, 0)
    close(read(way, other), np.full(4, 8.0), 0)
    shared = copy.deepcopy([model, model])
    assert shared[0] is shared[1]


@pytest.mark.parametrize("dump", [pickle.dumps, copy.copy])
def test_pickling_raises(dump):
    with pytest.raises(RuntimeError, match="state_dict"):
        dump(doubled())


def test_transfer_shares_parametrizations_and_originals(way):
    layer, other = nn.Linear(4, 4), nn.Linear(4, 4)
    for kind in (Double, Double):
        P.register_parametrization(layer, "weight", kind())
    P.register_parametrization(layer, "bias", Double())
    before = layer.weight
    P.transfer_parametrizations_and_params(layer, other)
    close(read(way, other), before, 0)
    mine, its = layer.parametrizations.weight, other.parametrizations.weight
    assert mine.originals()["original"] is its.originals()["original"] and mine[1] is its[1]
    close(layer.weight, before, 0)
    P.remove_parametrizations(other, "weight")
    assert P.is_parametrized(layer, "weight") and not P.is_parametrized(other, "weight")


def test_transfer_of_one_name_and_of_a_missing_one():
    layer, other = nn.Linear(4, 4), nn.Linear(4, 4)
    layer.extra = nn.Parameter(jnp.ones((2, 2)))
    for name in ("weight", "bias", "extra"):
        P.register_parametrization(layer, name, Double())
    P.transfer_parametrizations_and_params(layer, other, "extra")
    assert set(other.parametrizations) == {"extra"}
    close(other.extra, np.ones((2, 2)), 0)
    assert P.transfer_parametrizations_and_params(nn.Linear(4, 4), other) is other


@pytest.mark.parametrize("kind", [nn.Parameter, nn.Buffer])
def test_transfer_of_several_originals(kind, way):
    layer, other = nn.Linear(4, 4), nn.Linear(4, 4)
    for module in (layer, other):
        del module.weight
        module.weight = kind(jnp.arange(16.0).reshape(4, 4) + jnp.eye(4))
    P.register_parametrization(layer, "weight", RankOne())
    P.register_parametrization(layer, "weight", Double())
    P.transfer_parametrizations_and_params(layer, other)
    close(read(way, other), read(way, layer), 0)
    originals = layer.parametrizations.weight.originals()
    assert originals == other.parametrizations.weight.originals() and len(originals) == 2


def test_recurrent_kernels_are_parametrized(way):
    nn.manual_seed(0)
    rnn, plain = nn.RNN(4, 4), nn.RNN(4, 4)
    plain.load_state_dict(rnn.state_dict())
    plain.weight_hh_l0 = Skew()(rnn.weight_hh_l0)
    P.register_parametrization(rnn, "weight_hh_l0", Skew())
    close(way(lambda rnn, x: rnn(x)[0])(rnn, X[:, None]), plain(X[:, None])[0])


@pytest.mark.parametrize(
    "name",
    ["attention", "attention bias", "conv", "norm", "embedding"],
)
def test_layers_read_their_parameters_by_attribute(name, way):
    make, parameter, x = {
        "attention": (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight", (X, X, X)),
        "attention bias": (lambda: nn.MultiheadAttention(4, 2), "in_proj_bias", (X, X, X)),
        "conv": (lambda: nn.Conv1d(3, 2, 2), "weight", (X,)),
        "norm": (lambda: nn.LayerNorm(4), "weight", (X,)),
        "embedding": (lambda: nn.Embedding(5, 4), "weight", (jnp.arange(5),)),
    }[name]
    layer = make()
    plain = copy.deepcopy(layer)
    setattr(plain, parameter, 2 * getattr(plain, parameter) + 1)

    class Affine(nn.Module):
        def forward(self, x):
            return 2 * x + 1

    P.register_parametrization(layer, parameter, Affine())
    call = lambda layer, x: jax.tree.leaves(layer(*x))[0]  # noqa: E731
    close(way(call)(layer, x), call(plain, x))


def test_dtype_conversion_reaches_the_originals(way):
    layer = doubled().to(jnp.bfloat16)
    assert read(way, layer).dtype == jnp.bfloat16


def test_no_list_of_modules():
    with pytest.raises(ValueError, match="modules"):
        P.ParametrizationList([], nn.Parameter(jnp.ones(2)))
