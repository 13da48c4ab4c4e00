"""What PyTorch's test_stateless.py checks of functional_call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.utils import stateless


class Mock(nn.Module):
    """One weight, one bias, a buffer, and an attribute that is no array."""

    def __init__(self, tied=False):
        super().__init__()
        self.l1 = nn.Linear(1, 1)
        self.buffer = nn.Buffer(jnp.ones(1))
        self.foo = 0.0
        if tied:
            self.tied_bias = self.l1.bias
            self.tied_buffer = self.get_buffer("buffer")

    def forward(self, x):
        out = self.l1(x) + self.buffer
        return out + self.tied_bias + self.tied_buffer if hasattr(self, "tied_bias") else out


X = jnp.asarray([[0.7]])
WEIGHT, BIAS, BUFFER = jnp.asarray([[2.0]]), jnp.asarray([5.0]), jnp.asarray([3.0])
ALL = {"l1.weight": WEIGHT, "l1.bias": BIAS, "buffer": BUFFER}


def _deprecated(*args, **kwargs):
    with pytest.warns(FutureWarning, match="functional_call"):
        return stateless.functional_call(*args, **kwargs)


both = pytest.mark.parametrize("call", [nn.functional_call, _deprecated], ids=["nn", "stateless"])


@pytest.fixture
def unchanged():
    """Makes modules that must be as they were when the test ends."""
    made = []

    def make(*args):
        module = Mock(*args)
        made.append((module, jax.tree.leaves(module), jax.tree.structure(module)))
        return module

    yield make
    for module, leaves, structure in made:
        assert all(a is b for a, b in zip(leaves, jax.tree.leaves(module), strict=True))
        assert jax.tree.structure(module) == structure


def close(result, expected):
    np.testing.assert_allclose(result, expected, rtol=1e-6)


# -- what is replaced -----------------------------------------------------------------------------------------------


@both
def test_all_arrays_some_or_none_are_replaced(call, unchanged):
    module = unchanged()
    close(call(module, ALL, X), 2 * X + 8)
    close(call(module, {"l1.weight": WEIGHT}, X), 2 * X + module.l1.bias + 1)
    close(call(module, {}, X), module(X))


def test_several_dicts_or_none_are_one(unchanged):
    module = unchanged()
    close(nn.functional_call(module, [{key: value} for key, value in ALL.items()], X), 2 * X + 8)
    close(nn.functional_call(module, (), X), module(X))
    params = {name: jnp.ones_like(box.value) for name, box in module.named_parameters()}
    buffers = {name: jnp.zeros_like(box.value) for name, box in module.named_buffers()}
    close(nn.functional_call(module, (params, buffers), X), X + 1)
    for bad in (3, [3], ({}, None), "text", (ALL, {"l1.weight": WEIGHT})):
        with pytest.raises(ValueError, match="dict"):
            nn.functional_call(module, bad, X)


@both
def test_None_takes_an_array_away_for_the_call(call, unchanged):
    close(call(unchanged(), {"l1.weight": WEIGHT, "l1.bias": None, "buffer": BUFFER}, X), 2 * X + 3)


def test_a_parameter_that_is_None_is_given_an_array_for_the_call():
    module = nn.Linear(1, 1, bias=False)
    close(nn.functional_call(module, {"weight": WEIGHT, "bias": BIAS}, X), 2 * X + 5)
    assert module.bias is None and len(module.state_dict()) == 1


@both
def test_a_name_that_the_module_lacks_is_an_attribute_during_the_call(call):
    class Uses(nn.Module):
        def forward(self, x):
            return x + self.extra

    module = Uses()
    close(call(module, {"extra": BUFFER}, X), X + 3)
    assert not hasattr(module, "extra")
    with pytest.raises(RuntimeError, match="extra"):
        call(module, {"extra": BUFFER}, X, strict=True)
    with pytest.raises(AttributeError, match="extra"):
        call(module, {}, X)


@both
def test_a_plain_attribute_that_holds_an_array_is_replaced(call):
    class Holds(nn.Module):
        def __init__(self, x):
            super().__init__()
            self.x = x

        def forward(self, inp, *, other):
            return inp * self.x + other

    module, state = Holds(jnp.full((2, 3), 7.0)), {"x": jnp.zeros((2, 3))}
    one, two = jnp.ones((2, 3)), jnp.full((2, 3), 2.0)
    close(call(module, state, one, {"other": two}), two)
    close(call(module, state, (), {"inp": one, "other": two}), two)
    close(call(module, state, kwargs={"inp": one, "other": two}), two)
    with pytest.raises(TypeError, match="other"):
        call(module, state, one)
    assert float(module.x[0, 0]) == 7


@both
@pytest.mark.parametrize(
    "state, error, match",
    [
        ({"l1.weight": object()}, TypeError, "l1.weight: expected an array"),
        ({"l1.weight": [[1.0]]}, TypeError, "l1.weight: expected an array"),
        ({"foo": WEIGHT}, TypeError, "foo: expected an attribute that holds an array"),
        ({"l1": WEIGHT}, TypeError, "l1: expected an attribute that holds an array"),
        ({"l2.bias": BIAS}, AttributeError, "Mock has no attribute `l2`"),
        ({"foo.bias": BIAS}, AttributeError, "`foo` is not an nn.Module"),
    ],
)
def test_what_cannot_be_replaced_is_refused_and_named(call, state, error, match, unchanged):
    with pytest.raises(error, match=match):
        call(unchanged(), {"l1.bias": BIAS, **state}, X)


@both
def test_the_module_is_as_it_was_after_a_call_that_fails(call, unchanged):
    with pytest.raises(Exception):  # noqa: B017  # whatever the layer says to the shape
        call(unchanged(), ALL, jnp.ones((4, 5)))


@both
def test_strict_names_what_is_missing_and_what_is_too_much(call, unchanged):
    module = unchanged()
    close(call(module, ALL, X, strict=True), 2 * X + 8)
    for state, missing, unexpected in (
        ({"l1.weight": WEIGHT}, ["buffer", "l1.bias"], []),
        (ALL | {"extra": BIAS}, [], ["extra"]),
        ({"l1.weight": WEIGHT, "extra": BIAS}, ["buffer", "l1.bias"], ["extra"]),
    ):
        with pytest.raises(RuntimeError) as caught:
            call(module, state, X, strict=True)
        assert f"missing key(s): {missing}, unexpected key(s): {unexpected}" in str(caught.value)


# -- ties -----------------------------------------------------------------------------------------------------------


@both
def test_a_tied_array_is_replaced_under_every_name(call, unchanged):
    module = unchanged(True)
    close(call(module, ALL, X), 2 * X + 16)
    close(call(module, ALL | {"extra": BIAS}, X), 2 * X + 16)
    close(call(module, {"tied_bias": BIAS}, X), X * module.l1.weight + 12)
    close(call(module, ALL | {"tied_bias": BIAS, "tied_buffer": BUFFER}, X), 2 * X + 16)  # the same array twice


@both
@pytest.mark.parametrize("name, other", [("tied_bias", "l1.bias"), ("tied_buffer", "buffer")])
def test_two_arrays_for_one_tied_box_are_refused_unless_ties_are_given_up(call, name, other, unchanged):
    module, state = unchanged(True), ALL | {name: jnp.asarray([1.0])}
    with pytest.raises(ValueError, match=f"{name} and {other} are tied"):
        call(module, state, X)
    rest = {"tied_bias", "tied_buffer"} - {name}
    expected = 2 * X + 5 + 3 + 1 + (module.tied_buffer if rest == {"tied_buffer"} else module.tied_bias)
    close(call(module, state, X, tie_weights=False), expected)


@both
def test_strict_counts_a_tied_box_as_given_under_any_of_its_names(call, unchanged):
    module = unchanged(True)
    close(call(module, ALL, X, strict=True), 2 * X + 16)
    for state, tie_weights, missing in (
        (ALL, False, ["tied_bias", "tied_buffer"]),
        ({"l1.weight": WEIGHT, "buffer": BUFFER}, True, ["l1.bias", "tied_bias"]),
    ):
        with pytest.raises(RuntimeError) as caught:
            call(module, state | {"extra": BIAS}, X, strict=True, tie_weights=tie_weights)
        assert f"missing key(s): {missing}, unexpected key(s): ['extra']" in str(caught.value)


@both
def test_names_may_run_through_a_cycle(call):
    module = Mock()
    module.l1.m = module
    state = {"l1.m.l1.weight": WEIGHT, "l1.bias": BIAS, "l1.m.buffer": BUFFER}
    close(call(module, state, X, tie_weights=False), 2 * X + 8)
    assert float(module.buffer[0]) == 1


# -- gradients and changes ------------------------------------------------------------------------------------------


@both
def test_gradients_are_those_of_the_arrays_that_were_given(call, unchanged):
    module = unchanged()
    grads = jax.grad(lambda state: call(module, state, X).sum())(ALL)
    close(grads["l1.weight"], X), close(grads["l1.bias"], [1.0]), close(grads["buffer"], [1.0])


@both
def test_changes_in_the_call_reach_neither_module_nor_dict(call):
    # torch: the dict gets the new buffer, and an empty dict updates the module's own.
    model, x = nn.BatchNorm1d(10), jnp.full((20, 10), 128.0)
    state = {"running_mean": jnp.zeros(10)}
    for given in (state, {}):
        with pytest.warns(
            UserWarning, match=r"functional_call: running_mean, running_var, num_batches_tracked: .*dropped"
        ):
            call(model, given, x)
    assert not np.any(model.running_mean) and not np.any(state["running_mean"]) and int(model.num_batches_tracked) == 0

    class Returns(nn.Module):  # what changed comes out where the module returns it
        def __init__(self):
            super().__init__()
            self.table = nn.Buffer(jnp.zeros(1))

        def forward(self, x):
            self.table = self.table + 1
            return x + self.table, self.table

    module, state = Returns(), {"table": jnp.asarray([2.0])}
    out, table = call(module, state, jnp.ones(1))
    assert float(out[0]) == 4 and float(table[0]) == 3 and float(state["table"][0]) == 2 and float(module.table[0]) == 0


def test_the_module_lists_what_it_was_given_during_the_call():
    class Lists(Mock):
        def forward(self, x):
            return [box.value for box in self.parameters()], [box.value for box in self.buffers()]

    module, extra = Lists(), nn.Parameter(jnp.ones(1))
    for state, expected in (
        (ALL, ([WEIGHT, BIAS], [BUFFER])),
        ({"l1.weight": WEIGHT}, ([WEIGHT, module.l1.bias], [module.buffer])),
        (ALL | {"l1.extra": jnp.ones(1)}, ([WEIGHT, BIAS], [BUFFER])),
        (ALL | {"l1.extra": extra}, ([WEIGHT, BIAS, extra.value], [BUFFER])),
        ({"l1.weight": WEIGHT, "l1.bias": None}, ([WEIGHT], [module.buffer])),
    ):
        given = nn.functional_call(module, state, X)
        for arrays, wanted in zip(given, expected):
            assert len(arrays) == len(wanted) and all(a is b for a, b in zip(arrays, wanted))


@pytest.mark.parametrize("transform", [jax.jit, nn.jit, jax.vmap, nn.vmap])
def test_functional_call_inside_transforms(transform, unchanged):
    module = unchanged(True)
    stacked = {name: jnp.stack([value, value + 1]) for name, value in ALL.items()}
    call = lambda state: nn.functional_call(module, state, X)  # noqa: E731
    expected = jnp.stack([2 * X + 16, 3 * X + 20])
    close(transform(call)(stacked) if "vmap" in transform.__name__ else transform(jax.vmap(call))(stacked), expected)
