"""What nn.tensor and the draws refuse, as torch does."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

OURS = SimpleNamespace(multinomial=nn.multinomial, bernoulli=nn.bernoulli, index_add=nn.tensor.index_add)
X = np.ones((4, 4), np.float32)
PAIRS = {
    "weights below 0": (
        lambda t, a: t.multinomial(a(-X), 1),
        "multinomial: x: expected finite weights from 0 up, got -1.0",
    ),
    "weights that are NaN": (lambda t, a: t.multinomial(a(X * np.nan), 1), "multinomial: x: .*nan"),
    "probabilities above 1": (
        lambda t, a: t.bernoulli(a(3 * X)),
        "bernoulli: x: expected numbers from 0 to 1, got 3.0",
    ),
    "a probability above 1": (
        lambda t, a: t.bernoulli(a(X), 2.0),
        "bernoulli: p: expected numbers from 0 to 1, got 2.0",
    ),
    "slices of another size": (
        lambda t, a: t.index_add(a(X), 0, a(np.array([0])), a(X[:2])),
        r"index_add: source: expected shape \(1, 4\)",
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_refused(case):
    call, text = PAIRS[case]
    with pytest.raises(RuntimeError, match=text):
        call(OURS, jnp.asarray)


@pytest.mark.parametrize("case", PAIRS)
def test_torch_refuses_it_too(case):
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError):
        PAIRS[case][0](torch, torch.as_tensor)
