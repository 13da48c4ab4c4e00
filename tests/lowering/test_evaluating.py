"""A program evaluated operation by operation: derivatives are those of the operations, not of the formulas inside them."""

import jax
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.lowering.evaluating import Evaluation

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
X[1] = 0  # where the root in a norm has no derivative
FUNCTIONS = {
    "normalize": F.normalize,
    "cosine": lambda x: F.cosine_similarity(x, x[::-1]),
    "distance": lambda x: F.pairwise_distance(x, 0 * x, eps=0.0),
    "relu at 0": F.relu,
    "log_softmax": lambda x: F.log_softmax(x[:, None], -1),
    "a rule for cotangents": lambda x: nn.CrossMapLRN2d(2)(x.reshape(1, 4, 3, 2)),
    "a pooling": lambda x: F.max_pool1d(x, 2),
    "inside a scan": lambda x: jax.lax.scan(lambda _, row: (None, F.normalize(row, dim=0)), None, x)[1],
    "inside jit": lambda x: jax.jit(F.normalize)(x),
}


@pytest.mark.parametrize("platform", ["", "tpu"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_the_operations_own(name, platform):
    function = FUNCTIONS[name]
    evaluated = Evaluation(platform, {}, lambda equation: False, "the test")(function)

    @jax.jit
    def found(x):
        results = []
        for f in (function, evaluated):
            value, back = jax.vjp(f, x)
            moved = [] if name == "a rule for cotangents" else [jax.jvp(f, (x,), (x[::-1],))[1]]
            results.append([value, back(value)[0], *moved])
        return list(zip(*results))

    for want, got in found(X):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_without_derivatives_basic_operations_are_left():
    for derivatives in (True, False):
        evaluated = Evaluation("", {}, lambda equation: False, "the test", derivatives)(F.normalize)
        assert ("custom_jvp" in str(jax.make_jaxpr(evaluated)(X))) == derivatives
