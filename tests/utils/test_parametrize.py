"""nn.utils.parametrize: the behaviours that torch's test/nn/test_parametrization.py checks, and those of JAX."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.utils.parametrize as P
from tests.utils.conftest import assert_same_state, close, traces_of

X = jnp.arange(12.0).reshape(3, 4) / 10


class Skew(nn.Module):
    def forward(self, X):
        X = jnp.tril(X, -1)
        return X - X.T


class Cayley(nn.Module):
    def forward(self, X):
        identity = jnp.eye(X.shape[0])
        return jnp.linalg.solve(identity + X, identity - X)


class Double(nn.Module):
    def forward(self, x):
        return 2.0 * x

    def right_inverse(self, x):
        return 0.5 * x


class FirstZero(nn.Module):
    def forward(self, x):
        return x.at[0].set(0)


class LastZero(nn.Module):
    def forward(self, x):
        return x.at[-1].set(0)


class Plus(nn.Module):
    """From two arrays."""

    def forward(self, x, y):
        return x + y

    def right_inverse(self, z):
        return z, jnp.zeros_like(z)


class RankOne(nn.Module):
    def forward(self, x, y):
        return x[:, None] * y

    def right_inverse(self, Y):
        U, S, Vh = jnp.linalg.svd(Y, full_matrices=False)
        return U[:, 0] * jnp.sqrt(S[0]), Vh[0] * jnp.sqrt(S[0])


def doubled(names=("weight",), seed=0):
    nn.manual_seed(seed)
    layer = nn.Linear(4, 4)
    for name in names:
        P.register_parametrization(layer, name, Double())
    return layer


def test_forward_uses_the_computed_weight(way):
    nn.manual_seed(0)
    layer = nn.Linear(4, 4)
    weight, bias = layer.weight, layer.bias
    P.register_parametrization(layer, "weight", Skew())
    out = way(lambda layer, x: layer(x))(layer, X)
    close(out, X @ np.asarray(Skew()(weight)).T + bias)


def test_attribute_reads_as_a_plain_array(way):
    layer = doubled()
    read = way(lambda layer: layer.weight)(layer)
    assert type(read) is type(jnp.zeros(1))
    close(read, 2 * layer.parametrizations.weight.original)


def test_state_dict_and_order_are_torchs(twins):
    def make(nn, utils):
        class Half(nn.Module):
            def forward(self, x):
                return 2.0 * x

            def right_inverse(self, x):
                return 0.5 * x

        layer = nn.Conv2d(3, 4, 2)
        utils.parametrize.register_parametrization(layer, "bias", Half())
        return utils.parametrize.register_parametrization(layer, "weight", Half())

    theirs, ours = twins(make)
    assert_same_state(theirs, ours)
    assert repr(ours) == repr(theirs)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]


@pytest.mark.parametrize("leave", [False, True])
def test_removal_gives_the_same_box_and_class_back(leave):
    layer = nn.Linear(4, 4)
    box, before = layer._parameters["weight"], layer.weight
    P.register_parametrization(layer, "weight", Skew())
    P.register_parametrization(layer, "weight", Cayley())
    value = layer.weight
    close(value.T @ value, np.eye(4))
    assert "weight" not in layer._parameters and type(layer) is not nn.Linear
    P.remove_parametrizations(layer, "weight", leave_parametrized=leave)
    assert type(layer) is nn.Linear and not hasattr(layer, "parametrizations")
    assert layer._parameters["weight"] is box
    close(layer.weight, value if leave else before, 0)


def test_removing_one_of_two_leaves_the_other():
    layer = nn.Linear(4, 4)
    for name, kinds in {"weight": (Skew, Cayley), "bias": (FirstZero, LastZero)}.items():
        for kind in kinds:
            P.register_parametrization(layer, name, kind())
    assert len(list(layer.parameters())) == 2
    P.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert P.is_parametrized(layer) and P.is_parametrized(layer, "bias") and not P.is_parametrized(layer, "weight")
    assert float(layer.bias[0]) == float(layer.bias[-1]) == 0
    P.remove_parametrizations(layer, "bias", leave_parametrized=False)
    assert type(layer) is nn.Linear and float(layer.bias[0]) != 0


def test_optimizers_made_before_and_after_train_the_originals(way):
    layer = nn.Linear(4, 4)
    early = nn.optim.SGD(layer, lr=0.1)
    P.register_parametrization(layer, "weight", Skew())
    late = nn.optim.SGD(layer, lr=0.1)

    def gradients(layer, x):
        return nn.grad(lambda layer: (layer(x) ** 2).sum())(layer)

    for optimizer in (early, late):
        before = layer.parametrizations.weight.original
        grads = way(gradients)(layer, X)
        assert set(grads) == {"bias", "parametrizations.weight.original"}
        assert not jnp.triu(grads["parametrizations.weight.original"]).any()
        optimizer.step(layer, grads)
        assert not np.array_equal(before, layer.parametrizations.weight.original)
        close(layer.weight, -layer.weight.T, 0)


def test_gradients_equal_torchs(twins, way):
    torch = pytest.importorskip("torch")

    def make(nn, utils):
        class Square(nn.Module):
            def forward(self, x):
                return x * x * 0.5

        return utils.parametrize.register_parametrization(nn.Linear(4, 4), "weight", Square())

    theirs, ours = twins(make)
    theirs(torch.from_numpy(np.array(X))).sum().backward()
    grads = way(lambda layer, x: nn.grad(lambda layer: layer(x).sum())(layer))(ours, X)
    for name, parameter in theirs.named_parameters():
        close(grads[name], parameter.grad)


@pytest.mark.parametrize("jit", [nn.jit, jax.jit])
def test_two_modules_compile_once(jit):
    call, count = traces_of(lambda layer, x: layer(x))
    compiled = jit(call)
    for seed in range(3):
        layer = doubled(seed=seed)
        close(compiled(layer, X), layer(X))
    layer.weight = jnp.eye(4)
    close(compiled(layer, X), X + layer.bias)
    assert count.value == 1
    assert type(doubled()) is type(layer) is type(copy.deepcopy(layer))


@pytest.mark.parametrize("names", [("weight", "bias"), ("bias", "weight")])
def test_class_is_one_for_a_set_of_names(names):
    assert type(doubled(names)) is type(doubled(("weight", "bias")))
    assert type(doubled(names)).__name__ == "ParametrizedLinear"


def test_module_is_a_pytree():
    layer = doubled(("weight", "bias"))
    twice = jax.tree.map(lambda x: 2 * x, layer)
    close(twice.weight, 2 * layer.weight)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), doubled(seed=1), doubled(seed=2))
    out = jax.vmap(lambda layer: layer(X))(stacked)
    close(out[1], doubled(seed=2)(X))
    assert {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(layer)} == {
        ".parametrizations.weight.original",
        ".parametrizations.bias.original",
    }


def test_plain_jax_grad_and_functional_call_reach_the_original():
    layer = doubled()
    grads = jax.grad(lambda layer: layer(X).sum())(layer)
    original = np.asarray(grads.parametrizations.weight.original)
    np.testing.assert_allclose(original, np.tile(2 * np.asarray(X).sum(0), (4, 1)), rtol=1e-6)
    out = nn.functional_call(layer, {"parametrizations.weight.original": jnp.eye(4)}, (X,))
    close(out, 2 * X + layer.bias)


@pytest.mark.parametrize("jit", [nn.jit, lambda function: function])
def test_assigning_goes_through_right_inverse(jit):
    layer = doubled()

    def assign(layer, value):
        layer.weight = value

    jit(assign)(layer, jnp.eye(4))
    close(layer.parametrizations.weight.original, np.eye(4) / 2, 0)
    other = nn.Linear(4, 4)
    layer.weight = other.weight  # another module's array: its value
    close(layer.weight, other.weight, 0)
    assert "weight" not in layer._parameters


def test_registering_inside_jit_comes_back_out():
    layer = nn.Linear(4, 4)
    box, bias = layer._parameters["bias"], layer.bias

    @nn.jit
    def register(layer):
        P.register_parametrization(layer, "bias", Double())
        return layer.bias

    close(register(layer), bias)
    assert P.is_parametrized(layer, "bias") and layer.parametrizations.bias.originals()["original"] is box

    @nn.jit
    def unregister(layer):
        P.remove_parametrizations(layer, "bias")

    unregister(layer)
    assert type(layer) is nn.Linear
    close(layer.bias, bias)


def test_nested_parametrization():
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Skew())
    inner = layer.parametrizations.weight
    P.register_parametrization(inner, "original", Skew())
    assert P.is_parametrized(inner, "original") and "original" not in inner._parameters
    close(inner.original, -inner.original.T, 0)
    close(nn.jit(lambda layer: layer.weight)(layer), Skew()(inner.original))
    P.remove_parametrizations(inner, "original", leave_parametrized=False)
    assert type(inner) is P.ParametrizationList
    P.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert type(layer) is nn.Linear


def test_nested_assignment_reaches_the_inner_original():
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Double())
    P.register_parametrization(layer.parametrizations.weight, "original", Double())
    layer.weight = jnp.eye(4)
    close(layer.weight, np.eye(4), 0)
    close(layer.parametrizations.weight.parametrizations.original.original, np.eye(4) / 4, 0)


def test_buffers_are_parametrized_and_stay_buffers(way):
    layer = nn.Linear(4, 4)
    del layer.bias
    layer.bias = nn.Buffer(jnp.ones(4))
    P.register_parametrization(layer, "bias", FirstZero())
    P.register_parametrization(layer, "bias", LastZero())
    close(way(lambda layer: layer.bias)(layer), [0, 1, 1, 0], 0)
    assert len(list(layer.parameters())) == 1
    P.remove_parametrizations(layer, "bias", leave_parametrized=True)
    assert "bias" in layer._buffers and not P.is_parametrized(layer)
    close(layer.bias, [0, 1, 1, 0], 0)


def test_state_dict_round_trip(tmp_path):
    class Rotated(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.id = nn.Buffer(jnp.eye(n))
            self.B = nn.Buffer(jnp.zeros((n, n)))
            nn.init.orthogonal_(self.B)

        def forward(self, X):
            A = jnp.triu(X, 1)
            A = A - A.T
            return self.B @ jnp.linalg.solve(self.id + A, self.id - A)

    def build():
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
        P.register_parametrization(model[0], "weight", Rotated(4))
        return model

    model, other = build(), build()
    nn.save(model.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(nn.load(tmp_path / "model.safetensors"))
    close(other[0].weight, model[0].weight, 0)
    close(other(X), model(X), 0)
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(model)


@pytest.mark.filterwarnings("ignore:.*changed inside a jax transformation")
@pytest.mark.parametrize("reads", [1, 3])
def test_parametrization_with_state_of_its_own(reads, way):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = nn.Buffer(jnp.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return x * self.calls

    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Counting())
    layer.parametrizations.weight[0].calls = jnp.zeros(())

    def read(layer):
        return [layer.weight for _ in range(reads)][-1]

    close(way(read)(layer), reads * layer.parametrizations.weight.original)
    # Plain jax.jit works on a copy, and warns once.
    assert float(layer.parametrizations.weight[0].calls) == (0 if way is jax.jit else reads)


def test_right_inverse_at_registration_and_assignment():
    class Strict(nn.Module):
        def forward(self, X):
            A = jnp.triu(X, 1)
            return A - A.T

        def right_inverse(self, X):
            if not np.allclose(X, -X.T, atol=1e-6):
                raise ValueError("The matrix is not skew-symmetric.")
            return jnp.triu(X, 1)

    class Based(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.B = nn.Buffer(jnp.eye(n))

        def forward(self, X):
            return self.B @ jnp.linalg.solve(jnp.eye(4) + X, jnp.eye(4) - X)

        def right_inverse(self, X):
            self.B = X
            return jnp.zeros_like(X)

    layer = nn.Linear(4, 4)
    layer.weight = Strict()(layer.weight)
    P.register_parametrization(layer, "weight", Strict())
    with pytest.raises(ValueError, match="skew"):
        layer.weight = jnp.ones((4, 4))
    skew = Strict()(jnp.arange(16.0).reshape(4, 4))
    layer.weight = skew
    close(layer.parametrizations.weight.original, np.triu(skew, 1), 0)
    P.register_parametrization(layer, "weight", Based(4))
    orthogonal = jnp.linalg.qr(jnp.arange(16.0).reshape(4, 4) + jnp.eye(4))[0]
    layer.weight = orthogonal
    close(layer.weight, orthogonal)
    close(layer.parametrizations.weight.original, np.zeros((4, 4)), 0)


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


@pytest.mark.parametrize("case", WRONG_FIRST)
def test_a_wrong_first_parametrization_changes_nothing(case):
    error, forward, inverse = WRONG_FIRST[case]
    layer = nn.Linear(3, 4)
    box, before = layer._parameters["weight"], layer.weight
    with pytest.raises(error):
        P.register_parametrization(layer, "weight", _kind(forward, **({"right_inverse": inverse} if inverse else {})))
    assert not P.is_parametrized(layer) and type(layer) is nn.Linear
    assert layer._parameters["weight"] is box and layer.weight is before


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
def test_a_wrong_next_parametrization_is_not_added(case):
    forward, inverse = WRONG_NEXT[case]
    layer = P.register_parametrization(nn.Linear(3, 4), "weight", nn.Identity())
    with pytest.raises(ValueError):
        P.register_parametrization(layer, "weight", _kind(forward, **({"right_inverse": inverse} if inverse else {})))
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


def test_assignment_without_right_inverse_raises():
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Skew())
    with pytest.raises(RuntimeError, match="right_inverse"):
        layer.weight = jnp.eye(4)


def test_assigned_arrays_are_checked():
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Plus())
    layer.parametrizations.weight[0].__class__ = type(
        "Bad", (Plus,), {"right_inverse": lambda self, z: (z, z.astype(jnp.bfloat16))}
    )
    before = layer.parametrizations.weight.original0
    with pytest.raises(ValueError, match="original1.*dtype"):
        layer.weight = jnp.eye(4)
    assert layer.parametrizations.weight.original0 is before


def test_a_parameter_cannot_take_the_place_of_a_parametrized_attribute():
    layer = doubled()
    with pytest.raises(KeyError, match="already exists"):
        layer.weight = nn.Parameter(jnp.eye(4))
    with pytest.raises(AttributeError):
        del layer.weight


def test_errors_inside_a_parametrization_are_not_hidden():
    class Broken(nn.Module):
        def forward(self, x):
            return x if self.ready else self.missing

    broken = Broken()
    broken.ready = True
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", broken)
    broken.ready = False
    with pytest.raises(AttributeError, match="missing"):
        layer(X)


def test_one_array_in_a_sequence():
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
    grads = nn.grad(lambda layer: (layer.weight.T @ layer.bias).sum())(layer)
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
def test_requires_grad_is_kept(requires_grad):
    layer = nn.Linear(4, 4)
    layer._parameters["weight"].requires_grad = requires_grad
    P.register_parametrization(layer, "weight", Plus())
    originals = layer.parametrizations.weight.originals().values()
    assert [box.requires_grad for box in originals] == [requires_grad] * 2
    assert ("parametrizations.weight.original0" in nn.grad(lambda layer: layer(X).sum())(layer)) is requires_grad
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
def test_deepcopy(kind, names):
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
    close(model.weight, before, 0)
    shared = copy.deepcopy([model, model])
    assert shared[0] is shared[1]


@pytest.mark.parametrize("dump", [pickle.dumps, copy.copy])
def test_pickling_raises(dump):
    with pytest.raises(RuntimeError, match="state_dict"):
        dump(doubled())


def test_transfer_shares_parametrizations_and_originals():
    layer, other = nn.Linear(4, 4), nn.Linear(4, 4)
    for kind in (Double, Double):
        P.register_parametrization(layer, "weight", kind())
    P.register_parametrization(layer, "bias", Double())
    before = layer.weight
    P.transfer_parametrizations_and_params(layer, other)
    close(other.weight, before, 0)
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
def test_transfer_of_several_originals(kind):
    layer, other = nn.Linear(4, 4), nn.Linear(4, 4)
    for module in (layer, other):
        del module.weight
        module.weight = kind(jnp.arange(16.0).reshape(4, 4) + jnp.eye(4))
    P.register_parametrization(layer, "weight", RankOne())
    P.register_parametrization(layer, "weight", Double())
    P.transfer_parametrizations_and_params(layer, other)
    close(other.weight, layer.weight, 0)
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


def test_dtype_conversion_reaches_the_originals():
    layer = doubled().to(jnp.bfloat16)
    assert layer.weight.dtype == jnp.bfloat16


def test_no_list_of_modules():
    with pytest.raises(ValueError, match="modules"):
        P.ParametrizationList([], nn.Parameter(jnp.ones(2)))
