"""The judge of a hunt where PyTorch is not installed: textbook formulas in plain JAX, in float64.

The same formulas at the precision under test stand for PyTorch's own run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from parity.case import Case, Expected, fill, is_floating, numpy_dtype, rounded
from parity.hunt_programs import tuples

_EXACT = lax.Precision.HIGHEST


def with_truth(case: Case, precision: str) -> Case:
    """The case rounded to `precision`, with its expected values, as ``parity.truth.with_truth`` gives them."""
    case = rounded(case, precision)
    case.wrt = [i for i, array in enumerate(case.arrays) if is_floating(array)]
    with jax.enable_x64(True):
        truth, own = _run(case, np.dtype(np.float64), precision), _run(case, numpy_dtype(precision), precision)
    for key, value in truth.items():
        case.expected[key] = Expected(value, own[key], precision)
    return case


def _run(case: Case, dtype: np.dtype, precision: str) -> dict[str, np.ndarray]:
    arrays = [jnp.asarray(a.astype(dtype) if is_floating(a) else a) for a in case.arrays]
    points = {f"input {i}": arrays[i] for i in case.wrt}
    points |= {name: jnp.asarray(value.astype(dtype)) for name, value in case.state.items()}

    def forward(points: dict[str, jax.Array]) -> list[jax.Array]:
        full = [points.get(f"input {i}", array) for i, array in enumerate(arrays)]
        args, kwargs = (fill(tree, lambda item: full[item.index]) for tree in (case.args, case.kwargs))
        if case.make is not None:
            result = recurrent(case.make.name, points, case.make.kwargs, *args)
        else:
            result = _FORMULAS[case.name](*args, **kwargs)
        return list(result) if isinstance(result, tuple) else [result]

    def both(points: dict[str, jax.Array]) -> Any:
        outputs, pull = jax.vjp(forward, points)
        weights = [case.weight(f"output {i}", output.shape, precision) for i, output in enumerate(outputs)]
        return outputs, pull([jnp.asarray(w).astype(output.dtype) for w, output in zip(weights, outputs)])[0]

    outputs, gradients = jax.jit(both)(points)
    found = {f"output {i}": np.asarray(output) for i, output in enumerate(outputs)}
    return found | {f"gradient of {name}": np.asarray(g) for name, g in gradients.items()}


# -- convolutions -----------------------------------------------------------------------------------------------------


def _conv(
    spatial: int, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> jax.Array:
    step, move = tuples(dilation, spatial), tuples(stride, spatial)
    if padding == "same":  # the odd zero goes to the end
        whole = [gap * (taps - 1) for gap, taps in zip(step, weight.shape[2:])]
        pads = [(total // 2, total - total // 2) for total in whole]
    else:
        pads = [(pad, pad) for pad in tuples(0 if padding == "valid" else padding, spatial)]
    batched = x if x.ndim == spatial + 2 else x[None]
    layout = lax.ConvDimensionNumbers(*[tuple(range(spatial + 2))] * 3)
    out = lax.conv_general_dilated(
        batched, weight, move, pads, None, step, layout, feature_group_count=groups, precision=_EXACT
    )
    out = out if bias is None else out + bias.reshape(-1, *[1] * spatial)
    return out if x.ndim == spatial + 2 else out[0]


def _conv_transpose(
    spatial: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> jax.Array:
    """The gradient of a convolution by its input, which is what a transposed one is."""
    options = [tuples(option, spatial) for option in (stride, padding, output_padding, dilation)]
    size = [
        (length - 1) * move - 2 * pad + step * (taps - 1) + more + 1
        for length, taps, move, pad, more, step in zip(x.shape[-spatial:], weight.shape[2:], *options)
    ]
    channels = weight.shape[1] * groups
    # Of two taps of stride two without padding on the way back, XLA's swap of image and kernel ends the process.
    ways = zip(size, weight.shape[2:], *options)
    longer = [n + int((taps, move, pad, step) == (2, 2, 1, 1) and n % 2 == 0) for n, taps, move, pad, _, step in ways]
    shape = (*x.shape[: -spatial - 1], channels, *longer)
    zeros = jnp.zeros(shape, x.dtype)
    whole = functools.partial(
        _conv, spatial, weight=weight, bias=None, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    out = _cropped(jax.vjp(lambda y: _cropped(whole(y), x.shape), zeros)[1](x)[0], (*shape[:-spatial], *size))
    return out if bias is None else out + bias.reshape(-1, *[1] * spatial)


def _cropped(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A large dilation's output padding lets the convolution give one window more."""
    return array[tuple(map(slice, shape))]


# -- windows ----------------------------------------------------------------------------------------------------------

Places = list[tuple[np.ndarray, np.ndarray]]  # for each dimension: (windows, taps) places, and which of them count


def _windows(x: Any, places: Places, value: float) -> jax.Array:
    """(..., windows of each dimension, taps): what stands at the places, `value` where they do not count."""
    spatial = len(places)
    lead = x.ndim - spatial
    keep = np.ones((), bool)
    for i, (place, inside) in enumerate(places):
        x = jnp.take(x, jnp.asarray(np.clip(place, 0, x.shape[lead + i] - 1)), lead + i)
        x = jnp.moveaxis(x, lead + i + 1, -1)
        shape = [1] * (2 * spatial)
        shape[i], shape[spatial + i] = inside.shape
        keep = keep & inside.reshape(shape)
    x = jnp.where(jnp.asarray(keep), x, jnp.asarray(value, x.dtype))
    return x.reshape(*x.shape[:-spatial], -1)


def _largest(x: Any, places: Places) -> jax.Array:
    """The largest of each window; its gradient goes to the first of equal ones."""
    values = _windows(x, places, -math.inf)
    first = jnp.argmax(lax.stop_gradient(values), -1, keepdims=True)
    return jnp.take_along_axis(values, first, -1)[..., 0]


def _counts(places: Places, spatial: int) -> np.ndarray:
    """How many places count in each window."""
    counts = np.ones((), int)
    for i, (_, inside) in enumerate(places):
        counts = counts * inside.sum(1).reshape([-1 if j == i else 1 for j in range(spatial)])
    return counts


def _sliding(
    size: Sequence[int], kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, inside: Any
) -> Places:
    """The places of sliding windows; the last window may reach over the end with `ceil`, but not begin there."""
    spatial = len(size)
    options = (tuples(o, spatial) for o in (kernel, kernel if stride is None else stride, padding, dilation))
    found = []
    for length, taps, move, pad, step in zip(size, *options):
        room = length + 2 * pad - step * (taps - 1) - 1
        count = (-(-room // move) if ceil else room // move) + 1
        if ceil and (count - 1) * move >= length + pad:
            count -= 1
        place = np.arange(count)[:, None] * move - pad + np.arange(taps) * step
        low, high = (-pad, length + pad) if inside == "padding" else (0, length)
        found.append((place, (place >= low) & (place < high)))
    return found


def _max_pool(
    spatial: int, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> jax.Array:
    return _largest(x, _sliding(x.shape[-spatial:], kernel_size, stride, padding, dilation, ceil_mode, "input"))


def _avg_pool(
    spatial: int,
    x: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None = None,
) -> jax.Array:
    slide = functools.partial(_sliding, x.shape[-spatial:], kernel_size, stride, padding, 1, ceil_mode)
    counted = _counts(slide("padding" if count_include_pad else "input"), spatial)
    total = _windows(x, slide("input"), 0).sum(-1)
    return total / jnp.asarray(counted if divisor_override is None else divisor_override, total.dtype)


def _lp_pool(spatial: int, x: Any, norm_type: float, kernel_size: Any, stride: Any, ceil_mode: bool) -> jax.Array:
    mean = _avg_pool(spatial, x**norm_type, kernel_size, stride, 0, ceil_mode, True)
    return (jnp.sign(mean) * jax.nn.relu(jnp.abs(mean)) * math.prod(tuples(kernel_size, spatial))) ** (1 / norm_type)


def _adaptive(size: Sequence[int], output_size: Any) -> Places:
    found = []
    for length, count in zip(size, tuples(output_size, len(size))):
        window = np.arange(count)
        low, high = window * length // count, -(-(window + 1) * length // count)
        place = low[:, None] + np.arange((high - low).max())
        found.append((place, place < high[:, None]))
    return found


def _adaptive_avg_pool(spatial: int, x: Any, output_size: Any) -> jax.Array:
    places = _adaptive(x.shape[-spatial:], output_size)
    total = _windows(x, places, 0).sum(-1)
    return total / jnp.asarray(_counts(places, spatial), total.dtype)


def _adaptive_max_pool(spatial: int, x: Any, output_size: Any) -> jax.Array:
    return _largest(x, _adaptive(x.shape[-spatial:], output_size))


# -- products, attention, normalization, recurrences ------------------------------------------------------------------


def _linear(x: Any, weight: Any, bias: Any) -> jax.Array:
    out = jnp.matmul(x, weight.T, precision=_EXACT)
    return out if bias is None else out + bias


def _bilinear(first: Any, second: Any, weight: Any, bias: Any) -> jax.Array:
    out = jnp.einsum("...i,oij,...j->...o", first, weight, second, precision=_EXACT)
    return out if bias is None else out + bias


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> jax.Array:
    if enable_gqa:
        key, value = (jnp.repeat(array, query.shape[1] // array.shape[1], 1) for array in (key, value))
    scores = jnp.einsum("...qe,...ke->...qk", query, key, precision=_EXACT)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if attn_mask is not None and attn_mask.dtype == bool:
        scores = jnp.where(attn_mask, scores, -jnp.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return jnp.matmul(jax.nn.softmax(scores, -1), value, precision=_EXACT)


def _standardised(x: Any, axes: tuple[int, ...], eps: float = 1e-5) -> jax.Array:
    centred = x - x.mean(axes, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(axes, keepdims=True) + eps)


def _affine(x: Any, weight: Any, bias: Any, channels: bool = False) -> jax.Array:
    shape = (-1, *[1] * (x.ndim - 2)) if channels else None
    if weight is not None:
        x = x * (weight if shape is None else weight.reshape(shape))
    return x if bias is None else x + (bias if shape is None else bias.reshape(shape))


def _layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None) -> jax.Array:
    return _affine(_standardised(x, tuple(range(-len(normalized_shape), 0))), weight, bias)


def _rms_norm(x: Any, normalized_shape: Any, weight: Any = None) -> jax.Array:
    axes = tuple(range(-len(normalized_shape), 0))
    # float64's default eps is not float32's, whose result is judged
    return _affine(x / jnp.sqrt((x**2).mean(axes, keepdims=True) + jnp.finfo(x.dtype).eps), weight, None)


def _group_norm(x: Any, num_groups: int, weight: Any, bias: Any) -> jax.Array:
    grouped = x.reshape(x.shape[0], num_groups, -1)
    return _affine(_standardised(grouped, (2,)).reshape(x.shape), weight, bias, channels=True)


def _batch_norm(x: Any, mean: None, variance: None, weight: Any, bias: Any, training: bool) -> jax.Array:
    return _affine(_standardised(x, (0, *range(2, x.ndim))), weight, bias, channels=True)


def _instance_norm(x: Any, weight: Any, bias: Any) -> jax.Array:
    return _affine(_standardised(x, tuple(range(2, x.ndim))), weight, bias, channels=True)


def recurrent(
    kind: str, state: dict[str, Any], options: dict[str, Any], x: Any, initial: Any = None
) -> tuple[Any, ...]:
    """The outputs and the last states of ``nn.RNN``, ``nn.GRU`` or ``nn.LSTM``."""
    if options["batch_first"]:
        x = x.swapaxes(0, 1)
    hidden = state["weight_hh_l0"].shape[0] // {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    ways = ("", "_reverse") if options["bidirectional"] else ("",)
    last: list[tuple[Any, ...]] = []
    for layer in range(options["num_layers"]):
        found = []
        for way in ways:
            tail = f"_l{layer}{way}"
            width = state[f"weight_hh{tail}"].shape[1]
            sizes = (width, hidden) if kind == "LSTM" else (width,)
            start = tuple(jnp.zeros((x.shape[1], size), x.dtype) for size in sizes)
            if initial is not None:
                given = initial if isinstance(initial, tuple) else (initial,)
                start = tuple(array[len(last)] for array in given)
            step = functools.partial(_step, kind, state, tail, options.get("nonlinearity", "tanh"))
            end, outputs = lax.scan(step, start, x, reverse=way != "")
            last.append(end)
            found.append(outputs)
        x = jnp.concatenate(found, -1)
    ends = tuple(jnp.stack(parts) for parts in zip(*last))
    return (x.swapaxes(0, 1) if options["batch_first"] else x, *ends)


def _step(kind: str, state: dict[str, Any], tail: str, nonlinearity: str, carry: Any, x: Any) -> Any:
    def product(stem: str, array: Any) -> Any:
        return _linear(array, state[f"weight_{stem}{tail}"], state.get(f"bias_{stem}{tail}"))

    into, back = product("ih", x), product("hh", carry[0])
    if kind == "RNN":
        h = (jnp.tanh if nonlinearity == "tanh" else jax.nn.relu)(into + back)
        return (h,), h
    if kind == "GRU":
        (r, z, n), (rh, zh, nh) = jnp.split(into, 3, -1), jnp.split(back, 3, -1)
        z = jax.nn.sigmoid(z + zh)
        h = (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + rh) * nh) + z * carry[0]
        return (h,), h
    i, f, g, o = jnp.split(into + back, 4, -1)
    c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    if f"weight_hr{tail}" in state:
        h = jnp.matmul(h, state[f"weight_hr{tail}"].T, precision=_EXACT)
    return (h, c), h


_FORMULAS: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "bilinear": _bilinear,
    "scaled_dot_product_attention": _attention,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    **{f"conv{n}d": functools.partial(_conv, n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": functools.partial(_conv_transpose, n) for n in (1, 2, 3)},
    **{f"max_pool{n}d": functools.partial(_max_pool, n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": functools.partial(_avg_pool, n) for n in (1, 2, 3)},
    **{f"lp_pool{n}d": functools.partial(_lp_pool, n) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": functools.partial(_adaptive_avg_pool, n) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": functools.partial(_adaptive_max_pool, n) for n in (1, 2, 3)},
}
