"""The calls of ``parity rejects``: random shapes and options of every family, about half of them bad."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass
class Call:
    """A function and its arguments, or a class, what it is made of, and the arguments of its call."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    make: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def map(self, function: Callable[[Any], Any]) -> Call:
        """The call with `function` over each argument of its call, also inside tuples."""

        def go(item: Any) -> Any:
            return tuple(map(go, item)) if isinstance(item, tuple) else function(item)

        return dataclasses.replace(
            self, args=go(self.args), kwargs={key: go(item) for key, item in self.kwargs.items()}
        )

    def __str__(self) -> str:
        def show(item: Any) -> str:
            if isinstance(item, np.ndarray):
                return f"{item.dtype.name}{list(item.shape)}"
            if isinstance(item, tuple):
                return f"({', '.join(map(show, item))})"
            return repr(item)

        def call(args: Any, kwargs: Any) -> str:
            return f"({', '.join([*map(show, args), *(f'{key}={show(item)}' for key, item in kwargs.items())])})"

        return f"{self.name}{call(*self.make) if self.make else ''}{call(self.args, self.kwargs)}"


class Draw:
    """Random choices."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def one(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def int(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def shape(self, low: int, high: int, most: int = 5) -> tuple[int, ...]:
        """Between `low` and `high` dimensions, now and then an empty one."""
        return tuple(0 if self.chance(0.03) else self.int(1, most) for _ in range(self.int(low, high)))

    def option(self, spatial: int, low: int, high: int) -> Any:
        """An int or one for each dimension; one in ten is too few, too many, too small or no int."""
        number = lambda: self.int(low, high)  # noqa: E731
        if self.chance(0.9):
            return number() if self.chance(0.5) else tuple(number() for _ in range(spatial))
        return self.one(
            (number(),), (number(),) * (spatial + 1), 0, -1, 1.5, (number(),) * max(spatial - 1, 0), (0,) * spatial
        )

    def floats(self, *shape: int) -> np.ndarray:
        return np.ones(shape, np.float32)

    def odd(self, array: np.ndarray) -> np.ndarray:
        """The array, now and then of integers."""
        return array.astype(np.int64) if self.chance(0.04) else array

    def near(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape, now and then with another size, or a dimension more or less."""
        if self.chance(0.75) or not shape:
            return shape
        at = self.int(0, len(shape) - 1)
        return self.one(
            (*shape[:at], self.int(1, 5), *shape[at + 1 :]), shape[1:], (*shape, 2), (*shape[:at], 1, *shape[at + 1 :])
        )

    def classes(self, count: int, *shape: int) -> np.ndarray:
        return self.rng.integers(0, max(count, 1), shape).astype(np.int64)


def _spatial(draw: Draw, spatial: int, most: int = 7) -> np.ndarray:
    shape = draw.shape(spatial + 1, spatial + 2, most) if draw.chance(0.9) else draw.shape(0, 6, most)
    return draw.odd(draw.floats(*shape))


def _conv(draw: Draw) -> Call:
    spatial, groups = draw.int(1, 3), draw.one(1, 1, 1, 2, 3, 0, -1) if draw.chance(0.3) else 1
    x = draw.floats(*draw.near((*(2, 4)[draw.int(0, 1) :], *(draw.int(1, 6) for _ in range(spatial)))))
    weight = draw.floats(*draw.near((4, 4 // max(groups, 1), *(draw.int(1, 4) for _ in range(spatial)))))
    bias = draw.one(None, None, draw.floats(*draw.near((4,))))
    padding = draw.option(spatial, 0, 3) if draw.chance(0.85) else draw.one("same", "valid", "full")
    options = {"stride": draw.option(spatial, 1, 3), "padding": padding, "dilation": draw.option(spatial, 1, 3)}
    return Call(f"conv{spatial}d", (x, weight, bias), options | {"groups": groups})


def _conv_transpose(draw: Draw) -> Call:
    spatial, groups = draw.int(1, 3), draw.one(1, 1, 2, 4, 3)
    x = draw.floats(*draw.near((*(2, 4)[draw.int(0, 1) :], *(draw.int(1, 4) for _ in range(spatial)))))
    weight = draw.floats(*draw.near((4, 2, *(draw.int(1, 4) for _ in range(spatial)))))
    bias = draw.one(None, None, draw.floats(*draw.near((2 * groups,))))
    limits = {"stride": (1, 3), "padding": (0, 3), "output_padding": (0, 2), "dilation": (1, 2)}
    options = {name: draw.option(spatial, *limit) for name, limit in limits.items()}
    return Call(f"conv_transpose{spatial}d", (x, weight, bias), options | {"groups": groups})


def _pooling(draw: Draw) -> Call:
    spatial, kind = draw.int(1, 3), draw.one("avg", "max", "lp")
    options: dict[str, Any] = {"kernel_size": draw.option(spatial, 1, 4), "ceil_mode": draw.chance(0.5)}
    if draw.chance(0.6):
        options["stride"] = draw.option(spatial, 1, 4)
    if kind != "lp":
        options["padding"] = draw.option(spatial, 0, 2)
    if kind == "max":
        options |= {"dilation": draw.option(spatial, 1, 2), "return_indices": draw.chance(0.3)}
    if kind == "lp":
        options["norm_type"] = draw.one(1, 2.0, 2)
    if kind == "avg" and spatial > 1 and draw.chance(0.3):
        options["divisor_override"] = draw.one(1, 3, 0, -2, None)
    return Call(f"{kind}_pool{spatial}d", (_spatial(draw, spatial),), options)


def _adaptive(draw: Draw) -> Call:
    spatial, kind = draw.int(1, 3), draw.one("avg", "max")
    size = draw.option(spatial, 1, 6)
    if isinstance(size, tuple) and draw.chance(0.3):
        size = tuple(None if draw.chance(0.4) else item for item in size)
    kwargs = {"return_indices": True} if kind == "max" and draw.chance(0.3) else {}
    return Call(f"adaptive_{kind}_pool{spatial}d", (_spatial(draw, spatial), size), kwargs)


def _fractional(draw: Draw) -> Call:
    spatial = draw.int(2, 3)
    kwargs: dict[str, Any] = {}
    if draw.chance(0.55):
        kwargs["output_size"] = draw.option(spatial, 1, 5)
    if draw.chance(0.5):
        kwargs["output_ratio"] = draw.one(0.5, 0.7, 1.0, 0.0, 1.5, (0.5,) * spatial, (0.5, 0.9, 0.3)[:spatial])
    x = _spatial(draw, spatial)
    if draw.chance(0.3):
        lead = x.shape[: max(x.ndim - spatial, 0)]
        lead = (1, *lead) if len(lead) == 1 else lead
        kwargs["_random_samples"] = draw.floats(*draw.near((*lead, spatial))) * np.float32(0.5)
    kwargs["return_indices"] = draw.chance(0.3)
    return Call(f"fractional_max_pool{spatial}d", (x, draw.option(spatial, 1, 3)), kwargs)


def _unpool(draw: Draw) -> Call:
    spatial = draw.int(1, 3)
    x = _spatial(draw, spatial, 4)
    indices = np.zeros(draw.near(x.shape), np.int64) if draw.chance(0.95) else np.zeros(x.shape, np.int32)
    kwargs = {"kernel_size": draw.option(spatial, 1, 3)}
    if draw.chance(0.5):
        kwargs["stride"] = draw.option(spatial, 1, 3)
    if draw.chance(0.4):
        kwargs["padding"] = draw.option(spatial, 0, 1)
    if draw.chance(0.3):
        size = tuple(draw.int(1, 9) for _ in range(spatial))
        kwargs["output_size"] = draw.one(size, (*x.shape[:-spatial], *size), (*size, 2))
    return Call(f"max_unpool{spatial}d", (x, indices), kwargs)


def _fold(draw: Draw) -> Call:
    kernel = draw.option(2, 1, 3)
    kwargs = {"dilation": draw.option(2, 1, 2), "padding": draw.option(2, 0, 2), "stride": draw.option(2, 1, 3)}
    kwargs = {name: value for name, value in kwargs.items() if draw.chance(0.6)}
    if draw.chance(0.5):
        return Call("unfold", (_spatial(draw, 2), kernel), kwargs)
    size = draw.option(2, 2, 6)
    try:  # as many columns as fit, most of the time
        each = [value if isinstance(value, tuple) else (value,) * 2 for value in (size, kernel)]
        rest = [kwargs.get(name, low) for name, low in (("dilation", 1), ("padding", 0), ("stride", 1))]
        each += [value if isinstance(value, tuple) else (value,) * 2 for value in rest]
        blocks = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in zip(*each)]
        shape = (2, 3 * each[1][0] * each[1][1], blocks[0] * blocks[1])
        x = draw.floats(*draw.near(shape[draw.int(0, 1) :]))
    except (ZeroDivisionError, ValueError, TypeError, IndexError):
        x = draw.floats(*draw.shape(2, 3, 12))
    return Call("fold", (draw.odd(x), size, kernel), kwargs)


def _padding(draw: Draw) -> Call:
    x = draw.odd(draw.floats(*draw.shape(0, 5)))
    pad: Any = tuple(draw.int(-2, 3) for _ in range(draw.one(1, 2, 2, 3, 4, 4, 6, 6, 8, 12, 0)))
    if draw.chance(0.05):
        pad = draw.one(1, (1.5, 1), (True, False), "1")
    kwargs = {
        "mode": draw.one("constant", "reflect", "replicate", "circular", "mirror" if draw.chance(0.2) else "constant")
    }
    if draw.chance(0.3):
        kwargs["value"] = draw.one(0.0, 1.5, None, 2)
    return Call("pad", (x, pad), kwargs)


def _interpolate(draw: Draw) -> Call:
    spatial = draw.int(1, 3)
    modes = ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area", "lanczos", "cubic")
    kwargs: dict[str, Any] = {"mode": draw.one(*modes) if draw.chance(0.9) else "nearest"}
    if draw.chance(0.6):
        kwargs["size"] = draw.option(spatial, 1, 9)
    if draw.chance(0.45):
        kwargs["scale_factor"] = draw.one(
            2, 0.5, 1.5, (2.0,) * spatial, (1.5, 0.4, 2)[:spatial], (2.0,), 0.1, -1.0, 0.0
        )
    if draw.chance(0.3):
        kwargs["align_corners"] = draw.one(True, False, None)
    if draw.chance(0.15):
        kwargs["recompute_scale_factor"] = draw.one(True, False)
    if draw.chance(0.15):
        kwargs["antialias"] = draw.chance(0.7)
    return Call("interpolate", (_spatial(draw, spatial, 5),), kwargs)


def _grid(draw: Draw) -> Call:
    if draw.chance(0.4):
        spatial = draw.int(2, 3)
        theta = draw.odd(draw.floats(*draw.near((2, spatial, spatial + 1))))
        size = draw.near((2, 3, *(draw.int(1, 5) for _ in range(spatial))))
        size = tuple(0 if draw.chance(0.04) else item for item in size)
        return Call("affine_grid", (theta, size), {"align_corners": draw.one(None, True, False)})
    spatial = draw.int(2, 3)
    x = draw.odd(draw.floats(*draw.near((2, 3, *(draw.int(1, 5) for _ in range(spatial))))))
    grid = draw.floats(*draw.near((2, *(draw.int(1, 4) for _ in range(spatial)), spatial)))
    modes, pads = (
        draw.one("bilinear", "nearest", "bicubic", "linear"),
        draw.one("zeros", "border", "reflection", "wrap"),
    )
    return Call("grid_sample", (x, grid), {"mode": modes, "padding_mode": pads, "align_corners": draw.one(None, True)})


def _shuffle(draw: Draw) -> Call:
    name = draw.one("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")
    number = draw.one(1, 2, 2, 2, 3, 3, 0, -1, 1.5, (2,)) if draw.chance(0.4) else 2
    lead = draw.one((), (2,), (2,), (1, 2))
    shape = (*lead, draw.one(1, 2, 4, 4, 8, 9, 6), draw.one(2, 4, 6, 3), draw.one(2, 4, 9, 3))
    return Call(name, (draw.odd(draw.floats(*draw.near(shape))), number))


def _norm(draw: Draw) -> Call:
    name = draw.one(
        "batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm", "local_response_norm", "normalize"
    )
    x = draw.odd(draw.floats(*draw.shape(1, 5)))
    channels = x.shape[1] if x.ndim > 1 else 3

    def part(size: tuple[int, ...]) -> Any:
        return draw.one(None, draw.floats(*draw.near(size)))

    if name in ("layer_norm", "rms_norm"):
        shape = draw.near(x.shape[-draw.int(1, x.ndim) :])
        parts = [part(shape) for _ in range(1 + (name == "layer_norm"))]
        return Call(name, (x, draw.one(shape, shape, shape[0] if shape else 1, 2), *parts))
    if name == "normalize":
        return Call(name, (x,), {"p": draw.one(1, 2.0, float("inf"), 0.5, 0), "dim": draw.one(1, 0, -1, 5, (0, 1), -7)})
    if name == "local_response_norm":
        return Call(name, (x, draw.one(1, 2, 3, 5, 0, -1)))
    if name == "group_norm":
        return Call(name, (x, draw.one(1, 1, 2, 3, 0, channels), part((channels,)), part((channels,))))
    kwargs = {"weight": part((channels,)), "bias": part((channels,))}
    stats = draw.one((None, None), (draw.floats(*draw.near((channels,))), draw.floats(*draw.near((channels,)))))
    training = "training" if name == "batch_norm" else "use_input_stats"
    return Call(name, (x, *stats), kwargs | {training: draw.chance(0.6)})


def _embedding(draw: Draw) -> Call:
    rows = draw.int(1, 5)
    weight = draw.floats(*draw.near((rows, 3)))
    index = draw.classes(min(weight.shape[0], rows) if weight.ndim else 1, *draw.shape(0, 3))
    index = index.astype(draw.one(np.int64, np.int64, np.int64, np.int32, np.float32, np.uint8, np.int16))
    padding = draw.one(None, None, 0, -1, rows, -rows - 1, 1.0)
    if draw.chance(0.5):
        kwargs = {"padding_idx": padding, "max_norm": draw.one(None, None, 1.0), "scale_grad_by_freq": draw.chance(0.2)}
        return Call("embedding", (index, weight), kwargs)
    kwargs = {"mode": draw.one("sum", "mean", "max", "min"), "padding_idx": draw.one(None, None, 0, -1)}
    if index.ndim == 1 and draw.chance(0.9) or draw.chance(0.1):
        kwargs["offsets"] = draw.one(np.array([0]), np.array([0, 0]), np.array([0], np.int32), np.array([[0]]))
        if kwargs["offsets"].size > 1:  # with one, torch reads beyond the array
            kwargs["include_last_offset"] = draw.chance(0.2)
    if draw.chance(0.3):
        kwargs["per_sample_weights"] = draw.floats(*draw.near(index.shape))
    return Call("embedding_bag", (index, weight), kwargs)


_PLAIN_LOSSES = (
    "l1_loss",
    "mse_loss",
    "smooth_l1_loss",
    "huber_loss",
    "kl_div",
    "poisson_nll_loss",
    "soft_margin_loss",
)
_CLASS_LOSSES = ("nll_loss", "cross_entropy", "multi_margin_loss")


def _loss(draw: Draw) -> Call:
    reduction = draw.one(
        "mean",
        "sum",
        "none",
        "none",
        "batchmean" if draw.chance(0.3) else "mean",
        "average" if draw.chance(0.2) else "mean",
    )
    shape = draw.shape(0, 3)
    kind = draw.int(0, 4)
    x = draw.odd(draw.floats(*shape))
    if kind == 0:
        return Call(draw.one(*_PLAIN_LOSSES), (x, draw.floats(*draw.near(shape))), {"reduction": reduction})
    if kind == 1:
        name = draw.one(*_CLASS_LOSSES)
        shape: Any = draw.shape(1, 4)
        target: Any = draw.near((shape[0], *shape[2:]) if len(shape) > 1 else ())
        count = shape[1] if len(shape) > 1 else shape[0]
        labels = draw.classes(count, *target)
        if draw.chance(0.1):
            labels = labels.astype(draw.one(np.int32, np.float32, np.uint8))
        weight = draw.one(None, None, draw.floats(*draw.near((count,))))
        return Call(name, (draw.odd(draw.floats(*shape)), labels), {"weight": weight, "reduction": reduction})
    if kind == 2:
        name = draw.one("binary_cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss")
        weight = draw.one(None, None, draw.floats(*draw.near(shape)))
        return Call(name, (x, draw.floats(*draw.near(shape))), {"weight": weight, "reduction": reduction})
    if kind == 3:
        name = draw.one("triplet_margin_loss", "margin_ranking_loss", "cosine_embedding_loss")
        target = draw.floats(*draw.near(draw.one(shape, shape[:1], ())))
        third = draw.floats(*draw.near(shape)) if name == "triplet_margin_loss" else target
        margin = draw.one({}, {"margin": draw.one(0.5, 1, 0.0, -0.5)})
        return Call(name, (x, draw.floats(*draw.near(shape)), third), margin | {"reduction": reduction})
    name = draw.one("gaussian_nll_loss", "hinge_embedding_loss", "multilabel_margin_loss")
    if name == "gaussian_nll_loss":
        return Call(
            name,
            (x, draw.floats(*draw.near(shape)), draw.floats(*draw.near(draw.one(shape, shape[:-1])))),
            {"reduction": reduction},
        )
    target = (
        draw.floats(*draw.near(shape))
        if name == "hinge_embedding_loss"
        else draw.classes(shape[-1] if shape else 1, *draw.near(shape))
    )
    return Call(name, (x, target), {"reduction": reduction})


def _ctc(draw: Draw) -> Call:
    time, batch, count = draw.int(1, 6), draw.int(1, 3), draw.int(2, 5)
    single = draw.chance(0.25)
    x = np.full(draw.near((time, count) if single else (time, batch, count)), -1.0, np.float32)
    size = 1 if single else batch
    lengths = tuple(draw.int(0, 3) for _ in range(size))
    longest = max(lengths)
    target = draw.near(draw.one((size, longest), (size, 3), (sum(lengths),)) if not single else (longest,))
    targets = np.ones(target, draw.one(np.int64, np.int64, np.int32, np.float32 if draw.chance(0.3) else np.int64))
    ends = tuple(draw.one(time, time, time - 1, time + 1 if draw.chance(0.2) else time) for _ in range(size))
    lengths = lengths if draw.chance(0.9) else lengths + (1,)
    kwargs = {"blank": draw.one(0, 0, 0, count - 1, count, -1), "reduction": draw.one("mean", "sum", "none")}
    return Call("ctc_loss", (x, targets, ends, lengths), kwargs)


def _recurrent(draw: Draw) -> Call:
    kind = draw.one("RNN", "GRU", "LSTM")
    size, hidden, layers = draw.int(1, 4), draw.int(1, 4), draw.int(1, 2)
    both, first = draw.chance(0.4), draw.chance(0.4)
    options: dict[str, Any] = {"num_layers": layers, "bidirectional": both, "batch_first": first}
    out = hidden
    if draw.chance(0.15):
        options["proj_size"] = draw.one(1, 0, hidden, -1)
        out = options["proj_size"] or hidden
    if draw.chance(0.15):
        options |= draw.one(
            {"dropout": 2.0},
            {"dropout": True},
            {"bias": 1},
            {"num_layers": 0},
            {"nonlinearity": "gelu"},
            {"dropout": -0.1},
        )
    sizes = (
        draw.one((size, hidden), (size, hidden), (size, hidden), (0, hidden), (size, 0), (size, 1.5), (-1, hidden))
        if draw.chance(0.4)
        else (size, hidden)
    )
    batch, time = draw.int(1, 3), draw.int(1, 4)
    lead: tuple[int, ...] = draw.one((batch, time) if first else (time, batch), (time,))
    x = draw.odd(draw.floats(*draw.near((*lead, size))))
    args: tuple[Any, ...] = (x,)
    if draw.chance(0.4):
        inner = (batch,) if len(lead) == 2 else ()
        rows = layers * (1 + both)
        states = tuple(draw.floats(*draw.near((rows, *inner, width))) for width in (out if out > 0 else 1, hidden))
        args += (states if kind == "LSTM" else states[0],)
    if draw.chance(0.25):
        name = f"{kind}Cell"
        x = draw.odd(draw.floats(*draw.near(draw.one((batch, size), (size,)))))
        states = tuple(draw.floats(*draw.near((*x.shape[:-1], hidden))) for _ in range(2))
        args = (x,) if draw.chance(0.4) else (x, states if kind == "LSTM" else states[0])
        return Call(name, args, {}, (sizes, {}))
    return Call(kind, args, {}, (sizes, options))


def _attention(draw: Draw) -> Call:
    batch, heads, width = draw.int(1, 2), draw.int(1, 3), draw.one(2, 4)
    queries, keys = draw.int(1, 4), draw.int(1, 4)
    if draw.chance(0.6):
        lead = draw.one((), (batch,), (batch, heads), (batch, heads))
        q, k = draw.near((*lead, queries, width)), draw.near((*lead, keys, width))
        v = draw.near((*lead, keys, draw.one(width, 3)))
        kwargs: dict[str, Any] = {}
        if draw.chance(0.4):
            mask = np.ones(draw.near((*draw.one((), lead), queries, keys)), draw.one(bool, np.float32, np.int64))
            kwargs["attn_mask"] = mask
        if draw.chance(0.3):
            kwargs["is_causal"] = True
        if draw.chance(0.2):
            kwargs["enable_gqa"] = True
        if draw.chance(0.15):
            kwargs["dropout_p"] = draw.one(0.0, 0.5, 1.5, -0.5)
        return Call(
            "scaled_dot_product_attention", (draw.odd(draw.floats(*q)), draw.floats(*k), draw.floats(*v)), kwargs
        )
    size = width * heads
    options: dict[str, Any] = {"batch_first": draw.chance(0.4), "bias": draw.chance(0.7)}
    if draw.chance(0.2):
        options |= draw.one({"kdim": 3}, {"vdim": 3}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"dropout": 2.0})
    make = (
        draw.one((size, heads), (size, heads), (size, heads), (size, heads + 1), (size, 0), (0, heads), (-2, 1)),
        options,
    )
    lead = draw.one((batch,), ())
    order = lambda length: (*lead, length) if options["batch_first"] else (length, *lead)  # noqa: E731
    q, k = draw.near((*order(queries), size)), draw.near((*order(keys), size))
    args = (draw.floats(*q), draw.floats(*k), draw.floats(*draw.near((*order(keys), size))))
    kwargs = {"need_weights": draw.chance(0.6)}
    if draw.chance(0.3):
        kwargs["key_padding_mask"] = np.zeros(draw.near((*lead, keys)), draw.one(bool, np.float32, np.int64))
    if draw.chance(0.3):
        kwargs["attn_mask"] = np.zeros(draw.near(draw.one((queries, keys), (batch * heads, queries, keys))), bool)
    return Call("MultiheadAttention", args, kwargs, make)


def _distance(draw: Draw) -> Call:
    shape = draw.shape(0, 3)
    name = draw.one("pairwise_distance", "cosine_similarity", "pdist")
    x, y = draw.odd(draw.floats(*shape)), draw.floats(*draw.near(shape))
    if name == "pdist":
        return Call(name, (x,), {"p": draw.one(2.0, 1, 0.0, float("inf"), -1.0)})
    if name == "cosine_similarity":
        return Call(name, (x, y), {"dim": draw.one(1, 0, -1, 3, -4)})
    return Call(name, (x, y), {"p": draw.one(2.0, 1, -1.0), "keepdim": draw.chance(0.3)})


def _dropout(draw: Draw) -> Call:
    name = draw.one("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
    x = draw.odd(draw.floats(*draw.shape(0, 6)))
    return Call(name, (x,), {"p": draw.one(0.0, 0.5, 1.0, 1, 1.5, -0.1), "training": draw.chance(0.7)})


_ACTIVATIONS: dict[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
    **dict.fromkeys(
        (
            "relu",
            "relu6",
            "selu",
            "silu",
            "mish",
            "logsigmoid",
            "tanhshrink",
            "softsign",
            "sigmoid",
            "tanh",
            "hardswish",
            "hardsigmoid",
        ),
        (),
    ),
    "elu": (("alpha", (1.0, 2, 0.0, -1.0)),),
    "celu": (("alpha", (1.0, 2, 0.0, -1.0)),),
    "leaky_relu": (("negative_slope", (0.1, 2, -1.0)),),
    "hardtanh": (("min_val", (-1.0, 0, 2.0)), ("max_val", (1.0, 0))),
    "hardshrink": (("lambd", (0.5, 0, -1.0)),),
    "softshrink": (("lambd", (0.5, 0, -1.0)),),
    "softplus": (("beta", (1.0, 2, -1.0, 0.5)), ("threshold", (20.0, 5, -1))),
    "threshold": (("threshold", (0.1, 1)), ("value", (0.0, 20))),
    "gelu": (("approximate", ("none", "tanh", "erf")),),
    "glu": (("dim", (-1, 0, 1, 4, -5)),),
    "softmax": (("dim", (-1, 0, 1, 4, -5, None)),),
    "softmin": (("dim", (-1, 0, 1, 4, -5)),),
    "log_softmax": (("dim", (-1, 0, 1, 4, -5)),),
    "gumbel_softmax": (("dim", (-1, 0, 1, 4)), ("hard", (True, False))),
    "rrelu": (("lower", (0.1, 0.5)), ("upper", (0.3, 0.2)), ("training", (True, False))),
}


def _activation(draw: Draw) -> Call:
    if draw.chance(0.15):
        x = draw.odd(draw.floats(*draw.shape(0, 4)))
        channels = x.shape[1] if x.ndim > 1 else 1
        return Call("prelu", (x, draw.floats(*draw.near(draw.one((1,), (channels,), ())))))
    name = draw.one(*_ACTIVATIONS)
    x = draw.floats(*draw.shape(0, 4))
    kwargs = {key: draw.one(*choices) for key, choices in _ACTIVATIONS[name] if draw.chance(0.8) or name == "threshold"}
    if draw.chance(0.1):
        x = x.astype(draw.one(np.int64, bool, np.int32))
    return Call(name, (x,), kwargs)


def _linear(draw: Draw) -> Call:
    x = draw.odd(draw.floats(*draw.near((*draw.shape(0, 2), 3))))
    if draw.chance(0.4):
        other = draw.floats(*draw.near((*x.shape[:-1], 4)))
        weight = draw.floats(*draw.near((2, 3, 4)))
        return Call("bilinear", (x, other, weight, draw.one(None, draw.floats(*draw.near((2,))))))
    return Call("linear", (x, draw.floats(*draw.near((2, 3))), draw.one(None, draw.floats(*draw.near((2,))))))


FAMILIES: dict[str, Callable[[Draw], Call]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "pooling": _pooling,
    "adaptive": _adaptive,
    "fractional": _fractional,
    "unpool": _unpool,
    "fold": _fold,
    "padding": _padding,
    "interpolate": _interpolate,
    "grid": _grid,
    "shuffle": _shuffle,
    "norm": _norm,
    "embedding": _embedding,
    "loss": _loss,
    "ctc": _ctc,
    "recurrent": _recurrent,
    "attention": _attention,
    "distance": _distance,
    "dropout": _dropout,
    "activation": _activation,
    "linear": _linear,
}


def draw_call(family: str, rng: np.random.Generator) -> Call:
    """A call of the family."""
    return FAMILIES[family](Draw(rng))
