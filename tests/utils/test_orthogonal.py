"""nn.utils.parametrizations.orthogonal: its three maps, against torch with the same seeds."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
import jaxnn.utils.parametrizations as parametrizations
import jaxnn.utils.parametrize as P
from tests.utils.conftest import WAYS, assert_same_state, close

MAPS = ("matrix_exp", "cayley", "householder")
SHAPES = {"square": (4, 4), "tall": (5, 3), "wide": (3, 5), "batch": (2, 5, 3)}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def is_orthogonal(Q):
    Q = np.asarray(Q)
    Q = np.swapaxes(Q, -1, -2) if Q.shape[-2] < Q.shape[-1] else Q
    return np.allclose(np.swapaxes(Q.conj(), -1, -2) @ Q, np.eye(Q.shape[-1]), atol=1e-5)


class Weight(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(value)


def torch_weight(value):
    import torch

    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.from_numpy(np.array(value)))
    return module


def orthogonal_pair(value, seed=0, **options):
    import torch

    torch.manual_seed(seed)
    theirs = torch.nn.utils.parametrizations.orthogonal(torch_weight(value), **options)
    nn.manual_seed(seed)
    return theirs, parametrizations.orthogonal(Weight(value), **options)


@pytest.mark.parametrize(
    "shape, name, trivialization, way",
    [
        (shape, name, trivialization, way)
        for name in MAPS
        for shape, trivialization, way in (
            ("square", True, "nn.jit"),
            ("tall", False, "eager"),
            ("wide", True, "jax.jit"),
            ("batch", False, "nn.jit"),
        )
    ],
)
def test_orthogonal_is_torchs(shape, name, trivialization, way):
    way = WAYS[way]
    torch = pytest.importorskip("torch")
    value = numbers(*SHAPES[shape])
    theirs, ours = orthogonal_pair(value, orthogonal_map=name, use_trivialization=trivialization)
    assert_same_state(theirs, ours, 2e-6)
    assert is_orthogonal(ours.weight)
    # Away from the start, where the maps differ:
    original = theirs.parametrizations.weight.original.detach().numpy().copy()
    steps = np.tril(numbers(*original.shape, seed=1), -1) if original.shape[-2] >= original.shape[-1] else None
    steps = np.triu(numbers(*original.shape, seed=1), 1) if steps is None else steps
    theirs.parametrizations.weight.original.data += torch.from_numpy(steps)
    ours.parametrizations.weight.original = ours.parametrizations.weight.original + steps
    cotangent = numbers(*original.shape, seed=2)
    (theirs.weight * torch.from_numpy(cotangent)).sum().backward()

    def loss(m):
        weight = m.weight
        return (weight * cotangent).sum(), weight

    grads, weight = way(lambda m: nn.grad(loss, has_aux=True)(m))(ours)
    close(weight, theirs.weight, 2e-6)
    close(grads["parametrizations.weight.original"], theirs.parametrizations.weight.original.grad, 2e-5)


@pytest.mark.parametrize("shape, trivialization", [("square", False), ("tall", False), ("wide", True), ("batch", True)])
@pytest.mark.parametrize("name", ["matrix_exp", "cayley"])
def test_unitary_is_torchs(shape, name, trivialization):
    pytest.importorskip("torch")
    value = (numbers(*SHAPES[shape]) + 1j * numbers(*SHAPES[shape], seed=1)).astype(np.complex64)
    theirs, ours = orthogonal_pair(value, orthogonal_map=name, use_trivialization=trivialization)
    assert_same_state(theirs, ours, 4e-6)
    assert is_orthogonal(ours.weight)
    close(ours.weight, theirs.weight, 4e-6)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_assignment(shape, name):
    layer = parametrizations.orthogonal(Weight(numbers(*SHAPES[shape])), orthogonal_map=name)
    value = numbers(*SHAPES[shape], seed=3)
    tall = np.swapaxes(value, -1, -2) if value.shape[-2] < value.shape[-1] else value
    Q, R = np.linalg.qr(tall)
    Q = Q * np.sign(np.diagonal(R, axis1=-2, axis2=-1))[..., None, :]
    Q = np.swapaxes(Q, -1, -2) if value.shape[-2] < value.shape[-1] else Q
    for given in (Q, value):  # an orthogonal matrix stays itself, another becomes the Q of its decomposition
        layer.weight = jnp.asarray(given)
        close(layer.weight, Q, 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_householder_assignment_without_trivialization(shape):
    layer = parametrizations.orthogonal(
        Weight(numbers(*SHAPES[shape])), orthogonal_map="householder", use_trivialization=False
    )
    Q = parametrizations.orthogonal(Weight(numbers(*SHAPES[shape], seed=4))).weight
    layer.weight = Q
    close(layer.weight, Q, 1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_orthogonal_in_low_precision_and_far_from_zero(name):
    layer = parametrizations.orthogonal(nn.Linear(4, 4).bfloat16(), orthogonal_map=name)
    assert layer.weight.dtype == jnp.bfloat16
    layer = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map=name)
    layer.parametrizations.weight.original = -jnp.eye(4) + jnp.tril(jnp.full((4, 4), 1e4), -1)
    assert np.allclose(layer.weight.T @ layer.weight, np.eye(4), atol=1e-2)


@pytest.mark.parametrize("name", ["matrix_exp", "cayley"])
def test_no_assignment_without_trivialization(name):
    layer = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map=name, use_trivialization=False)
    with pytest.raises(NotImplementedError, match="assign to the matrix exponential or the Cayley"):
        layer.weight = jnp.eye(4)


def test_orthogonal_errors():
    layer = nn.Linear(3, 4)
    with pytest.raises(ValueError, match="orthogonal_map.*one of"):
        parametrizations.orthogonal(layer, "weight", "foo")
    with pytest.raises(ValueError, match="expected a matrix"):
        parametrizations.orthogonal(layer, "bias")
    with pytest.raises(ValueError, match="complex"):
        parametrizations.orthogonal(Weight(jnp.ones((2, 2), jnp.complex64)), orthogonal_map="householder")
    parametrizations.orthogonal(layer)
    with pytest.raises(ValueError, match="of shape"):
        layer.weight = jnp.ones((5, 5))
    assert type(P.remove_parametrizations(layer, "weight")) is nn.Linear


@pytest.mark.parametrize("shape, name", [((4, 4), "matrix_exp"), ((5, 3), "cayley"), ((3, 5), "householder")])
def test_orthogonal_stays_so_in_training(shape, name):
    layer = parametrizations.orthogonal(nn.Linear(*shape), orthogonal_map=name)
    optimizer = nn.optim.SGD(layer, lr=0.1)
    x = jnp.asarray(numbers(3, shape[0]))

    @nn.jit
    def step(layer, optimizer, x):
        grads = nn.grad(lambda layer: jnp.linalg.norm(layer(x)))(layer)
        optimizer.step(layer, grads)
        return grads["parametrizations.weight.original"]

    for _ in range(3):
        grad = np.asarray(step(layer, optimizer, x))
        tall = grad if grad.shape[0] >= grad.shape[1] else grad.T
        assert not np.triu(tall).any()  # neither the upper triangle nor the diagonal is trained
        assert is_orthogonal(layer.weight)


def test_orthogonal_trains_to_a_rotation():
    target = parametrizations.orthogonal(nn.Linear(5, 5, bias=False)).weight
    layer = parametrizations.orthogonal(nn.Linear(5, 5, bias=False))
    target = target if float(jnp.linalg.det(target) * jnp.linalg.det(layer.weight)) > 0 else target.at[0].multiply(-1)
    optimizer = nn.optim.Adam(layer, lr=0.05)

    @nn.jit
    def step(layer, optimizer):
        loss, grads = nn.value_and_grad(lambda layer: F.mse_loss(layer.weight, target))(layer)
        optimizer.step(layer, grads)
        return loss

    losses = [float(step(layer, optimizer)) for _ in range(150)]
    assert losses[-1] < 1e-3 < losses[0] and is_orthogonal(layer.weight)
