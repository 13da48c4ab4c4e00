"""Products of 16 bits with float32 results: lax's numbers on the CPU, and 16-bit operands in every derivative elsewhere."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from jaxnn import _compat
from jaxnn.functional._dot import dot_general

HALF = jnp.bfloat16
RNG = np.random.default_rng(0)


def _array(*shape, dtype=HALF):
    return jnp.asarray(RNG.standard_normal(shape), dtype)


CASES = {
    "matrices": (_array(3, 4), _array(4, 5), (((1,), (0,)), ((), ()))),
    "batch in other places": (_array(3, 2, 4), _array(4, 5, 2), (((2,), (0,)), ((1,), (2,)))),
    "two sums in another order": (_array(2, 3, 4), _array(4, 5, 2), (((0, 2), (2, 0)), ((), ()))),
    "two batches": (_array(2, 6, 3, 4), _array(3, 4, 5, 2), (((3,), (1,)), ((0, 2), (3, 0)))),
    "nothing kept": (_array(4), _array(4), (((0,), (0,)), ((), ()))),
}


def _ours(dims):
    return lambda left, right: dot_general(left, right, dims, jnp.float32)


def _lax(dims):
    """Of operands in float32, which holds their product whole: one order of sums where XLA has several for 16 bits."""

    def product(left, right):
        return lax.dot_general(left.astype(jnp.float32), right.astype(jnp.float32), dims, lax.Precision.HIGHEST)

    return product


@pytest.mark.parametrize("case", CASES)
def test_numbers_and_derivatives_of_any_order_are_lax_s(case):
    left, right, dims = CASES[case]

    def everything(product):
        def run(left, right):
            out, pull = jax.vjp(product, left, right)
            passed = pull(jnp.cos(out))
            back = jax.vjp(lambda *operands: jax.vjp(product, *operands)[1](jnp.sin(out)), left, right)[1](passed)
            return out, passed, jax.jvp(product, (left, right), (right.sum() * left, left.sum() * right)), back

        return jax.jit(run)(left, right)

    for mine, expected in zip(jax.tree.leaves(everything(_ours(dims))), jax.tree.leaves(everything(_lax(dims)))):
        assert mine.dtype == expected.dtype and (mine == expected).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("axes", [(0, 0), (None, 1), (1, None), (1, 0)])
def test_vmap(case, axes):
    left, right, dims = CASES[case]
    stacked = [
        array if axis is None else jnp.stack([array, 2 * array, -array], min(axis, array.ndim))
        for array, axis in zip((left, right), axes)
    ]
    found = jax.vmap(_ours(dims), axes)(*stacked)
    assert found.dtype == jnp.float32 and (found == jax.vmap(_lax(dims), axes)(*stacked)).all()


def operands(function, *args, platform):
    """The operands' dtypes of each product and convolution in the program for a platform."""
    text = jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    name = r"(?:stablehlo\.dot_general|stablehlo\.convolution|chlo\.ragged_dot)"
    line = re.compile(rf"{name}.*?: \(tensor<([^>]*)>, tensor<([^>]*)>", re.DOTALL)
    return [tuple(kind.rpartition("x")[2] for kind in found) for found in line.findall(text)]


def test_off_the_cpu_every_derivative_multiplies_16_bits():
    left, right, dims = CASES["two batches"]

    def second(left, right):
        first = lambda left, right: jax.grad(lambda a, b: jnp.sin(_ours(dims)(a, b)).sum(), (0, 1))(left, right)  # noqa: E731
        return jax.vjp(first, left, right)[1]((left, right))

    for platform in ("tpu", "cuda"):
        found = operands(second, left, right, platform=platform)
        assert len(found) > 6 and set(found) == {("bf16", "bf16")}
    assert ("f32", "f32") in operands(second, left, right, platform="cpu")  # as lax has it


def _layers():
    tokens = jnp.ones((2, 6, 8))
    yield "attention", nn.MultiheadAttention(8, 2, batch_first=True), lambda m, x: m(x, x, x)[0], tokens
    yield "weights", nn.MultiheadAttention(8, 2), lambda m, x: sum(out.sum() for out in m(x, x, x)), tokens
    yield "other sizes", nn.MultiheadAttention(8, 2, kdim=8, vdim=8), lambda m, x: m(x, x, x)[0], tokens
    decoder = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0)
    yield "decoder", decoder, lambda m, x: m(x, x), tokens
    yield "LSTM", nn.LSTM(8, 4, 2, proj_size=3, bidirectional=True), lambda m, x: m(x)[0], tokens
    yield "GRUCell", nn.GRUCell(8, 4), lambda m, x: m(x[0]), tokens
    yield (
        "convolutions",
        nn.Sequential(nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.ConvTranspose1d(4, 6, 3, groups=2)),
        lambda m, x: m(x),
        tokens,
    )
    yield "bilinear and linear", nn.Bilinear(8, 8, 3), lambda m, x: m(x.astype(HALF), x), tokens
    yield "attention alone", nn.Linear(8, 8), lambda m, x: F.scaled_dot_product_attention(m(x), m(x), m(x)), tokens


@pytest.mark.parametrize("layer", [name for name, *_ in _layers()])
def test_under_autocast_every_product_is_16_bits(layer):
    nn.manual_seed(0)
    _, model, call, x = next(row for row in _layers() if row[0] == layer)
    if layer == "bilinear and linear":  # torch: promotes
        model = model.to(HALF)
        x = x.astype(HALF)

    def step(model, x):
        def loss(model):
            with nn.autocast(dtype=HALF):
                return (call(model, x).astype(jnp.float32) ** 2).sum()

        return nn.value_and_grad(loss)(model)

    found = operands(step, model, x, platform="tpu")
    assert found and set(found) == {("bf16", "bf16")}, found


@pytest.mark.parametrize("form", ["rows", "columns", "parts", "dense"])
def test_products_of_groups_multiply_16_bits(form):
    left, right = {
        "rows": (_array(6, 4), _array(2, 4, 5)), "columns": (_array(2, 6, 4), _array(4, 5)),
        "parts": (_array(6, 4), _array(4, 5)), "dense": (_array(2, 6, 4), _array(2, 4, 5)),
    }[form]  # fmt: skip
    offs = None if form == "dense" else jnp.array([2, 4], jnp.int32)

    def pulled(left, right):
        out, pull = jax.vjp(lambda left, right: F.grouped_mm(left, right, offs=offs), left, right)
        return out, pull(out)

    found = operands(pulled, left, right, platform="tpu")
    assert len(found) >= 3 and set(found) == {("bf16", "bf16")}


def test_a_scaled_product_multiplies_no_float32():
    """8 bits are a part of 16: the product is exact, in one pass of a TPU."""
    mat, one, whole = jnp.ones((8, 8), jnp.float8_e4m3fn), jnp.ones((), jnp.float32), F.ScalingType.TensorWise
    product = lambda a, b: F.scaled_mm(a, b, one, whole, one, whole)  # noqa: E731
    assert operands(product, mat, mat, platform="tpu") == [("bf16", "bf16")]
    assert operands(product, mat, mat, platform="cuda") == [("f8E4M3FN", "f8E4M3FN")]  # tensor cores take them
    assert operands(lambda a, b: jax.vjp(product, a, b)[1](mat.astype(HALF)), mat, mat, platform="cuda")


ROWS = {
    "a row": ((1, 96), (40, 96), (((1,), (1,)), ((), ()))),
    "a vector": ((96,), (96, 40), (((0,), (0,)), ((), ()))),
    "one text": ((1, 1, 96), (40, 96), (((2,), (1,)), ((), ()))),
    "a column": ((40, 96), (96, 1), (((1,), (0,)), ((), ()))),
    "two sums": ((8, 1, 12), (12, 8, 40), (((0, 2), (1, 0)), ((), ()))),
    "few rows": ((2, 5, 96), (40, 96), (((2,), (1,)), ((), ()))),
    "few columns": ((40, 96), (96, 3), (((1,), (0,)), ((), ()))),
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ROWS)
def test_few_rows_are_rounded_once(case, dtype):
    """Value and gradients: the nearest 16-bit numbers to float64's, but for ties."""
    *shapes, dims = ROWS[case]
    left, right = (_array(*shape, dtype=dtype) for shape in shapes)
    product = lambda left, right: dot_general(left, right, dims)  # noqa: E731
    ours = "few" not in case or dtype == "bfloat16" and _compat.COPIES_BFLOAT16
    assert ("jaxnn_wide_dot" in str(jax.make_jaxpr(product)(left, right))) is ours
    out, pull = jax.vjp(product, left, right)
    cotangent = _array(*out.shape, dtype=dtype)
    truth = lambda left, right: lax.dot_general(left, right, dims)  # noqa: E731
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x), jnp.float64) for x in (left, right, cotangent)]
        expected, back = jax.vjp(truth, *wide[:2])
        expected = [np.asarray(x) for x in (expected, *back(wide[2]))]
    for mine, exact in zip((out, *pull(cotangent)), expected, strict=True):
        assert mine.dtype == dtype and mine.shape == exact.shape
        unit = float(jnp.finfo(dtype).eps) * np.maximum(np.abs(exact), 1e-2)
        assert (np.abs(np.asarray(mine, np.float64) - exact) <= 0.51 * unit).all()


def test_a_row_among_many_and_infinities():
    left, right = _array(5, 1, 96), _array(40, 96)
    dims = ROWS["a row"][2]
    many = jax.jit(jax.vmap(lambda x: dot_general(x, right, dims)))(left)
    one = jnp.stack([dot_general(x, right, dims) for x in left])
    np.testing.assert_allclose(many.astype(np.float32), one.astype(np.float32), rtol=2**-7, atol=1e-2)
    infinite = right.at[3, 4].set(jnp.inf)
    found = dot_general(left[0], infinite, dims)
    assert np.isfinite(np.delete(np.asarray(found, np.float32), 3)).all() and abs(found[0, 3]) == np.inf


@pytest.mark.parametrize("form", ["plain", "nn.jit"])
@pytest.mark.parametrize("rows", [1, 10, 96])
def test_a_step_writes_no_weights_out(form, rows):
    """XLA's own program first makes float32 copies of all weights, also of those that come last."""
    weights, x = [jnp.ones((512, 512), HALF) for _ in range(4)], jnp.ones((rows, 512), HALF)

    def step(x, weights):
        for weight in weights:
            x = F.relu(F.linear(x, weight))
        return x

    jit = nn.jit if form == "nn.jit" else jax.jit
    memory = jit(step).lower(x, weights).compile().memory_analysis()
    assert memory.temp_size_in_bytes < weights[0].nbytes


@pytest.mark.parametrize("preferred", [jnp.float32, None], ids=["in float32", "in 16 bits"])
@pytest.mark.parametrize("rows", [1, 96])
def test_gradients_go_through_explicit_axes(rows, preferred):
    """The weight's is a product of two arrays that are both split along what is contracted."""
    x, weight, dims = _array(4, rows, 64), _array(32, 64), (((2,), (1,)), ((), ()))

    def step(x, weight):
        out, pull = jax.vjp(lambda x, weight: dot_general(x, weight, dims, preferred), x, weight)
        return out, pull(out)

    expected = jax.jit(step)(x, weight)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        split = [jax.device_put(x, PartitionSpec("data")), jax.device_put(weight, PartitionSpec())]
        found = jax.jit(step)(*split)
        examples = jax.device_put(jnp.stack([x, 2 * x]), PartitionSpec(None, "data"))
        mapped = jax.jit(jax.vmap(step, (0, None)))(examples, split[1])
    for mine, plain in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(np.asarray(mine, np.float32), np.asarray(plain, np.float32))
    assert [jax.typeof(each).sharding.spec for each in found[1]] == [jax.typeof(each).sharding.spec for each in split]
    np.testing.assert_array_equal(np.asarray(mapped[1][1][0], np.float32), np.asarray(expected[1][1], np.float32))


def _forms():
    """Every product of operands of up to three dimensions, with one contracted, and with one of a batch or none."""
    for of_left, of_right in itertools.product((1, 2, 3), repeat=2):
        for left, right in itertools.product(range(of_left), range(of_right)):
            batches = itertools.product(range(of_left), range(of_right))
            for batch in [None, *((a, b) for a, b in batches if a != left and b != right)]:
                sizes = [[7 + 3 * dim for dim in range(of_left)], [16 + 7 * dim for dim in range(of_right)]]
                sizes[0][left] = sizes[1][right] = 19
                for side, dim in enumerate(batch or ()):
                    sizes[side][dim] = 2
                dims = ((batch[0],), (batch[1],)) if batch else ((), ())
                yield sizes, (((left,), (right,)), dims)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("preferred", [jnp.float32, None], ids=["in float32", "in 16 bits"])
def test_every_form_of_a_16_bit_product_runs_on_the_cpu(dtype, preferred):
    """XLA compiles some with a result in float32, and fails when they are called."""
    forms = list(_forms())
    operands = [[_array(*size, dtype=dtype) for size in sizes] for sizes, _ in forms]
    found = jax.jit(lambda operands: [dot_general(*pair, dims, preferred) for pair, (_, dims) in zip(operands, forms)])(
        operands
    )
    for product, pair, (_, dims) in zip(found, operands, forms):
        with jax.enable_x64(True):
            wide = [jnp.asarray(np.asarray(operand, np.float64)) for operand in pair]
            truth, size = (np.asarray(lax.dot_general(*both, dims)) for both in (wide, map(jnp.abs, wide)))
        rounded = 0 if preferred else jnp.finfo(dtype).eps / 2
        bound = 19 * np.finfo(np.float32).eps * size + rounded * np.abs(truth) + jnp.finfo(product.dtype).tiny
        assert (np.abs(np.asarray(product, np.float64) - truth) <= bound).all(), dims


def test_a_layer_of_few_rows_under_vmap_runs_on_the_cpu():
    """Its weight's gradient is one product of the examples' rows, which XLA would transpose."""
    x, w, b, ct = _array(2, 4, 91), _array(19, 91), _array(2, 19), _array(4, 19)

    def step(x, w, b):
        out, pull = jax.vjp(F.linear, x, w, b)
        return out, pull(ct)

    found = jax.jit(jax.vmap(step, (0, None, 0)))(x, w, b)
    for example in range(2):
        expected = jax.jit(step)(x[example], w, b[example])
        for mine, alone in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
            np.testing.assert_array_equal(np.asarray(mine[example], np.float32), np.asarray(alone, np.float32))
