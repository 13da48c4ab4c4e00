"""What jaxnn._compat needs of the installed JAX; says which name moved when an upgrade breaks it."""

import functools
import os
import subprocess
import sys

import jax
import jax.extend.core
import jax.numpy as jnp

from jaxnn import _compat

COMPILATION = "full"  # see conftest.py


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


def test_top_level_is_what_jax_says():
    says = []

    def look(x):
        says.append((_compat.at_top_level(), _compat._trace_context.is_top_level()))
        return x

    look(1)
    for transform in (jax.jit, jax.vmap, jax.grad, jax.checkpoint, jax.linearize):
        try:
            transform(look)(jnp.ones(1)[0] if transform is jax.grad else jnp.ones(1))
        except TypeError:  # linearize takes its arguments at once
            transform(look, jnp.ones(1))
    look(1)
    assert says[0] == says[-1] == (True, True) and len(says) >= 7 and all(ours == jaxs for ours, jaxs in says)


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


def test_what_a_trace_is_of_and_what_aux_of_a_gradient_is_outside():
    def inner(x):
        assert _compat.as_outside(_compat.current_trace(), x * 2) is not None
        return (x * 3).sum(), x

    def outer(x):
        assert _compat.source_of(_compat.current_trace()).startswith("outer at ") and __file__ in _compat.source_of(
            _compat.current_trace()
        )
        assert _compat.as_outside(_compat.current_trace(), x) is None

        def seen(y):
            seen.outside = _compat.as_outside(_compat.current_trace(), y)
            return inner(y)

        (_, aux), _ = jax.value_and_grad(seen, has_aux=True)(x)
        assert aux is seen.outside and _compat.source_of(None) == ""
        return aux

    jax.jit(outer)(jnp.ones(2))
    assert _compat.as_outside(_compat.current_trace(), jnp.ones(2)) is not None


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


def test_a_class_of_the_same_name_replaces_another_in_exports():
    first, second = type("Net", (), {}), type("Net", (), {})
    for kind in (first, second):
        _compat.register_export(kind, "tests.Net", lambda _: b"", bytes, lambda *_: None)
    assert _compat._export.deserialization_registry["tests.Net"][0] is second
    _compat.register_export(first, "tests.Net", lambda _: b"", bytes, lambda *_: None)


_WARNINGS = """
import jax, jax.numpy as jnp, jaxnn as nn, sys
from jaxnn.lowering import compiling
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


def test_one_process_is_known_as_one_before_and_after_its_devices_are():
    assert (_compat.process_count(), _compat.process_index()) == (jax.process_count(), jax.process_index()) == (1, 0)
    assert _compat.coordination() is None and _compat.devices_are_known()
    program = "import jax, jaxnn._compat as c; c.process_count(); assert not c.devices_are_known()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_whether_xla_copies_bfloat16():
    """If this fails with a new JAX, the bound in _compat moves, or (with the oldest JAX) what asks for it goes."""
    x, weight = jnp.ones((16, 512), jnp.bfloat16), jnp.ones((512, 512), jnp.bfloat16)
    memory = jax.jit(lambda x, w: x @ w).lower(x, weight).compile().memory_analysis()
    assert (memory.temp_size_in_bytes > weight.nbytes) is _compat.COPIES_BFLOAT16
