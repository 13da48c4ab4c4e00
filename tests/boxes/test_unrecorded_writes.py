"""``p.data``, and writing under ``no_grad``: numbers and gradients beside torch's."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

W = np.array([[0.5, -2.0, 1.5], [3.0, 0.25, -1.0]], np.float32)


def _by_data(p, nn):
    p.data = p.data * 2
    return (p**2).sum()


def _clamped(p, nn):
    p.data.clamp_(0, 1)
    return (p**3).sum()


def _of_a_part(p, nn):
    p.data[0] = 4.0
    return (p**2).sum()


def _without_grad(p, nn):
    with nn.no_grad():
        p.mul_(3)
    return (p**2).sum()


def _read_without_grad(p, nn):
    with nn.no_grad():
        norm = (p**2).sum()
    return (p * norm).sum()


def _times_data(p, nn):
    return (p * p.data).sum()


def _copied_by_indices(p, nn):
    rows = p.data[[1, 0]]
    rows.mul_(10)
    return (p * rows).sum()


def _a_view(p, nn):
    p.data[1].mul_(10)
    return (p**2).sum()


def _both_operands(p, nn):
    with nn.no_grad():
        product = p * p + p.mul(p) + p.addcmul(p, p, value=0.5) + p.maximum(other=p) + (1 + p) * p
    return (p * product).sum()


def _itself_in_place(p, nn):
    with nn.no_grad():
        p.mul_(p).add_(p, alpha=2)
        p[0] = p[1]
        p += p
    return (p**2).sum()


CASES = (
    _by_data, _clamped, _of_a_part, _without_grad, _read_without_grad, _times_data, _copied_by_indices, _a_view,
    _both_operands, _itself_in_place,
)  # fmt: skip


@pytest.mark.parametrize("function", CASES, ids=lambda function: function.__name__.strip("_"))
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_value_and_gradient_are_torchs(function, compiled):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Parameter(torch.tensor(W))
    expected = function(theirs, torch)
    expected.backward()

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(jnp.asarray(W))

        def forward(self):
            return function(self.get_parameter("weight"), nn)

    layer = Layer()
    step = nn.value_and_grad(lambda layer: layer())
    value, grads = (nn.jit(step) if compiled else step)(layer)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    chex.assert_trees_all_close(grads["weight"], theirs.grad.numpy(), rtol=1e-6)
    chex.assert_trees_all_close(np.asarray(layer.weight), theirs.detach().numpy(), rtol=1e-6)
