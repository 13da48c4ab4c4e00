"""nn.utils.parametrize: the behaviours that torch's test/nn/test_parametrization.py checks, and those of JAX."""

import copy
import gc
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.utils.parametrize as P
from tests.utils.conftest import assert_same_state, close, read, traces_of

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
def test_removal_gives_the_same_box_and_class_back(leave, way):
    layer = nn.Linear(4, 4)
    box, before = layer._parameters["weight"], layer.weight
    P.register_parametrization(layer, "weight", Skew())
    P.register_parametrization(layer, "weight", Cayley())
    value = read(way, layer)
    close(value.T @ value, np.eye(4))
    assert "weight" not in layer._parameters and type(layer) is not nn.Linear
    P.remove_parametrizations(layer, "weight", leave_parametrized=leave)
    assert type(layer) is nn.Linear and not hasattr(layer, "parametrizations")
    assert layer._parameters["weight"] is box
    close(read(way, layer), value if leave else before)


def test_removing_one_of_two_leaves_the_other(way):
    layer = nn.Linear(4, 4)
    for name, kinds in {"weight": (Skew, Cayley), "bias": (FirstZero, LastZero)}.items():
        for kind in kinds:
            P.register_parametrization(layer, name, kind())
    assert len(list(layer.parameters())) == 2
    P.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert P.is_parametrized(layer) and P.is_parametrized(layer, "bias") and not P.is_parametrized(layer, "weight")
    bias = read(way, layer, "bias")
    assert float(bias[0]) == float(bias[-1]) == 0 and np.any(bias)
    P.remove_parametrizations(layer, "bias", leave_parametrized=False)
    assert type(layer) is nn.Linear and float(read(way, layer, "bias")[0]) != 0


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


def test_plain_jax_grad_and_functional_call_reach_the_original(way):
    layer = doubled()
    grads = way(jax.grad(lambda layer: layer(X).sum()))(layer)
    original = np.asarray(grads.parametrizations.weight.original)
    np.testing.assert_allclose(original, np.tile(2 * np.asarray(X).sum(0), (4, 1)), rtol=1e-6)
    out = way(lambda layer, state: nn.functional_call(layer, state, (X,)))(
        layer, {"parametrizations.weight.original": jnp.eye(4)}
    )
    close(out, 2 * X + layer.bias)


def test_assigning_goes_through_right_inverse(way):
    def assign(layer, value):
        layer.weight = value
        return layer  # which plain jax.jit needs to bring the change out

    layer = way(assign)(doubled(), jnp.eye(4))
    close(layer.parametrizations.weight.original, np.eye(4) / 2, 0)
    other = nn.Linear(4, 4)
    layer.weight = other.weight  # another module's array: its value
    close(layer.weight, other.weight, 0)
    assert "weight" not in layer._parameters


def test_registering_inside_a_function_comes_back_out(way):
    def register(layer):
        P.register_parametrization(layer, "bias", Double())
        return layer, layer.bias

    def unregister(layer):
        P.remove_parametrizations(layer, "bias")
        return layer

    layer = nn.Linear(4, 4)
    box, bias = layer._parameters["bias"], layer.bias
    layer, same = way(register)(layer)
    close(same, bias)
    assert P.is_parametrized(layer, "bias")
    if way is not jax.jit:
        assert layer.parametrizations.bias.originals()["original"] is box
    layer = way(unregister)(layer)
    assert type(layer) is nn.Linear
    close(layer.bias, bias)


def test_nested_parametrization(way):
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Skew())
    inner = layer.parametrizations.weight
    P.register_parametrization(inner, "original", Skew())
    assert P.is_parametrized(inner, "original") and "original" not in inner._parameters
    close(inner.original, -inner.original.T, 0)
    close(read(way, layer), Skew()(inner.original))
    P.remove_parametrizations(inner, "original", leave_parametrized=False)
    assert type(inner) is P.ParametrizationList
    P.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert type(layer) is nn.Linear


def test_nested_assignment_reaches_the_inner_original(way):
    layer = P.register_parametrization(nn.Linear(4, 4), "weight", Double())
    P.register_parametrization(layer.parametrizations.weight, "original", Double())

    def assign(layer):
        layer.weight = jnp.eye(4)
        return layer

    layer = way(assign)(layer)
    close(read(way, layer), np.eye(4), 0)
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


def test_state_dict_round_trip(tmp_path, way):
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
    call = way(lambda model, x: model(x))
    close(call(other, X), call(model, X), 0)
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
    gc.collect()  # warns here, not in a later test


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
