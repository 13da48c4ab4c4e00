"""grouped_mm and scaled_mm against torch where its CPU runs them, in the errors too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.functional import ScalingType, SwizzleType

ENDS = [[2, 5, 8], [0, 5, 8], [3, 3, 6], [8, 8, 8]]  # the third leaves two in no group
FORMS = {
    "rows": ((8, 16), (3, 16, 24)),
    "columns": ((3, 8, 16), (16, 8)),
    "parts": ((16, 8), (8, 24)),
    "batch": ((3, 8, 16), (3, 16, 24)),
}


def _operands(form, dtype):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in FORMS[form]]


def _offs(form, ends):
    return None if form == "batch" else jnp.array(ends, jnp.int32)


def _truth(form, a, b, ends):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    groups = [slice(low, high) for low, high in zip([0, *ends], ends)]
    if form == "batch":
        return a @ b
    if form == "parts":
        return np.stack([a[:, part] @ b[part] for part in groups])
    out = np.zeros((a.shape[0], b.shape[2]) if form == "rows" else (a.shape[1], b.shape[1]))
    for g, part in enumerate(groups):
        if form == "rows":
            out[part] = a[part] @ b[g]
        else:
            out[:, part] = a[g] @ b[:, part]
    return out


def _is_close(value, truth, dtype):
    error = np.abs(np.asarray(value, np.float64) - truth)
    return (error <= 4 * float(jnp.finfo(dtype).eps) * (np.abs(truth).max() + 1)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_products_of_groups(form, ends, dtype):
    a, b = _operands(form, dtype)
    result = F.grouped_mm(a, b, offs=_offs(form, ends))
    assert result.dtype == dtype and _is_close(result, _truth(form, a, b, ends), dtype)
    compiled = jax.jit(lambda a, b, offs: F.grouped_mm(a, b, offs=offs))(a, b, _offs(form, ends))
    np.testing.assert_array_equal(compiled.astype("float32"), result.astype("float32"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("form", FORMS)
def test_products_of_groups_are_torchs(form, dtype):
    torch = pytest.importorskip("torch")
    a, b = _operands(form, dtype)
    offs = _offs(form, ENDS[0])
    tensors = [torch.from_numpy(np.array(x, np.float32)).to(getattr(torch, dtype)) for x in (a, b)]
    theirs = torch.nn.functional.grouped_mm(
        *tensors, offs=None if offs is None else torch.from_numpy(np.array(offs, np.int32))
    )
    truth = _truth(form, a, b, ENDS[0])
    ours = np.asarray(F.grouped_mm(a, b, offs=offs), np.float64)
    assert ours.shape == tuple(theirs.shape)
    eps = float(jnp.finfo(dtype).eps) * np.abs(truth).max()
    assert np.abs(ours - truth).max() <= 2 * np.abs(theirs.double().numpy() - truth).max() + eps


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_products_of_groups(form, ends):
    a, b = _operands(form, "float32")
    weights = np.random.default_rng(1).standard_normal(_truth(form, a, b, ends).shape)

    def value(a, b):
        return jnp.sum(F.grouped_mm(a, b, offs=_offs(form, ends)) * weights)

    def truth(a, b):
        return (_truth(form, a, b, ends) * weights).sum()

    gradients = jax.grad(value, (0, 1))(a, b)
    for place, gradient in enumerate(gradients):
        operands = [np.asarray(a, np.float64), np.asarray(b, np.float64)]
        for index in [
            (0,) * gradient.ndim,
            tuple(n - 1 for n in gradient.shape),
            tuple(n // 2 for n in gradient.shape),
        ]:
            sides = []
            for step in (1.0, -1.0):  # the product is linear in each operand: a difference is exact
                changed = [array.copy() for array in operands]
                changed[place][index] += step
                sides.append(truth(*changed))
            np.testing.assert_allclose(gradient[index], (sides[0] - sides[1]) / 2, rtol=1e-4, atol=1e-4)


def _a(*shape, dtype="float32"):
    return jnp.ones(shape, dtype)


OFFS = jnp.array([2, 5, 8], jnp.int32)
BAD_GROUPS = {
    "no offs": lambda: ((_a(8, 16), _a(3, 16, 8)), {}),
    "offs of batches": lambda: ((_a(3, 8, 16), _a(3, 16, 8)), {"offs": OFFS}),
    "offs of another dtype": lambda: ((_a(8, 16), _a(3, 16, 8)), {"offs": OFFS.astype("int16")}),
    "offs in 2D": lambda: ((_a(8, 16), _a(3, 16, 8)), {"offs": OFFS[None]}),
    "too few groups": lambda: ((_a(8, 16), _a(3, 16, 8)), {"offs": OFFS[:2]}),
    "bias": lambda: ((_a(8, 16), _a(3, 16, 8)), {"offs": OFFS, "bias": _a(8)}),
    "out_dtype": lambda: ((_a(8, 16), _a(3, 16, 8)), {"offs": OFFS, "out_dtype": "bfloat16"}),
    "two dtypes": lambda: ((_a(8, 16), _a(3, 16, 8, dtype="bfloat16")), {"offs": OFFS}),
    "integers": lambda: ((_a(8, 16, dtype="int32"), _a(3, 16, 8, dtype="int32")), {"offs": OFFS}),
    "inner": lambda: ((_a(8, 8), _a(3, 16, 8)), {"offs": OFFS}),
    "1D": lambda: ((_a(16), _a(3, 16, 8)), {"offs": OFFS}),
    "4D": lambda: ((_a(1, 8, 16)[None], _a(3, 16, 8)), {"offs": OFFS}),
    "two batches": lambda: ((_a(2, 8, 16), _a(3, 16, 8)), {}),
}


def _to_torch(torch, value):
    if isinstance(value, jax.Array):
        name = str(value.dtype)
        plain = np.asarray(value.astype("float32") if "float" in name else value)
        return torch.from_numpy(plain.copy()).to(getattr(torch, name))
    if isinstance(value, (ScalingType, SwizzleType)):
        return getattr(getattr(torch.nn.functional, type(value).__name__), value.name)
    if isinstance(value, (list, tuple)):
        return type(value)(_to_torch(torch, item) for item in value)
    return getattr(torch, value) if isinstance(value, str) else value


@pytest.mark.parametrize("bad", BAD_GROUPS)
def test_bad_groups_are_torchs_errors(bad):
    torch = pytest.importorskip("torch")
    args, kwargs = BAD_GROUPS[bad]()
    with pytest.raises(Exception) as theirs:
        torch.nn.functional.grouped_mm(
            *[_to_torch(torch, a) for a in args], **{k: _to_torch(torch, v) for k, v in kwargs.items()}
        )
    with pytest.raises(theirs.type, match="^grouped_mm: "):
        F.grouped_mm(*args, **kwargs)


@pytest.mark.parametrize("ends", [[5, 2, 8], [2, 5, 9], [-1, 5, 8]], ids=str)
def test_ends_that_torch_would_follow_out_of_its_arrays(ends):
    with pytest.raises(RuntimeError, match="offs: expected ends from 0 to 8 that never fall"):
        F.grouped_mm(_a(8, 16), _a(3, 16, 8), offs=jnp.array(ends, jnp.int32))


def _scaled(dtype_a="float8_e4m3fn", dtype_b="float8_e4m3fn", m=16, k=32, n=24):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((m, k)), dtype_a), jnp.asarray(rng.standard_normal((k, n)), dtype_b)


WHOLE, ROWS = ScalingType.TensorWise, ScalingType.RowWise
HALF = jnp.array(0.5)


def _row_scales(m=16, n=24):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.random((m, 1)), "float32"), jnp.asarray(rng.random((1, n)), "float32")


GOOD_SCALES = {
    "whole": lambda: ((*_scaled(), HALF, WHOLE, HALF, WHOLE), {}),
    "whole, in lists": lambda: ((*_scaled(), [HALF], [WHOLE], [HALF], [WHOLE]), {"swizzle_a": SwizzleType.NO_SWIZZLE}),
    "whole, of one element": lambda: ((*_scaled(), _a(1, 1), WHOLE, _a(1), WHOLE), {"output_dtype": "float32"}),
    "rows": lambda: ((*_scaled(), _row_scales()[0], ROWS, _row_scales()[1], ROWS), {"output_dtype": "float32"}),
    "bias": lambda: ((*_scaled(), HALF, WHOLE, HALF, WHOLE), {"bias": _a(24, dtype="bfloat16")}),
    "bias in 2D": lambda: ((*_scaled(), HALF, WHOLE, HALF, WHOLE), {"bias": _a(1, 24), "output_dtype": "float16"}),
    "float8 out": lambda: ((*_scaled(), HALF, WHOLE, HALF, WHOLE), {"output_dtype": None}),
    "two dtypes": lambda: ((*_scaled("float8_e5m2"), HALF, WHOLE, HALF, WHOLE), {}),
    "contraction_dim": lambda: ((*_scaled(), HALF, WHOLE, HALF, WHOLE), {"contraction_dim": (-1, -2)}),
    "odd sizes": lambda: ((*_scaled(m=3, k=5, n=7), HALF, WHOLE, HALF, WHOLE), {"use_fast_accum": True}),
    "no rows": lambda: ((*_scaled(m=0), HALF, WHOLE, HALF, WHOLE), {}),
    "nothing to sum": lambda: ((*_scaled(k=0), HALF, WHOLE, HALF, WHOLE), {}),
}


@pytest.mark.parametrize("case", GOOD_SCALES)
def test_scaled_products_are_torchs(case):
    torch = pytest.importorskip("torch")
    args, kwargs = GOOD_SCALES[case]()
    theirs = torch.nn.functional.scaled_mm(
        *[_to_torch(torch, a) for a in args], **{k: _to_torch(torch, v) for k, v in kwargs.items()}
    )
    ours = F.scaled_mm(*args, **kwargs)
    assert ours.dtype == str(theirs.dtype).removeprefix("torch.") and ours.shape == tuple(theirs.shape)
    mat_a, mat_b, scale_a, _, scale_b, _ = args
    scales = [np.asarray(s[0] if isinstance(s, list) else s, np.float64) for s in (scale_a, scale_b)]
    scales = [s.reshape(1, 1) if s.size == 1 else s for s in scales]
    truth = (np.asarray(mat_a, np.float64) * scales[0]) @ (np.asarray(mat_b, np.float64) * scales[1])
    if "bias" in kwargs:
        truth = truth + np.asarray(kwargs["bias"], np.float64).reshape(1, -1)
    error, allowed = np.abs(np.asarray(ours, np.float64) - truth), np.abs(theirs.double().numpy() - truth)
    assert not truth.size or error.max() <= 2 * allowed.max() + 1e-6 * np.abs(truth).max()


def _whole(**changed):
    return (*_scaled(), HALF, WHOLE, HALF, WHOLE), changed


BAD_SCALES = {
    "recipes of two kinds": lambda: ((*_scaled(), HALF, WHOLE, _row_scales()[1], ROWS), {}),
    "rows of another length": lambda: ((*_scaled(), _row_scales()[0][1:], ROWS, _row_scales()[1], ROWS), {}),
    "rows in turn": lambda: ((*_scaled(), _row_scales()[0].T, ROWS, _row_scales()[1].T, ROWS), {}),
    "two numbers": lambda: ((*_scaled(), _a(2), WHOLE, HALF, WHOLE), {}),
    "16-bit scale": lambda: ((*_scaled(), HALF.astype("bfloat16"), WHOLE, HALF, WHOLE), {}),
    "two levels": lambda: ((*_scaled(), [HALF, HALF], [WHOLE, WHOLE], [HALF, HALF], [WHOLE, WHOLE]), {}),
    "blocks": lambda: ((*_scaled(), *(_a(16, 2), ScalingType.BlockWise1x16) * 2), {}),
    "swizzle": lambda: _whole(swizzle_a=SwizzleType.SWIZZLE_32_4_4, swizzle_b=SwizzleType.SWIZZLE_32_4_4),
    "a number for a scale": lambda: ((*_scaled(), 0.5, WHOLE, HALF, WHOLE), {}),
    "bias of another length": lambda: _whole(bias=_a(8)),
    "one contraction_dim": lambda: _whole(contraction_dim=(1,)),
    "other contraction_dim": lambda: _whole(contraction_dim=(1, 1)),
    "float32": lambda: ((*_scaled("float32", "float32"), HALF, WHOLE, HALF, WHOLE), {}),
    "inner": lambda: ((_scaled()[0][:, :16], _scaled()[1], HALF, WHOLE, HALF, WHOLE), {}),
    "3D": lambda: ((_scaled()[0][None], _scaled()[1], HALF, WHOLE, HALF, WHOLE), {}),
    "1D": lambda: ((_scaled()[0][0], _scaled()[1], HALF, WHOLE, HALF, WHOLE), {}),
}


@pytest.mark.parametrize("bad", BAD_SCALES)
def test_bad_scales_are_torchs_errors(bad):
    torch = pytest.importorskip("torch")
    args, kwargs = BAD_SCALES[bad]()
    with pytest.raises(Exception) as theirs:
        torch.nn.functional.scaled_mm(
            *[_to_torch(torch, a) for a in args], **{k: _to_torch(torch, v) for k, v in kwargs.items()}
        )
    with pytest.raises(theirs.type, match="^scaled_mm: "):
        F.scaled_mm(*args, **kwargs)


def test_a_recipe_that_is_none():
    with pytest.raises(TypeError, match="scale_recipe_a: expected a ScalingType"):  # torch: AttributeError
        F.scaled_mm(*_scaled(), HALF, 0, HALF, WHOLE)


def test_gradients_of_scaled_products():
    a, b = _scaled()
    scale = jax.grad(lambda s: F.scaled_mm(a, b, s, WHOLE, HALF, WHOLE, output_dtype="float32").sum())(HALF)
    wanted = 0.5 * (np.asarray(a, np.float64) @ np.asarray(b, np.float64)).sum()
    np.testing.assert_allclose(scale, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_lowers_for_every_platform(form):
    a, b = _operands(form, "bfloat16")
    offs = _offs(form, ENDS[0])
    run = jax.jit(jax.value_and_grad(lambda a, b: F.grouped_mm(a, b, offs=offs).astype("float32").sum(), (0, 1)))
    assert jax.export.export(run, platforms=("cpu", "cuda", "tpu"))(a, b).platforms == ("cpu", "cuda", "tpu")
