"""The product behind every layer: lax.dot_general's numbers, transformations and program, whoever computes it."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxnn import _compat
from jaxnn.functional._dot import dot_general, dot_general_p

HIGHEST = lax.Precision.HIGHEST
onednn = pytest.mark.skipif(not _compat.runs_onednn(), reason="this jaxlib does not run oneDNN, or it is switched off")


def _array(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


@st.composite
def products(draw):
    """Two shapes and dimension numbers: up to two dimensions summed over, of the batch, and free, in any order."""
    sizes = st.sampled_from([1, 2, 3, 8, 33])
    summed, batch, left, right = ([draw(sizes) for _ in range(draw(st.integers(low, 2)))] for low in (0, 0, 0, 0))

    def arranged(free):
        axes = [("summed", i, n) for i, n in enumerate(summed)] + [("batch", i, n) for i, n in enumerate(batch)]
        axes += [("free", i, n) for i, n in enumerate(free)]
        axes = draw(st.permutations(axes))
        places = {(kind, i): place for place, (kind, i, _) in enumerate(axes)}
        shape = tuple(n for *_, n in axes)
        return shape, *(
            tuple(places[kind, i] for i in range(len(of))) for kind, of in (("summed", summed), ("batch", batch))
        )

    (a, a_summed, a_batch), (b, b_summed, b_batch) = arranged(left), arranged(right)
    return a, b, ((a_summed, b_summed), (a_batch, b_batch))


def _worst(results, truth):
    return max(
        float(np.abs(np.asarray(got, np.float64) - np.asarray(true)).max(initial=0))
        / max(1, float(np.abs(true).max(initial=0)))
        for got, true in zip(jax.tree.leaves(results), jax.tree.leaves(truth))
    )


def _holds(ours, xlas, *arrays):
    """At most 8 times XLA's own float32 error, float64 being the truth; a rounding of the largest number is let go."""
    with jax.enable_x64(True):
        truth = jax.tree.map(np.asarray, xlas(*(jnp.asarray(np.asarray(a), jnp.float64) for a in arrays)))
    got, theirs = ours(*arrays), xlas(*arrays)
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, theirs)
    assert _worst(got, truth) <= 8 * _worst(theirs, truth) + np.finfo(np.float32).eps


@settings(max_examples=15, deadline=None, derandomize=True)
@given(products(), st.sampled_from([(0, None), (None, -1), (0, 0), (-1, 0)]))
def test_any_product_its_gradients_and_its_vmaps(case, axes):
    a_shape, b_shape, numbers = case
    a, b = _array(0, *a_shape), _array(1, *b_shape)
    runs = [
        functools.partial(dot_general, dimension_numbers=numbers),
        lambda a, b: lax.dot_general(a, b, numbers, HIGHEST),
    ]
    _holds(*runs, a, b)

    def both(run):
        def gradients(a, b):
            y, pullback = jax.vjp(run, a, b)
            return pullback(jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

        return gradients

    _holds(*map(both, runs), a, b)
    stacked = [x if axis is None else jnp.stack([x, 2 * x, x + 1], axis) for x, axis in zip((a, b), axes)]
    _holds(*(jax.vmap(run, axes) for run in runs), *stacked)
    _holds(*(jax.vmap(both(run), axes) for run in runs), *stacked)


# Shapes that oneDNN takes: weights' gradients, and the products of attention forward and backward.
TAKEN = {
    "weight": ((256, 64), (256, 48), (((0,), (0,)), ((), ()))),
    "weight of a sequence": ((8, 64, 96), (8, 64, 40), (((0, 1), (0, 1)), ((), ()))),
    "scores": ((4, 8, 64, 32), (4, 8, 64, 32), (((3,), (3,)), ((0, 1), (0, 1)))),
    "values": ((4, 8, 64, 64), (4, 8, 64, 32), (((3,), (2,)), ((0, 1), (0, 1)))),
    "keys' gradient": ((4, 8, 64, 64), (4, 8, 64, 32), (((2,), (2,)), ((0, 1), (0, 1)))),
    "long sums": ((64, 8192), (40, 8192), (((1,), (1,)), ((), ()))),
}
LEFT = {
    "forward": ((256, 64), (48, 64), (((1,), (1,)), ((), ()))),
    "a vector": ((256, 1), (256, 48), (((0,), (0,)), ((), ()))),
    "small": ((16, 8), (16, 8), (((0,), (0,)), ((), ()))),
    "nothing": ((0, 64), (0, 48), (((0,), (0,)), ((), ()))),
}


def _program(run, *arrays, **options):
    return jax.jit(run, **options).lower(*arrays).as_text()


@onednn
@pytest.mark.parametrize("name", TAKEN)
def test_what_onednn_takes(name):
    *shapes, numbers = TAKEN[name]
    arrays = [_array(seed, *shape) for seed, shape in enumerate(shapes)]
    run = functools.partial(dot_general, dimension_numbers=numbers)
    assert "__onednn$matmul" in _program(run, *arrays)
    _holds(run, lambda a, b: lax.dot_general(a, b, numbers, HIGHEST), *arrays)
    _holds(jax.vmap(run), jax.vmap(lambda a, b: lax.dot_general(a, b, numbers, HIGHEST)), *(a[None] for a in arrays))


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_xla(name):
    *shapes, numbers = LEFT[name]
    arrays = [_array(seed, *shape) for seed, shape in enumerate(shapes)]
    run = functools.partial(dot_general, dimension_numbers=numbers)
    assert "onednn" not in _program(run, *arrays)
    _holds(run, lambda a, b: lax.dot_general(a, b, numbers, HIGHEST), *arrays)


@onednn
def test_where_onednn_is_not_called():
    *shapes, numbers = TAKEN["weight"]
    arrays = [_array(seed, *shape) for seed, shape in enumerate(shapes)]
    run = functools.partial(dot_general, dimension_numbers=numbers)
    for dtype in (jnp.bfloat16, jnp.float16, jnp.int32):
        halves = [array.astype(dtype) for array in arrays]
        assert "onednn" not in _program(run, *halves) and dot_general_p.name not in str(jax.make_jaxpr(run)(*halves))
    for platform in ("cpu", "cuda", "tpu"):
        assert "__onednn$" not in jax.export.export(jax.jit(run), platforms=[platform])(*arrays).mlir_module()
    mesh = jax.make_mesh((jax.device_count(),), ("x",))
    if jax.device_count() > 1:  # split over devices, XLA would have to split the call
        whole = NamedSharding(mesh, PartitionSpec())
        assert "onednn" not in _program(run, *arrays, in_shardings=whole)


@onednn
def test_elsewhere_the_program_is_that_of_lax():
    """Off the CPU nothing is left of the primitive: the same operations, in the same order, as with lax.dot_general."""

    def loss(run, x, w):
        return (run(x, w) ** 2).sum()

    x, w, numbers = _array(0, 4, 32, 16), _array(1, 24, 16), (((2,), (1,)), ((), ()))
    texts = [
        jax.export.export(jax.jit(jax.grad(functools.partial(loss, run), (0, 1))), platforms=["cuda"])(
            x, w
        ).mlir_module()
        for run in (
            lambda x, w: dot_general(x, w, numbers),
            lambda x, w: lax.dot_general(x, w, numbers, HIGHEST),
        )
    ]
    operations = [
        [line.split("=")[1].split()[0] for line in text.splitlines() if " = stablehlo." in line] for text in texts
    ]
    assert operations[0] == operations[1] and "stablehlo.dot_general" in operations[0]


@onednn
def test_switched_off_there_is_no_primitive_of_ours():
    code = "import jax, jax.numpy as jnp; from jaxnn import functional as F; "
    code += "print(jax.make_jaxpr(F.linear)(jnp.ones((2, 3)), jnp.ones((4, 3))))"
    run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=300)
    ran = run([sys.executable, "-c", code], env={**os.environ, "JAXNN_ONEDNN": "0"})
    assert " dot_general[" in ran.stdout and "jaxnn_dot_general" not in ran.stdout, ran.stderr[-2000:]
