"""What jaxnn._compat needs of the installed JAX; says which name moved when an upgrade breaks it."""

import functools
import os
import subprocess
import sys

import jax
import jax.extend.core
import jax.numpy as jnp
import pytest

from jaxnn import _compat


def _inside(transform, *args):
    seen = {}

    def probe(x):
        trace = _compat.current_trace()
        seen.update(top=_compat.at_top_level(), jit=_compat.under_jit(), own=_compat.is_within(trace, trace))
        seen.update(holds=_compat.may_hold(trace, x), leaks=not _compat.may_hold(None, x))
        return x.sum()

    transform(probe)(*args)
    return seen


def test_the_public_primitive():
    assert _compat.Primitive is jax.extend.core.Primitive


def test_top_level():
    assert _compat.at_top_level() and not _compat.under_jit() and _compat.may_hold(None, jnp.ones(1))


def test_inside_transforms():
    x = jnp.ones((2, 3))
    for transform, jit in (
        (jax.jit, True),
        (jax.grad, False),
        (jax.vmap, False),
        (lambda f: jax.jit(jax.grad(f)), True),
    ):
        assert _inside(transform, x) == dict(top=False, jit=jit, own=True, holds=True, leaks=True)


def test_a_nested_trace_may_hold_the_outer_ones_tracers_and_not_the_reverse():
    def outer(x):
        home = _compat.current_trace()

        def inner(y):
            assert _compat.may_hold(_compat.current_trace(), x)
            assert not _compat.may_hold(home, y)
            return (x * y).sum()

        return jax.grad(inner)(x).sum()

    jax.jit(outer)(jnp.ones(2))


def test_tracers_are_recognised():
    jax.jit(lambda x: [x, isinstance(x, _compat.Tracer) or 1 / 0][0])(jnp.ones(1))


_CONVOLUTIONS = """
import jax, jax.numpy as jnp, numpy as np
from jaxnn.functional import _convolution_onednn as onednn
from jaxnn.functional._convolution_forms import direct
from jaxnn.functional._convolution_geometry import Geometry
rng = np.random.default_rng(0)
for image, kernel, *options in [
    ((2, 4, 9, 11), (8, 4, 3, 2), (2, 1), ((1, 0), (2, 1)), (1, 2), 1),
    ((2, 8, 9, 11), (16, 2, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 4),
    ((2, 8, 9, 11), (8, 1, 3, 3), (1, 2), ((1, 1), (1, 1)), (1, 1), 8),
    ((3, 4, 20), (6, 4, 5), (1,), ((2, 2),), (3,), 1),
    ((2, 4, 5, 6, 7), (8, 4, 3, 3, 3), (1, 2, 1), ((1, 1),) * 3, (1, 1, 1), 1),
]:
    x, w = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in (image, kernel))
    geometry = Geometry(*options, jax.lax.Precision.HIGHEST)
    np.testing.assert_allclose(onednn.forward(x, w, geometry), direct(x, w, geometry), rtol=1e-5, atol=1e-5)
from jaxnn.functional._dot import by_onednn
for left, right, turned in [((24, 40), (40, 16), (False, False)), ((40, 24), (16, 40), (True, True)),
                            ((3, 24, 40), (3, 16, 40), (False, True)), ((3, 40, 24), (3, 40, 16), (True, False))]:
    a, b = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in (left, right))
    sides = [x.swapaxes(-1, -2) if turn else x for x, turn in zip((a, b), turned)]
    product = jnp.matmul(*sides, precision="highest")
    np.testing.assert_allclose(by_onednn(a, b, *turned), product, rtol=1e-5, atol=1e-5)
print("as expected")
"""


def test_xla_runs_onednn_in_the_format_that_we_write():
    # In a process of its own: what oneDNN does not understand ends it.
    if not _compat.has_onednn():
        pytest.skip("this jaxlib does not run oneDNN, or it is switched off")
    ran = subprocess.run([sys.executable, "-c", _CONVOLUTIONS], capture_output=True, text=True, timeout=300)
    told = "XLA's format of oneDNN calls has changed: take this version out of _compat._ONEDNN_TRIED"
    assert ran.stdout.strip() == "as expected", f"{told}\n{ran.stderr[-2000:]}"


_WARNINGS = """
import jax, jax.numpy as jnp, jaxnn as nn, sys
from jaxnn.core import compiling
def run(x): return jnp.cumsum(jnp.sin(x @ x), 0) @ x
x = jnp.ones((2000, 2000))  # 16 MB: more than a piece
nn.jit(run)(x)
print("ours", file=sys.stderr)
jax.jit(run, compiler_options=compiling._known("cpu", in_pieces=True))(x)
"""


def test_no_warnings_of_large_results_from_nn_jit_and_xlas_own_afterwards():
    run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=300)
    before, _, after = run([sys.executable, "-c", _WARNINGS]).stderr.partition("ours")
    assert "per-heap size limit" not in before and "per-heap size limit" in after, before + after
    shown = run([sys.executable, "-c", _WARNINGS], env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}).stderr
    assert "per-heap size limit" in shown.partition("ours")[0]  # who asks for more than the default gets all


def test_onednn_is_off_where_the_environment_says_so():
    code = "from jaxnn import _compat; print(_compat.has_onednn())"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAXNN_ONEDNN": "0"},
    )
    assert ran.stdout.strip() == "False", ran.stderr[-2000:]
