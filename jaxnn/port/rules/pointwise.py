"""Number by number: arithmetic, functions, comparisons; and products of matrices."""

from typing import Any

from jaxnn.port.rules.row import Row

_NAME: dict[str, Any] = {}
_ARRAY: dict[str, Any] = {"knows": "array"}
_SAME = (
    "sin cos tan sinh cosh exp exp2 expm1 square floor ceil trunc sign isnan isinf isfinite logical_not "
    "rad2deg deg2rad sinc conj signbit"
)
_POSITIVE = "sqrt log log2 log10 log1p"
_RENAMED = {
    "abs": "jnp.abs",
    "absolute": "jnp.abs",
    "rsqrt": "jax.lax.rsqrt",
    "arctan": "jnp.arctan",
    "atan": "jnp.arctan",
    "asinh": "jnp.arcsinh",
    "erf": "jax.scipy.special.erf",
    "erfc": "jax.scipy.special.erfc",
    "lgamma": "jax.scipy.special.gammaln",
    "tanh": "jnp.tanh",
    "relu": "F.relu",
    "sigmoid": "F.sigmoid",
    "selu": "F.selu",
}
_HALF = {
    "asin": "jnp.arcsin",
    "arcsin": "jnp.arcsin",
    "acos": "jnp.arccos",
    "arccos": "jnp.arccos",
    "atanh": "jnp.arctanh",
    "erfinv": "jax.scipy.special.erfinv",
}
_SPECIAL = "log_ndtr entr i0 i0e i1 i1e expit gammaln erf erfc erfinv"  # the names of jax.scipy.special too
_BINARY = {
    "atan2": "arctan2",
    "arctan2": "arctan2",
    "maximum": "maximum",
    "minimum": "minimum",
    "fmax": "fmax",
    "fmin": "fmin",
    "hypot": "hypot",
    "logaddexp": "logaddexp",
    "fmod": "fmod",
    "remainder": "remainder",
    "floor_divide": "floor_divide",
    "copysign": "copysign",
}
_COMPARE = {
    "eq": "==",
    "ne": "!=",
    "not_equal": "!=",
    "lt": "<",
    "less": "<",
    "le": "<=",
    "less_equal": "<=",
    "gt": ">",
    "greater": ">",
    "ge": ">=",
    "greater_equal": ">=",
}

# fmt: off
ROWS = (
    *(Row(name, "x", f"jnp.{name}({{x}})", f"torch.{name}(x)") for name in _SAME.split()),
    *(Row(name, "x", f"jnp.{name}({{x}})", f"p.{name}()") for name in _POSITIVE.split()),
    *(Row(name, "x", f"{ours}({{x}})", f"torch.{name}({'p' if name in ('rsqrt', 'lgamma', 'digamma') else 'x'})") for name, ours in _RENAMED.items()),
    *(Row(name, "x", f"{ours}({{x}})", f"torch.{name}(x / 4)") for name, ours in _HALF.items()),
    *(Row(f"special.{name}", "x", f"jax.scipy.special.{name}({{x}})", f"torch.special.{name}(p / 4)", form="function") for name in _SPECIAL.split()),
    *(Row(f"special.{name}", "x", f"jnp.{name}({{x}})", f"torch.special.{name}(p)", form="function") for name in ("exp2", "expm1", "log1p", "sinc")),
    *(Row(f"special.{name}", "x, other", f"jax.scipy.special.{name}({{x}}, {{other}})", f"torch.special.{name}(p + 1, p)", form="function") for name in ("xlogy", "xlog1py")),
    Row("special.ndtr", "x", "0.5 * (1 + jax.scipy.special.erf({x} / 2**0.5))", "torch.special.ndtr(p)", form="function"),
    *(Row(name, "x, other", f"jnp.{ours}({{x}}, {{other}})", f"torch.{name}(x, p)") for name, ours in _BINARY.items()),
    *(Row(name, "x, other", f"{{x}} {sign} {{other}}", f"x.{name}(y)") for name, sign in _COMPARE.items()),
    *(
        Row(name, "x, other", f"jnp.{name}({{x}}, {{other}})", f"torch.{name}(m, i)")
        for name in ("logical_and", "logical_or", "logical_xor")
    ),
    *(
        Row(name, "x, other", f"{{x}} {sign} {{other}}", f"torch.{name}(m, m)")
        for name, sign in (("bitwise_and", "&"), ("bitwise_or", "|"), ("bitwise_xor", "^"))
    ),
    Row("bitwise_not", "x", "~{x}", "torch.bitwise_not(m)"),
    Row("round", "x, *, decimals=0", "jnp.round({x}, {decimals?})", "torch.round(x)", knows="array"),
    Row("neg", "x", "-{x}", "x.neg()", also="negative"),
    Row("reciprocal", "x", "1 / {x}", "p.reciprocal()"),
    Row("frac", "x", "jnp.modf({x})[0]", "x.frac()"),
    Row("real", "x", "jnp.real({x})", "torch.real(z)", form="function"),
    Row("imag", "x", "jnp.imag({x})", "torch.imag(z)", form="function"),
    Row("angle", "x", "jnp.angle({x})", "torch.angle(z)", form="both"),
    Row("nan_to_num", "x, nan=0.0, posinf=None, neginf=None", "jnp.nan_to_num({x}, nan={nan?}, posinf={posinf?}, neginf={neginf?})", "torch.nan_to_num(x, 0.5)"),
    # Arithmetic.
    Row("add", "x, other, *, alpha=1", "{x} + {other}", "torch.add(x, y)", when="!alpha", knows="array"),
    Row("add", "x, other, *, alpha=1", "{x} + {alpha} * {other}", "x.add(y, alpha=2)", knows="array"),
    Row("sub", "x, other, *, alpha=1", "{x} - {other}", "x.sub(y)", when="!alpha", also="subtract"),
    Row("sub", "x, other, *, alpha=1", "{x} - {alpha} * {other}", "x.sub(y, alpha=2)", also="subtract"),
    Row("rsub", "x, other", "{other} - {x}", "torch.rsub(x, y)"),
    Row("mul", "x, other", "{x} * {other}", "x.mul(y)", also="multiply"),
    Row("div", "x, other, *, rounding_mode=None", "{x} / {other}", "x.div(p)", when="!rounding_mode", also="divide true_divide"),
    Row("div", "x, other, *, rounding_mode", "jnp.floor_divide({x}, {other})", "torch.div(x, p, rounding_mode='floor')", when="rounding_mode='floor'", also="divide"),
    Row("div", "x, other, *, rounding_mode", "jnp.trunc({x} / {other}).astype(jnp.result_type({x}, {other}))", "torch.div(x, p, rounding_mode='trunc')", when="rounding_mode='trunc', x:simple, other:simple", also="divide"),
    Row("pow", "x, exponent", "{x} ** {exponent}", "p.pow(2)"),
    Row("float_power", "x, exponent", "jnp.float_power({x}, {exponent})", "torch.float_power(p, 2).float()", status="changed", note="float64 is float32"),
    Row("lerp", "x, end, weight", "{x} + {weight} * ({end} - {x})", "torch.lerp(x, y, 0.3)", when="x:simple"),
    Row("lerp", "x, end, weight", "(lambda _start: _start + {weight} * ({end} - _start))({x})", "torch.lerp(x + y, y, 0.3)"),
    Row("addcmul", "x, tensor1, tensor2, *, value=1", "{x} + {tensor1} * {tensor2}", "torch.addcmul(x, y, p)", when="!value"),
    Row("addcmul", "x, tensor1, tensor2, *, value=1", "{x} + {value} * {tensor1} * {tensor2}", "torch.addcmul(x, y, p, value=2)"),
    Row("addcdiv", "x, tensor1, tensor2, *, value=1", "{x} + {value} * {tensor1} / {tensor2}", "torch.addcdiv(x, y, p, value=2)"),
    *(
        row
        for name, knows in (("clamp", _NAME), ("clip", _ARRAY))
        for row in (
            Row(name, "x, min=None, max=None", "jnp.clip({x}, {min}, {max})", f"x.{name}(-1, 1)", when="min, max", **knows),
            Row(name, "x, min=None, max=None", "jnp.clip({x}, min={min?}, max={max?})", f"x.{name}(min=0.1)", **knows),
        )
    ),
    Row("clamp_min", "x, min", "jnp.maximum({x}, {min})", "x.clamp_min(0.1)"),
    Row("clamp_max", "x, max", "jnp.minimum({x}, {max})", "x.clamp_max(0.1)"),
    # Choice.
    Row("where", "condition, x, other", "jnp.where({condition}, {x}, {other})", "torch.where(m, x, y)", form="function"),
    Row("where", "condition", "jnp.where({condition})", "torch.where(m)[0]", form="function", result="arrays", status="changed", note="fails in a compiled function: its size depends on the numbers"),
    Row("where", "x, condition, other", "jnp.where({condition}, {x}, {other})", "x.where(m, y)", form="method"),
    Row("masked_fill", "x, mask, value", "jnp.where({mask}, {value}, {x})", "(x * 0.5).masked_fill(m, -1.0)", when="value:number, x.floating=True"),
    Row("masked_fill", "x, mask, value", "jnp.where({mask}, {value}, {x})", "x.masked_fill(m, -1e9)", when="value:infinite"),
    Row("masked_fill", "x, mask, value", "jnp.where({mask}, {value}, {x}).astype({x}.dtype)", "x.masked_fill(m, v[0])", when="x:simple"),
    Row("masked_fill", "x, mask, value", "(lambda _x: jnp.where({mask}, {value}, _x).astype(_x.dtype))({x})", "(x * 2).masked_fill(m, v[0])"),
    # Functions that jaxnn has.
    Row("softmax", "x, dim, dtype=None", "F.softmax({x}, {dim}, dtype={dtype?})", "x.softmax(-1)", also="special.softmax"),
    Row("log_softmax", "x, dim, dtype=None", "F.log_softmax({x}, {dim}, dtype={dtype?})", "x.log_softmax(-1)", also="special.log_softmax"),
    Row("dropout", "x, p, train", "F.dropout({x}, {p}, {train})", "torch.dropout(x, 0.0, True)", form="function"),
    # Products.
    *(
        Row(name, "x, other", 'jnp.matmul({x}, {other}, precision="highest")', f"torch.{name}({args})")
        for name, args in (("matmul", "x, w"), ("bmm", "x, b"), ("mm", "a, w"), ("mv", "a, v"))
    ),
    Row("dot", "x, tensor", 'jnp.dot({x}, {tensor}, precision="highest")', "v.dot(v)", result="array=0"),
    Row("einsum", "equation, *operands", 'jnp.einsum({equation}, {operands:star}, precision="highest")', 'torch.einsum("bij,jk->bik", x, w)', form="function"),
    Row("tensordot", "a, b, dims=2", 'jnp.tensordot({a}, {b}, axes={dims?}, precision="highest")', "torch.tensordot(x, w, dims=1)", form="function"),
    Row("outer", "x, vec2", "jnp.outer({x}, {vec2})", "torch.outer(v, v)", result="array=2", also="ger"),
    Row("inner", "x, other", 'jnp.inner({x}, {other}, precision="highest")', "torch.inner(v, v)"),
    Row("kron", "x, other", "jnp.kron({x}, {other})", "torch.kron(a, w)"),
    Row("cross", "x, other, dim=None", "jnp.cross({x}, {other}, axis={dim})", "torch.cross(x[..., :3], y[..., :3], dim=-1)", when="dim"),
    Row("addmm", "x, mat1, mat2, *, beta=1, alpha=1", '{x} + jnp.matmul({mat1}, {mat2}, precision="highest")', "torch.addmm(w[:3], a, w)", when="!alpha, !beta"),
    Row("addmm", "x, mat1, mat2, *, beta=1, alpha=1", '{beta} * {x} + {alpha} * jnp.matmul({mat1}, {mat2}, precision="highest")', "torch.addmm(w[:3], a, w, beta=0.5, alpha=2)"),
    Row("baddbmm", "x, batch1, batch2, *, beta=1, alpha=1", '{x} + jnp.matmul({batch1}, {batch2}, precision="highest")', "torch.baddbmm(x[:, :, :1], x, b)", when="!alpha, !beta"),
    Row("baddbmm", "x, batch1, batch2, *, beta=1, alpha=1", '{alpha} * jnp.matmul({batch1}, {batch2}, precision="highest")', "torch.baddbmm(x[:, :, :1], x, b, beta=0, alpha=2)", when="beta=0"),
    Row("baddbmm", "x, batch1, batch2, *, beta=1, alpha=1", '{beta} * {x} + {alpha} * jnp.matmul({batch1}, {batch2}, precision="highest")', "torch.baddbmm(x[:, :, :1], x, b, beta=0.5, alpha=2)"),
    Row("cdist", "x1, x2, p=2.0, compute_mode=None", "T.cdist({x1}, {x2}, p={p?})", "torch.cdist(x, y)", form="function", status="helper"),
    *(
        Row(f"fft.{name}", "x, n=None, dim=-1, norm=None", f"jnp.fft.{name}({{x}}, n={{n?}}, axis={{dim?}}, norm={{norm?}})", f"torch.fft.{name}({'z' if name in ('ifft', 'irfft') else 'x'}, dim=1)", form="function")
        for name in ("fft", "ifft", "rfft", "irfft")
    ),
    *(
        Row(f"fft.{name}", "x, s=None, dim=(-2, -1), norm=None", f"jnp.fft.{name}({{x}}, s={{s?}}, axes={{dim:axes?}}, norm={{norm?}})", f"torch.fft.{name}({'z' if name in ('ifft2', 'irfft2') else 'x'}, norm='ortho')", form="function")
        for name in ("fft2", "ifft2", "rfft2", "irfft2")
    ),
    *(Row(f"fft.{name}", "x, dim=None", f"jnp.fft.{name}({{x}}, axes={{dim?}})", f"torch.fft.{name}(x, dim=1)", form="function") for name in ("fftshift", "ifftshift")),
    *(Row(f"fft.{name}", "n, d=1.0", f"jnp.fft.{name}({{n}}, {{d?}})", f"torch.fft.{name}(8)", form="function") for name in ("fftfreq", "rfftfreq")),
    Row("stft", "x, n_fft, hop_length=None, win_length=None, window=None, center=True, pad_mode='reflect', normalized=False, onesided=None, return_complex=None",
        "T.stft({x}, {n_fft}, hop_length={hop_length?}, win_length={win_length?}, window={window?}, center={center?}, pad_mode={pad_mode?}, normalized={normalized?}, onesided={onesided?}, return_complex={return_complex?})",
        "torch.stft(x.reshape(-1), 8, window=torch.hann_window(8), return_complex=True)", status="helper"),
    Row("istft", "x, n_fft, hop_length=None, win_length=None, window=None, center=True, normalized=False, onesided=None, length=None, return_complex=False",
        "T.istft({x}, {n_fft}, hop_length={hop_length?}, win_length={win_length?}, window={window?}, center={center?}, normalized={normalized?}, onesided={onesided?}, length={length?}, return_complex={return_complex?})",
        "torch.istft(torch.stft(x.reshape(-1), 8, window=torch.hann_window(8), return_complex=True), 8, window=torch.hann_window(8))", status="helper"),
)
