"""The programs of a hunt: random calls with gradients, each drawn from its seed, family and number alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from parity.case import Case, Make, Slot

# How many of ten programs are of each family.
FAMILIES = {
    "conv": 3,
    "conv_transpose": 2,
    "linear": 1,
    "attention": 1,
    "pooling": 1,
    "recurrent": 1,
    "normalization": 1,
}
MODES = ("eager", "jit", "vmap", "scan", "checkpoint", "shard_map")
PRECISIONS = ("float32", "float32", "float32", "bfloat16", "float16", "float64")
BLOCK = 24  # so many neighbouring programs of a family share one environment, and one process
_WORK, _SIZE = 2e7, 4e5  # a program's multiplications and elements, at most


@dataclasses.dataclass(frozen=True)
class Environment:
    """What a process is started with.

    Attributes:
        devices: CPU devices that XLA shows.
        isa: ``--xla_cpu_max_isa``; "" leaves the choice to XLA.
        cores: cores that the process may use.
        x64: ``jax_enable_x64``.
    """

    devices: int
    isa: str
    cores: int
    x64: bool

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that say so."""
        flags = f"--xla_force_host_platform_device_count={self.devices}"
        flags += f" --xla_cpu_max_isa={self.isa}" if self.isa else ""
        threads = {"NPROC": str(8 * self.devices)} if self.devices > 1 else {}
        return {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": str(int(self.x64)), **threads}


@dataclasses.dataclass
class Program:
    """One call, how it is run, and at which precision.

    Attributes:
        case: the call with its arrays, in float32.
        mode: of `MODES`.
        precision: of `PRECISIONS`.
    """

    case: Case
    mode: str
    precision: str

    @property
    def text(self) -> str:
        """The call as a reader would write it, arrays as their shapes."""

        def show(item: Any) -> str:
            if isinstance(item, Slot):
                return str(list(self.case.arrays[item.index].shape))
            if isinstance(item, tuple):
                return f"({', '.join(map(show, item))})"
            return repr(item)

        def call(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
            return f"{name}({', '.join([*map(show, args), *(f'{key}={show(v)}' for key, v in kwargs.items())])})"

        case = self.case
        made = call(f"nn.{case.make.name}", case.make.args, case.make.kwargs) if case.make else f"F.{case.name}"
        return f"{call(made, case.args, case.kwargs)}, {self.precision}, {self.mode}"


def names(families: Sequence[str], count: int) -> list[str]:
    """The first `count` programs of these families, "conv/0" and so on, in their shares."""
    shares = {family: FAMILIES[family] for family in families}
    found = []
    for round_ in itertools.count():
        for family, share in shares.items():
            found += [f"{family}/{number}" for number in range(round_ * share, (round_ + 1) * share)]
        if len(found) >= count:
            return found[:count]
    raise AssertionError


def environment(seed: int, name: str) -> Environment:
    """The environment of the block that the program stands in."""
    family, number = name.split("/")
    rng = np.random.default_rng(zlib.crc32(f"{seed}/{family}/block {int(number) // BLOCK}".encode()))
    isa = str(rng.choice(["", "", "SSE4_2", "AVX2", "AVX512"]))
    return Environment(int(rng.choice([1, 8])), isa, int(rng.choice([1, 2])), bool(rng.integers(2)))


def block(name: str) -> str:
    """A key that the programs of one block share."""
    family, number = name.split("/")
    return f"{family}/{int(number) // BLOCK}"


def program(seed: int, name: str) -> Program:
    """The program of this name: the same for the same seed on every machine."""
    family = name.split("/")[0]
    draw = Draw(np.random.default_rng(zlib.crc32(f"{seed}/{name}".encode())))
    mode = draw.one(*MODES)
    precision = draw.one(*PRECISIONS)
    settings = environment(seed, name)
    # XLA itself compiles no float16 for SSE4.2: it calls conversions that it does not bring.
    if (precision == "float64" and not settings.x64) or (precision == "float16" and settings.isa == "SSE4_2"):
        precision = "float32"
    case = _GENERATORS[family](draw)
    options = case.make.kwargs if case.make else {}
    if precision in ("bfloat16", "float16") and options.get("nonlinearity") == "relu":
        # Among thousands of values some lie nearer to relu's kink than 16 bits tell: on which side is chance, and the
        # gradient of every earlier step follows.
        options["nonlinearity"] = "tanh"
    case.label, case.second = f"{seed}/{name}", False
    return Program(case, mode, precision)


class Draw:
    """Random choices, and the arrays of the case that is being made."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.arrays: list[np.ndarray] = []

    def one(self, *choices: Any) -> Any:
        """One of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def between(self, low: int, high: int) -> int:
        """An int from `low` to `high`; small ones are as likely as large ones, by order of magnitude."""
        return (
            min(high, int(math.exp(self.rng.uniform(math.log(low + 1), math.log(high + 2))) - 1)) if low < high else low
        )

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < share)

    def option(self, spatial: int, *choices: int) -> Any:
        """An option of `spatial` dimensions: one int, or one for each."""
        if self.chance(0.5):
            return self.one(*choices)
        return tuple(self.one(*choices) for _ in range(spatial))

    def array(self, *shape: int, scale: float = 1.0) -> Slot:
        """A new array of normal numbers."""
        self.arrays.append((self.rng.standard_normal(shape) * scale).astype(np.float32))
        return Slot(len(self.arrays) - 1)

    def case(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], make: Make | None = None) -> Case:
        """The case of a call, with the arrays drawn."""
        return Case("hunt", name, "", make, args, kwargs, self.arrays)


def tuples(value: Any, spatial: int) -> tuple[int, ...]:
    """An option as one int for each dimension."""
    return (value,) * spatial if isinstance(value, int) else tuple(value)


_CHANNELS = (1, 1, 2, 3, 4, 5, 8, 16, 16, 32, 33, 64, 65, 128, 130)
_LENGTHS = {1: 6000, 2: 70, 3: 18}


def _conv(draw: Draw) -> Case:
    while True:
        spatial = draw.one(1, 2, 2, 3)
        groups = draw.one(1, 1, 1, 2, 3, 4, 8, 32)
        inputs, outputs = draw.one(*_CHANNELS), draw.one(*_CHANNELS)
        if draw.chance(0.2):  # depthwise
            inputs, outputs = 1, draw.one(1, 1, 2, 3)
        size = [draw.between(1, _LENGTHS[spatial]) for _ in range(spatial)]
        kernel = [draw.one(1, 1, 2, 3, 3, 3, 4, 5, 7, 11) for _ in range(spatial)]
        stride = draw.option(spatial, 1, 1, 1, 2, 2, 3, 4, 5, 7)
        dilation = draw.option(spatial, 1, 1, 1, 2, 3, 4)
        padding = draw.option(spatial, 0, 0, 1, 1, 2, 3, 5, 20)
        if draw.chance(0.15):
            padding = "valid" if stride != 1 else draw.one("same", "valid")
        pads = tuples(padding, spatial) if not isinstance(padding, str) else (0,) * spatial
        reach = [step * (taps - 1) for step, taps in zip(tuples(dilation, spatial), kernel)]
        if padding == "same":
            out = size
        else:
            ways = zip(size, pads, reach, tuples(stride, spatial))
            out = [(length + 2 * pad - span - 1) // move + 1 for length, pad, span, move in ways]
        batch = draw.one(1, 1, 2, 3, 8, 17)
        work = batch * math.prod(out) * outputs * groups * inputs * math.prod(kernel)
        elements = max(batch * groups * inputs * math.prod(size), batch * groups * outputs * math.prod(out, start=1))
        if min(out) >= 1 and work <= _WORK and elements <= _SIZE and groups * max(inputs, outputs) <= 520:
            break
    lead = () if draw.chance(0.1) else (batch,)
    x = draw.array(*lead, groups * inputs, *size)
    weight = draw.array(groups * outputs, inputs, *kernel, scale=(inputs * math.prod(kernel)) ** -0.5)
    bias = draw.array(groups * outputs) if draw.chance(0.5) else None
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return draw.case(f"conv{spatial}d", (x, weight, bias), options)


def _conv_transpose(draw: Draw) -> Case:
    while True:
        spatial = draw.one(1, 2, 2, 3)
        groups = draw.one(1, 1, 1, 2, 3, 8)
        inputs, outputs = draw.one(*_CHANNELS), draw.one(*_CHANNELS)
        if draw.chance(0.2):
            inputs, outputs = 1, draw.one(1, 1, 2)
        size = [draw.between(1, _LENGTHS[spatial] // 3) for _ in range(spatial)]
        kernel = [draw.one(1, 2, 3, 3, 4, 5, 7) for _ in range(spatial)]
        stride = draw.option(spatial, 1, 1, 2, 2, 3, 5, 7)
        dilation = draw.option(spatial, 1, 1, 1, 2, 3)
        padding = draw.option(spatial, 0, 0, 1, 1, 2, 3)
        ways = list(zip(size, *(tuples(option, spatial) for option in (stride, dilation, padding)), kernel))
        extra = tuple(draw.one(0, 0, min(1, max(move, step) - 1)) for _, move, step, _, _ in ways)
        out = [
            (length - 1) * move - 2 * pad + step * (taps - 1) + more + 1
            for (length, move, step, pad, taps), more in zip(ways, extra)
        ]
        batch = draw.one(1, 1, 2, 3, 8)
        work = batch * math.prod(size) * outputs * groups * inputs * math.prod(kernel)
        elements = batch * groups * max(inputs * math.prod(size), outputs * math.prod(out))
        if min(out) >= 1 and work <= _WORK and elements <= _SIZE and groups * max(inputs, outputs) <= 520:
            break
    lead = () if draw.chance(0.1) else (batch,)
    x = draw.array(*lead, groups * inputs, *size)
    weight = draw.array(groups * inputs, outputs, *kernel, scale=(inputs * math.prod(kernel)) ** -0.5)
    bias = draw.array(groups * outputs) if draw.chance(0.5) else None
    options = {"stride": stride, "padding": padding, "output_padding": extra, "groups": groups, "dilation": dilation}
    return draw.case(f"conv_transpose{spatial}d", (x, weight, bias), options)


def _linear(draw: Draw) -> Case:
    lead = tuple(draw.between(1, 40) for _ in range(draw.between(0, 3)))
    if draw.chance(0.35):
        first, second, out = draw.between(1, 40), draw.between(1, 40), draw.between(1, 20)
        lead = (*lead[:2], 1)[: max(1, len(lead[:2]))]
        weight = draw.array(out, first, second, scale=(first * second) ** -0.5)
        bias = draw.array(out) if draw.chance(0.5) else None
        return draw.case("bilinear", (draw.array(*lead, first), draw.array(*lead, second), weight, bias), {})
    while True:
        inputs, outputs = draw.between(1, 1500), draw.between(1, 1500)
        if math.prod(lead) * inputs * outputs <= _WORK and inputs * outputs <= _SIZE:
            break
    weight = draw.array(outputs, inputs, scale=inputs**-0.5)
    bias = draw.array(outputs) if draw.chance(0.7) else None
    return draw.case("linear", (draw.array(*lead, inputs), weight, bias), {})


def _attention(draw: Draw) -> Case:
    batch, heads = draw.between(1, 4), draw.between(1, 6)
    width, value_width = draw.one(1, 3, 8, 16, 64), draw.one(1, 8, 16, 64)
    queries, keys = draw.between(1, 150), draw.between(1, 150)
    if draw.chance(0.15):  # long enough for attention in blocks
        batch, heads, width, value_width, queries, keys = 1, 1, 8, 8, draw.one(1024, 1100), draw.one(1024, 1200)
    grouped = heads % 2 == 0 and draw.chance(0.3)
    key_heads = heads // 2 if grouped else heads
    query = draw.array(batch, heads, queries, width)
    key, value = draw.array(batch, key_heads, keys, width), draw.array(batch, key_heads, keys, value_width)
    kwargs: dict[str, Any] = {"enable_gqa": True} if grouped else {}
    kind = draw.one("", "causal", "bool", "float")
    if kind == "causal":
        kwargs["is_causal"] = True
    elif kind == "float":
        kwargs["attn_mask"] = draw.array(*draw.one((), (batch, 1), (batch, heads)), queries, keys)
    elif kind == "bool":
        mask = draw.rng.random((queries, keys)) < 0.7
        mask[:, 0] = True
        draw.arrays.append(mask)
        kwargs["attn_mask"] = Slot(len(draw.arrays) - 1)
    if draw.chance(0.3):
        kwargs["scale"] = draw.one(0.1, 0.5, 1.0)
    return draw.case("scaled_dot_product_attention", (query, key, value), kwargs)


def _pooling(draw: Draw) -> Case:
    while True:
        spatial = draw.one(1, 2, 3)
        kind = draw.one("max", "max", "avg", "avg", "lp", "adaptive_avg", "adaptive_max")
        lead = (draw.between(1, 8), draw.between(1, 40))[1 if draw.chance(0.15) else 0 :]
        size = [draw.between(1, _LENGTHS[spatial]) for _ in range(spatial)]
        kernel = draw.option(spatial, 1, 2, 2, 3, 3, 4, 5, 7)
        if (kind, spatial) == ("lp", 1):  # torch takes no tuple here: it multiplies by the size
            (kernel,) = tuples(kernel, 1)
        stride = None if draw.chance(0.3) else draw.option(spatial, 1, 1, 2, 3, 5, 7)
        dilation = draw.option(spatial, 1, 1, 1, 2, 3) if kind == "max" else 1
        padding = draw.option(spatial, 0, 0, 1, 2, 3) if kind in ("max", "avg") else 0
        ceil = draw.chance(0.3)
        ways = list(zip(*(tuples(option, spatial) for option in (size, kernel, dilation, padding))))
        fits = all(length >= step * (taps - 1) + 1 and 2 * pad <= taps for length, taps, step, pad in ways)
        taps = math.prod(tuples(kernel, spatial))
        if kind.startswith("adaptive"):
            fits, taps = True, 1
        if (
            fits
            and math.prod(lead) * math.prod(size) <= _SIZE / 4
            and taps * math.prod(lead) * math.prod(size) <= _WORK
        ):
            break
    if kind.startswith("adaptive"):
        out = tuple(draw.between(1, length + 2) for length in size)
        return draw.case(f"{kind}_pool{spatial}d", (draw.array(*lead, *size), out if spatial > 1 else out[0]), {})
    kwargs: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "ceil_mode": ceil}
    if kind == "lp":
        return draw.case(f"lp_pool{spatial}d", (draw.array(*lead, *size), draw.one(1.0, 2.0, 4.0)), kwargs)
    kwargs["padding"] = padding
    if kind == "max":
        kwargs["dilation"] = dilation
    else:
        kwargs["count_include_pad"] = draw.chance(0.5)
        if spatial > 1 and draw.chance(0.2):
            kwargs["divisor_override"] = draw.between(1, 9)
    return draw.case(f"{kind}_pool{spatial}d", (draw.array(*lead, *size),), kwargs)


GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def _recurrent(draw: Draw) -> Case:
    kind = draw.one(*GATES)
    inputs, hidden = draw.between(1, 70), draw.between(1, 70)
    layers, both = draw.one(1, 1, 2, 3), draw.chance(0.4)
    bias, batch_first = draw.chance(0.7), draw.chance(0.5)
    kwargs: dict[str, Any] = {"num_layers": layers, "bias": bias, "batch_first": batch_first, "bidirectional": both}
    if kind == "RNN":
        kwargs["nonlinearity"] = draw.one("tanh", "relu")
    out = hidden
    if kind == "LSTM" and hidden > 1 and draw.chance(0.3):
        kwargs["proj_size"] = out = draw.between(1, hidden - 1)
    length, batch = draw.between(1, 40), draw.between(1, 12)
    state = {}
    for layer, back in itertools.product(range(layers), range(1 + both)):
        into = inputs if layer == 0 else out * (1 + both)
        rows = GATES[kind] * hidden
        shapes = {"weight_ih": (rows, into), "weight_hh": (rows, out)}
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
        shapes |= {"weight_hr": (out, hidden)} if "proj_size" in kwargs else {}
        for stem, shape in shapes.items():
            name = f"{stem}_l{layer}{'_reverse' if back else ''}"
            state[name] = (draw.rng.uniform(-1, 1, shape) * hidden**-0.5).astype(np.float32)
    lead = (batch, length) if batch_first else (length, batch)
    args: tuple[Any, ...] = (draw.array(*lead, inputs),)
    if draw.chance(0.5):
        initial = draw.array(layers * (1 + both), batch, out)
        args += ((initial, draw.array(layers * (1 + both), batch, hidden)) if kind == "LSTM" else initial,)
    case = draw.case(kind, args, {}, Make(kind, (inputs, hidden), kwargs))
    case.state, case.parameters = state, list(state)
    return case


def _normalization(draw: Draw) -> Case:
    kind = draw.one("layer_norm", "rms_norm", "group_norm", "batch_norm", "instance_norm")
    affine = draw.chance(0.7)
    if kind in ("layer_norm", "rms_norm"):
        shape = tuple(draw.between(1, 60) for _ in range(draw.between(1, 3)))
        inner = shape[-draw.between(1, len(shape)) :]
        if kind == "rms_norm" and math.prod(inner) == 1:  # its gradient is nothing but rounding: x / |x| is a constant
            shape, inner = (*shape[:-1], 2), (*inner[:-1], 2)
        parts = (draw.array(*inner), draw.array(*inner))[: 1 + (kind == "layer_norm")] if affine else ()
        return draw.case(kind, (draw.array(*shape), inner, *parts), {})
    spatial = tuple(draw.between(2, (300, 30, 9)[rank]) for rank in [draw.between(0, 2)] for _ in range(rank + 1))
    groups, per_group = draw.between(1, 8), draw.between(1, 16)
    channels = groups * per_group
    x = draw.array(draw.between(2, 9), channels, *spatial)
    parts = (draw.array(channels), draw.array(channels)) if affine else (None, None)
    if kind == "group_norm":
        return draw.case(kind, (x, groups, *parts), {})
    kwargs = {"weight": parts[0], "bias": parts[1]}
    if kind == "instance_norm":
        return draw.case(kind, (x,), kwargs)
    return draw.case(kind, (x, None, None), kwargs | {"training": True})


_GENERATORS: dict[str, Callable[[Draw], Case]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "attention": _attention,
    "pooling": _pooling,
    "recurrent": _recurrent,
    "normalization": _normalization,
}


def programs(seed: int, wanted: Sequence[str]) -> Iterator[tuple[str, Program]]:
    """The programs of these names."""
    for name in wanted:
        yield name, program(seed, name)
