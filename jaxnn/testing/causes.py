"""The known traps of a port, each as a question to the two calls that part: is it this?

Every probe looks at one call of the reference and the call of ours beside it, and answers with a sentence or None.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxnn.testing.trace import Arrays, Call, Trace

CLOSE = 1e-4


class Pair(NamedTuple):
    """The first calls that part, and the runs they belong to."""

    reference: Call
    ours: Call
    whole_reference: Trace
    whole_ours: Trace

    @property
    def there(self) -> str:
        """Where the reference is, as texts say it."""
        return "in PyTorch" if self.whole_reference.library == "PyTorch" else "in the first model"

    @property
    def whose(self) -> str:
        return "PyTorch's" if self.whole_reference.library == "PyTorch" else "the first model's"

    def state(self, ours: bool) -> Arrays:
        """Parameters and buffers of the submodule before the run, by name inside it."""
        run, call = (self.whole_ours, self.ours) if ours else (self.whole_reference, self.reference)
        prefix = f"{call.path}." if call.path else ""
        return {name.removeprefix(prefix): value for name, value in run.state.items() if name.startswith(prefix)}


def close(a: Any, b: Any, tolerance: float = CLOSE) -> bool:
    """Equal in shape and, relative to the largest value, in numbers."""
    if a.shape != b.shape:
        return False
    scale = max(float(np.max(np.abs(b), initial=0)), 1e-12)
    return bool(np.all(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)) <= tolerance * scale))


def _layout(pair: Pair) -> str | None:
    """The same numbers in another order of dimensions."""
    for what in ("inputs", "outputs"):
        theirs, ours = getattr(pair.reference, what), getattr(pair.ours, what)
        for key in theirs.keys() & ours.keys():
            order = _permutation(theirs[key], ours[key])
            if order is not None and order != tuple(range(len(order))):
                return (
                    f"layout: its {what[:-1]} {key or ''} has {pair.whose} dimensions in the order {order} "
                    f"({theirs[key].shape} there, {ours[key].shape} here). jaxnn keeps PyTorch's (N, C, ...) layout: transpose "
                    "before this call, not inside the model"
                ).replace("  ", " ")
    return None


def _permutation(theirs: Any, ours: Any) -> tuple[int, ...] | None:
    if theirs.ndim != ours.ndim or theirs.ndim > 5 or sorted(theirs.shape) != sorted(ours.shape) or theirs.ndim < 2:
        return None
    for order in itertools.permutations(range(theirs.ndim)):
        if close(np.transpose(theirs, order), ours):
            return order
    return None


def _weights(pair: Pair) -> str | None:
    """Parameters and buffers that differ, and how."""
    theirs, ours = pair.state(False), pair.state(True)
    missing, extra = theirs.keys() - ours.keys(), ours.keys() - theirs.keys()
    if missing or extra:
        lists = [
            f"{', '.join(sorted(names))} only {where}"
            for names, where in ((missing, pair.there), (extra, "here"))
            if names
        ]
        return f"weights: other names: {'; '.join(lists)}"
    for name, value in theirs.items():
        if name.endswith("num_batches_tracked") or close(ours[name], value, 1e-6):
            continue
        return f"weights: {name} differs{_how(pair, value, ours[name], pair.reference.kind)}"
    return None


_GATES = {"LSTM": "ifgo", "GRU": "rzn"}


def _how(pair: Pair, theirs: Any, ours: Any, kind: str) -> str:
    order = _permutation(theirs, ours)
    if order is not None:
        return f": transposed kernel, its dimensions are {pair.whose} in the order {order}"
    if theirs.shape != ours.shape:
        return f" in shape: {theirs.shape} {pair.there}, {ours.shape} here"
    if theirs.ndim > 2 and close(theirs[(..., *[slice(None, None, -1)] * (theirs.ndim - 2))], ours):
        return ": flipped kernel, this is a convolution where PyTorch computes a cross-correlation"
    for layer, names in _GATES.items():
        gates = len(names)
        if kind.startswith(layer) and theirs.shape[0] % gates == 0:
            parts = np.split(theirs, gates)
            for order in itertools.permutations(range(gates)):
                if close(np.concatenate([parts[i] for i in order]), ours, 1e-6):
                    given = "".join(names[i] for i in order)
                    return f": gate order, PyTorch's is {', '.join(names)}, here it is {', '.join(given)}"
    if theirs.ndim and theirs.shape[0] > 1 and close(np.sort(theirs, 0), np.sort(ours, 0), 1e-6):
        return ": the same rows in another order"
    if not np.any(ours != ours.flat[0]):
        return f": here it is {ours.flat[0]:g} everywhere. Was it loaded?"
    return " in all or most values. Was it loaded?" if np.mean(np.isclose(theirs, ours)) < 0.5 else " in some values"


# What an option that differs is called by people who meet it.
_KNOWN_OPTIONS = {
    "training": "mode: train() or eval() was called on one of the two",
    "eps": "eps: PyTorch's default is 1e-5 for norms; other libraries have 1e-6 or 1e-3",
    "momentum": "momentum: PyTorch's is the weight of the new value, 1 - decay of other libraries",
    "padding": "padding: other libraries' SAME is not PyTorch's padding where the stride is above 1",
    "approximate": "gelu: PyTorch's default is the exact form; other libraries' is the tanh form",
    "batch_first": "layout: batch_first",
    "align_corners": "align_corners: PyTorch's default is False",
    "ceil_mode": "rounding of the output size: ceil_mode",
    "count_include_pad": "average pooling counts the padding by default in PyTorch",
}


def _options(pair: Pair) -> str | None:
    """Options of the two modules that differ."""
    theirs, ours = pair.reference.config, pair.ours.config
    different = [name for name in theirs if name in ours and _comparable(theirs[name]) != _comparable(ours[name])]
    if not different:
        return None
    different.sort(key=lambda name: (name != "training", name not in _KNOWN_OPTIONS))
    name = different[0]
    more = f" (and {', '.join(different[1:])})" if len(different) > 1 else ""
    known = f"{_KNOWN_OPTIONS[name]}. " if name in _KNOWN_OPTIONS else ""
    return f"{known}option {name}: {theirs[name]!r} {pair.there}, {ours[name]!r} here{more}"


def _comparable(value: Any) -> Any:
    """(3, 3), [3, 3] and 3 are one option."""
    if isinstance(value, (list, tuple)):
        items = [_comparable(item) for item in value]
        return items[0] if items and all(item == items[0] for item in items) else items
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _kinds(pair: Pair) -> str | None:
    """Another layer in the same place."""
    import jaxnn

    theirs, ours = pair.reference.kind, pair.ours.kind
    known = hasattr(jaxnn, theirs) + hasattr(jaxnn, ours)
    if theirs == ours or not known:
        return None  # the names of two classes of a user's own mean nothing
    # Where one of them is, the two may be the same layer by another name: what else differs is said too.
    probes = (_activation,) if known == 2 else (_activation, _weights, _options)
    detail = next((answer for probe in probes if (answer := probe(pair))), None)
    return f"another layer: {theirs} {pair.there}, {ours} here{f'; {detail}' if detail else ''}"


def _activation(pair: Pair) -> str | None:
    """Which function of the input ours is."""
    inputs, outputs = pair.ours.inputs.get("0"), pair.ours.outputs.get("")
    theirs = pair.reference.outputs.get("")
    if inputs is None or outputs is None or theirs is None or inputs.shape != outputs.shape:
        return None
    named = {name: function(np.asarray(inputs, np.float64)) for name, function in _functions()}
    here = next((name for name, value in named.items() if close(outputs, value)), None)
    there = next((name for name, value in named.items() if close(theirs, value)), None)
    if here and there and here != there:
        return f"gelu or activation: it is {there} {pair.there}, {here} here"
    return None


def _functions() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    from math import erf

    exact = np.vectorize(lambda v: 0.5 * v * (1 + erf(v / 2**0.5)), otypes=[np.float64])
    yield "the identity", lambda v: v
    yield "gelu (exact)", exact
    yield "gelu (tanh)", lambda v: 0.5 * v * (1 + np.tanh((2 / np.pi) ** 0.5 * (v + 0.044715 * v**3)))
    yield "gelu (sigmoid)", lambda v: v / (1 + np.exp(-1.702 * v))
    yield "silu", lambda v: v / (1 + np.exp(-v))
    yield "relu", lambda v: np.maximum(v, 0)
    yield "leaky_relu (0.01)", lambda v: np.where(v > 0, v, 0.01 * v)
    yield "leaky_relu (0.2)", lambda v: np.where(v > 0, v, 0.2 * v)
    yield "elu", lambda v: np.where(v > 0, v, np.expm1(v))
    yield "tanh", np.tanh
    yield "sigmoid", lambda v: 1 / (1 + np.exp(-v))
    for axis in (-1, 0, 1):
        yield f"softmax over dimension {axis}", lambda v, axis=axis: _softmax(v, axis)


def _softmax(values: Any, axis: int) -> Any:
    if not -values.ndim <= axis < values.ndim:
        return values
    shifted = np.exp(values - values.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


def _mask(pair: Pair) -> str | None:
    """A boolean input that is the other's negation."""
    for key, theirs in pair.reference.inputs.items():
        ours = pair.ours.inputs.get(key)
        if ours is None or theirs.shape != ours.shape:
            continue
        if theirs.dtype == ours.dtype == np.bool_ and theirs.size and np.array_equal(theirs, ~ours):
            return (
                f"mask polarity: input {key} is the negation of {pair.whose}. MultiheadAttention's True hides a position, "
                "scaled_dot_product_attention's True shows it"
            )
    return None


def _inputs(pair: Pair) -> str | None:
    """What came in already differs: the code between the layers."""
    for key, theirs in pair.reference.inputs.items():
        ours = pair.ours.inputs.get(key)
        if ours is not None and close(ours, theirs, 1e-3):
            continue
        shapes = ""
        if ours is not None and ours.shape != theirs.shape:
            shapes = f" ({theirs.shape} {pair.there}, {ours.shape} here)"
        return (
            f"code between the layers: its input {key} already differs{shapes}, and no layer before it does: "
            f"{_relation(pair, theirs, ours)}"
        )
    return None


def _own_state(pair: Pair) -> str | None:
    """Parameters and buffers that belong to the model or block itself, where the input of a layer in it differs."""
    if _inputs(pair) is None:
        return None
    theirs, ours = pair.whole_reference.state, pair.whole_ours.state
    for name, value in theirs.items():
        owner = name.rpartition(".")[0]
        around = not owner or pair.reference.path.startswith(f"{owner}.")
        if around and name in ours and not close(ours[name], value, 1e-6):
            return f"weights: {name}, of {owner or 'the model'} itself, differs{_how(pair, value, ours[name], '')}"
    return None


def _relation(pair: Pair, theirs: Any, ours: Any) -> str:
    """What simple operation takes one to the other."""
    if ours is None:
        return f"an input that {pair.whose} gets and this does not"
    if theirs.shape == ours.shape and theirs.size and np.issubdtype(theirs.dtype, np.floating):
        a, b = np.asarray(theirs, np.float64).ravel(), np.asarray(ours, np.float64).ravel()
        factor = float(a @ b / max(a @ a, 1e-30))
        if close(b, factor * a) and abs(factor - 1) > 1e-6:
            return f"here it is {factor:.6g} times {pair.whose}"
        for name, function in _functions():
            if name != "the identity" and close(function(a.reshape(theirs.shape)), ours):
                return f"here {name} has been applied to it"
            if name != "the identity" and close(function(b.reshape(ours.shape)), theirs):
                return f"here {name} is missing"
    return "look at the calls and the code that lead to it"


def _statistics(pair: Pair) -> str | None:
    """Running statistics that moved differently."""
    prefix = f"{pair.ours.path}." if pair.ours.path else ""
    name = f"{prefix}running_var"
    before, theirs, ours = (
        run.get(name) for run in (pair.whole_reference.state, pair.whole_reference.after, pair.whole_ours.after)
    )
    if before is None or theirs is None or ours is None or close(ours, theirs):
        return None
    momentum = pair.reference.config.get("momentum") or 0.1
    x = pair.reference.inputs.get("0")
    count = x.size // x.shape[1] if x is not None and x.ndim > 1 else 0
    moved = (theirs - (1 - momentum) * before) / momentum
    if count > 1 and close(ours, (1 - momentum) * before + momentum * moved * (count - 1) / count):
        return "variance bias: running_var is updated with the biased variance; PyTorch's is divided by n - 1 there"
    if close(ours, momentum * before + (1 - momentum) * moved):
        return f"momentum: PyTorch's {momentum} is the weight of the new value; here it weighs the old one"
    return "running statistics move differently"


def _random(pair: Pair) -> str | None:
    if "Dropout" in pair.ours.kind and pair.ours.config.get("training"):
        return "eval/train: dropout draws a new mask in both; compare in eval()"
    return None


def _precision(pair: Pair) -> str | None:
    """Right in some digits: products of low precision, or 16-bit numbers."""
    theirs, ours = pair.reference.outputs.get(""), pair.ours.outputs.get("")
    if theirs is None or ours is None or theirs.shape != ours.shape or not close(ours, theirs, 3e-2):
        return None
    if _parted_gradient(pair, 3e-2):
        return None
    if close(_to_bfloat16(theirs), ours, 1e-7) or np.array_equal(_to_bfloat16(ours), ours):
        return "precision mode: this runs in bfloat16 (autocast, or a module in half precision)"
    from jaxnn.base import modes

    mode = modes.get_float32_matmul_precision()
    said = (
        f"set_float32_matmul_precision is {mode!r}"
        if mode != "highest"
        else "look for a product without precision='highest'"
    )
    return f"precision mode: equal in the leading digits only; {said}"


def _parted_gradient(pair: Pair, tolerance: float) -> bool:
    theirs, ours = pair.reference.gradients, pair.ours.gradients
    return any(not close(ours[key], theirs[key], tolerance) for key in theirs.keys() & ours.keys())


def _backward(pair: Pair) -> str | None:
    """The same outputs, and another gradient that comes back to them."""
    theirs, ours = pair.reference.outputs, pair.ours.outputs
    agree = theirs.keys() == ours.keys() and all(close(ours[key], theirs[key]) for key in theirs)
    if not agree or not _parted_gradient(pair, CLOSE):
        return None
    return (
        "backward pass: its output agrees, the gradient that comes back to it does not. Look at what is done with the "
        "output: stop_gradient or detach(), or a backward pass of one's own"
    )


def _to_bfloat16(array: Any) -> Any:
    import ml_dtypes

    return np.asarray(array).astype(ml_dtypes.bfloat16).astype(np.float32)


def _output(pair: Pair) -> str | None:
    theirs, ours = pair.reference.outputs.get(""), pair.ours.outputs.get("")
    if theirs is None or ours is None:
        return None
    if theirs.shape != ours.shape:
        return f"another shape: {theirs.shape} {pair.there}, {ours.shape} here"
    return f"its own code: inputs, weights and options agree; {_relation(pair, theirs, ours)}"


# In the order of trust: the first that answers is the likely cause.
PROBES: tuple[Callable[[Pair], str | None], ...] = (
    _mask,
    _layout,
    _kinds,
    _options,
    _weights,
    _random,
    _statistics,
    _precision,
    _backward,
    _own_state,
    _inputs,
    _activation,
    _output,
)


def likely_cause(pair: Pair) -> str:
    """The sentence of the first probe that knows."""
    return next((answer for probe in PROBES if (answer := probe(pair))), "unknown")
