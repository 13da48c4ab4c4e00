"""New arrays, dtypes, and casts."""

from jaxnn.port.rules.row import Row

_INT = "int64 is int32"
_OTHERS = "other numbers than torch's for a seed"

_CASTS = {
    "float": "float32",
    "half": "float16",
    "bfloat16": "bfloat16",
    "int": "int32",
    "bool": "bool_",
    "short": "int16",
    "byte": "uint8",
    "char": "int8",
    "cfloat": "complex64",
}

_TORCHS = {"int", "short", "byte", "char"}  # nothing else has a method of this name

# fmt: off
ROWS = (
    # From a size.
    *(
        Row(name, "*size, dtype=None", f"jnp.{ours}({{size:tuple}}, dtype={{dtype?}})", f"torch.{name}(2, 3){tail}", form="function")
        for name, ours, tail in (("zeros", "zeros", ""), ("ones", "ones", ""), ("empty", "zeros", ".shape"))
    ),
    Row("full", "size, fill_value, *, dtype=None", "jnp.full({size}, {fill_value}, dtype={dtype?})", "torch.full((2, 3), 0.5)", form="function"),
    Row("eye", "n, m=None, *, dtype=None", "jnp.eye({n}, {m?}, dtype={dtype?})", "torch.eye(3)", form="function", result="array=2"),
    Row("arange", "end, *, dtype=None", "jnp.arange({end}, dtype={dtype?})", "torch.arange(5)", form="function", result="array=1"),
    Row("arange", "start, end, *, dtype=None", "jnp.arange({start}, {end}, dtype={dtype?})", "torch.arange(1, 5)", form="function", result="array=1"),
    Row("arange", "start, end, step=1, *, dtype=None", "jnp.arange({start}, {end}, {step}, dtype={dtype?})", "torch.arange(0, 6, 2, dtype=torch.float32)", form="function", result="array=1"),
    Row("linspace", "start, end, steps, *, dtype=None", "jnp.linspace({start}, {end}, {steps}, dtype={dtype?})", "torch.linspace(0, 1, 5)", form="function", result="array=1"),
    Row("linspace", "*ends, dtype=None", "jnp.linspace({ends:star}, dtype={dtype?})", "torch.linspace(*(0.0, 1.0), 5)", form="function", result="array=1"),
    Row("linspace", "*ends, steps, dtype=None", "jnp.linspace({ends:star}, num={steps}, dtype={dtype?})", "torch.linspace(*(0.0, 1.0), steps=5)", form="function", result="array=1"),
    Row("logspace", "start, end, steps, base=10.0, *, dtype=None", "jnp.logspace({start}, {end}, {steps}, base={base?}, dtype={dtype?})", "torch.logspace(0, 1, 5)", form="function", result="array=1"),
    # As another array.
    *(
        Row(name, "x, *, dtype=None", f"jnp.{ours}({{x}}, dtype={{dtype?}})", f"torch.{name}(x){tail}", form="function")
        for name, ours, tail in (("zeros_like", "zeros_like", ""), ("ones_like", "ones_like", ""), ("empty_like", "zeros_like", ".shape"))
    ),
    Row("full_like", "x, fill_value, *, dtype=None", "jnp.full_like({x}, {fill_value}, dtype={dtype?})", "torch.full_like(x, 2.0)", form="function"),
    *(
        row
        for name, ours, tail in (("new_zeros", "zeros", ""), ("new_ones", "ones", ""), ("new_empty", "zeros", ".shape"))
        for row in (
            Row(name, "x, *size, dtype", f"jnp.{ours}({{size:tuple}}, dtype={{dtype}})", f"x.{name}(2, 3, dtype=torch.int32){tail}", form="method"),
            Row(name, "x, *size", f"jnp.{ours}({{size:tuple}}, dtype={{x}}.dtype)", f"x.{name}((2, 3)){tail}", form="method"),
        )
    ),
    Row("new_full", "x, size, fill_value, *, dtype", "jnp.full({size}, {fill_value}, dtype={dtype})", "x.new_full((2, 3), 1, dtype=torch.int32)", form="method"),
    Row("new_full", "x, size, fill_value", "jnp.full({size}, {fill_value}, dtype={x}.dtype)", "x.new_full((2, 3), 1)", form="method"),
    Row("new_tensor", "x, data, *, dtype", "jnp.asarray({data}, dtype={dtype})", "x.new_tensor([1, 2], dtype=torch.int32)", form="method"),
    Row("new_tensor", "x, data", "jnp.asarray({data}, dtype={x}.dtype)", "x.new_tensor([1, 2])", form="method"),
    # From data.
    Row("tensor", "data, dtype=None", "jnp.asarray({data}, dtype={dtype?})", "torch.tensor(1.0)", when="data:number", form="function"),
    Row("tensor", "data, dtype=None", "jnp.array({data}, dtype={dtype?})", "torch.tensor([1.0, 2.0])", form="function"),
    *(
        Row(name, "data, dtype=None", "jnp.asarray({data}, dtype={dtype?})", f"torch.{name}([1.0, 2.0])", form="function")
        for name in ("as_tensor", "asarray")
    ),
    Row("from_numpy", "ndarray", "jnp.asarray({ndarray})", "torch.from_numpy(np.ones(3, np.float32))", form="function", note="shares no memory with the NumPy array"),
    *(
        row
        for name, dtype in (("Tensor", "float32"), ("FloatTensor", "float32"), ("LongTensor", "int32"), ("IntTensor", "int32"), ("BoolTensor", "bool_"), ("HalfTensor", "float16"), ("ByteTensor", "uint8"))
        for row in (
            Row(name, "*size", f"jnp.zeros({{size:tuple}}, dtype=jnp.{dtype})", f"torch.{name}(2, 3).shape", when="size:counts", form="function"),
            Row(name, "data", f"jnp.asarray({{data}}, dtype=jnp.{dtype})", f"torch.{name}([1, 0])", when="data:items", form="function"),
            Row(name, "data", f"(jnp.zeros({{data}}, dtype=jnp.{dtype}) if np.ndim({{data}}) == 0 else jnp.asarray({{data}}, dtype=jnp.{dtype}))", f"d = eval('3'); torch.{name}(d).shape", when="data:simple", form="function"),
            Row(name, "data", f"jnp.asarray({{data}}, dtype=jnp.{dtype})", f"torch.{name}(eval('[1, 0]'))", form="function", status="changed", note="a number would be a size in torch"),
        )
    ),
    Row("autograd.Variable", "x", "{x}", "torch.autograd.Variable(x)", form="function", result="x", knows="array"),
    Row("complex", "real, imag", "jax.lax.complex(*jnp.broadcast_arrays({real}, {imag}))", "torch.complex(x, y)", form="function"),
    Row("polar", "abs, angle", "{abs} * jnp.exp(1j * {angle})", "torch.polar(p, x)", form="function"),
    Row("view_as_real", "x", "jnp.stack([{x}.real, {x}.imag], axis=-1)", "torch.view_as_real(z)", when="x:simple", form="function", result="array+1"),
    Row("view_as_real", "x", "(lambda _c: jnp.stack([_c.real, _c.imag], axis=-1))({x})", "torch.view_as_real(z * 2)", form="function", result="array+1"),
    Row("view_as_complex", "x", "jax.lax.complex({x}[..., 0], {x}[..., 1])", "torch.view_as_complex(c2)", when="x:simple", form="function", result="array-1"),
    Row("view_as_complex", "x", "jax.lax.complex(*jnp.unstack({x}, axis=-1))", "torch.view_as_complex(c2 * 2)", form="function", result="array-1"),
    # Random numbers, from torch's stream.
    Row("randn", "*size, dtype=None, generator=None", "nn.randn({size}, dtype={dtype?}, generator={generator?})", "torch.randn(2, 3).shape", form="function"),
    Row("rand", "*size, dtype=None, generator=None", "nn.rand({size}, dtype={dtype?}, generator={generator?})", "torch.rand(2, 3).shape", form="function"),
    Row("randn_like", "x, *, dtype=None", "nn.randn_like({x}, dtype={dtype?})", "torch.randn_like(x).shape", form="function"),
    Row("rand_like", "x, *, dtype=None", "nn.rand_like({x}, dtype={dtype?})", "torch.rand_like(x).shape", form="function"),
    Row("randint", "high, size, *, dtype=None", "nn.randint({high}, {size}, dtype={dtype?})", "torch.randint(5, (2, 3)).shape", form="function"),
    Row("randint", "low, high, size, *, dtype=None", "nn.randint({low}, {high}, {size}, dtype={dtype?})", "torch.randint(0, 5, (2, 3)).shape", form="function"),
    Row("randperm", "n, *, dtype=None", "nn.randperm({n}, dtype={dtype?})", "torch.randperm(4).shape", form="function", result="array=1"),
    Row("normal", "mean=0.0, std=1.0, size=None", "nn.normal({mean}, {std}, {size?})", "torch.normal(0.0, 1.0, (2, 3)).shape", form="function"),
    Row("bernoulli", "x", "nn.bernoulli({x})", "torch.bernoulli(p / 2).shape"),
    Row("bernoulli", "x, p", "nn.bernoulli({x}, {p})", "torch.bernoulli(x, 0.5).shape", status="changed", note=_OTHERS),
    Row("multinomial", "x, num_samples, replacement=False", "nn.multinomial({x}, {num_samples}, {replacement?})", "torch.multinomial(p[0], 2).shape", status="changed", note=_OTHERS),
    # Casts.
    *(
        Row(
            name, "x", f"{{x}}.astype(jnp.{dtype})", f"{'p' if dtype == 'uint8' else 'x'}.{name}()",
            form="method", knows="name" if name in _TORCHS else "array",
        )
        for name, dtype in _CASTS.items()
    ),
    Row("long", "x", "{x}.astype(jnp.int32)", "x.long()", form="method", status="changed", note=_INT),
    Row("double", "x", "{x}.astype(jnp.float32)", "x.double().float()", form="method", knows="array", status="changed", note="float64 is float32"),
    Row("type_as", "x, other", "{x}.astype({other}.dtype)", "i.type_as(x)", form="method"),
    Row("type", "x, dtype", "{x}.astype({dtype})", "x.type(torch.int32)", when="dtype.kind=dtype", form="method", knows="array"),
    Row("to", "x, dtype", "{x}.astype({dtype})", "i.to(torch.float32)", when="dtype:dtype", form="method", knows="array"),
    Row("to", "x, *, dtype", "T.to({x}, dtype={dtype})", "i.to(dtype=x.dtype if n else torch.int32)", form="method", status="helper"),
    Row("to", "x, target, dtype", "{x}.astype({dtype})", "i.to(x.device, torch.float32)", when="target:device, dtype:dtype", form="method", knows="array"),
    Row("to", "x, target", "{x}", "x.to(y.device)", when="target:device", form="method", result="x", knows="array"),
    Row("to", "x", "{x}", "x.to(device=y.device)", form="method", result="x", knows="array"),
    Row("to", "x, other", "{x}.astype({other}.dtype)", "i.to(x)", when="other:array", form="method", knows="array"),
    Row("to", "x, *args, dtype=None", "T.to({x}, {args}, dtype={dtype?})", "i.to(torch.float32 if n else None)", form="method", result="x", status="helper"),
    # Of what type something is.
    Row("is_tensor", "obj", "T.is_tensor({obj})", "torch.is_tensor([x, n][n - 2])", form="function", result="bool", status="helper"),
    Row("is_floating_point", "x", "jnp.issubdtype({x}.dtype, jnp.floating)", "x.is_floating_point()", result="bool"),
    Row("is_complex", "x", "jnp.iscomplexobj({x})", "torch.is_complex(x)", result="bool"),
    Row("finfo", "type", "jnp.finfo({type})", "torch.finfo(x.dtype).max", form="function", result="info"),
    Row("iinfo", "type", "jnp.iinfo({type})", "torch.iinfo(torch.int32).max", form="function", result="info"),
    Row("get_default_dtype", "", "jnp.dtype(jnp.float32)", "torch.zeros(2, dtype=torch.get_default_dtype())", form="function", result="dtype"),
    # From where to where arrays are moved, and how the file is read, has no meaning: they are placed as JAX places arrays.
    Row(
        "load",
        "f, map_location=None, pickle_module=None, *, weights_only=None, mmap=None",
        "nn.load({f})",
        "import os, tempfile; at = os.path.join(tempfile.mkdtemp(), 'at.pt'); torch.save({'a': 3}, at);"
        " torch.load(at, map_location='cpu', weights_only=True)['a'] + n",
        form="function",
        result="unknown",
        drops="map_location pickle_module weights_only mmap",
    ),
    Row("manual_seed", "seed", "nn.manual_seed({seed})", "torch.manual_seed(0) is None", form="function", result="unknown"),
    Row("hann_window", "window_length, periodic=True", "jnp.hanning({window_length} + 1)[:-1]", "torch.hann_window(8)", when="periodic=True", form="function", result="array=1"),
    Row("hann_window", "window_length, periodic=True", "jnp.hanning({window_length})", "torch.hann_window(8, False)", when="periodic=False", form="function", result="array=1"),
)
