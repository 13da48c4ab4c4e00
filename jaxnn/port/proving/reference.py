"""What the original does, under PyTorch: weights of a seed, outputs, gradients, state, in eval and in training mode.

It runs in a process of its own (`child`). PyTorch is the user's, and is imported here alone, when the proof was asked for.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxnn.port.proving.files import Store, dtype_of, read
from jaxnn.port.proving.values import (
    FORWARD,
    GRADIENT,
    Expected,
    Leaves,
    Own,
    Tensor,
    error,
    expected,
    kind_of,
    largest,
    leaves,
    replaced,
    seed_all,
    viewed,
    weights_of,
)

_SHIFT = 1e-4
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")


@dataclass
class Run:
    """What one mode is held to. The numbers are float64's, where that runs: they lie in files, float32's are gone by then."""

    outputs: dict[str, Expected]
    gradients: dict[str, Expected]
    state: dict[str, Expected]
    is_random: bool = False


@dataclass
class Reference:
    """All that the ported model is held to; what may be large, in files (`files`).

    `constants` has the arrays that no state_dict holds: other buffers, and what modules keep as plain attributes.
    `layers` has the run layer by layer in float64 and in float32, each without the state that it found: `state` holds that.
    """

    args: Any
    kwargs: Any
    state: Leaves
    buffers: Leaves
    constants: Leaves
    kinds: dict[str, str]
    trained: list[str]
    options: dict[str, tuple[str, dict[str, Any]]]
    runs: dict[str, Run]
    layers: Any = None
    notes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def without_dropout(home: Any) -> Iterator[None]:
    """Dropout of `home`, torch.nn.functional or jaxnn.functional, passes its input on: its random numbers differ."""
    kept = {name: getattr(home, name) for name in (*_DROPOUTS, "scaled_dot_product_attention") if hasattr(home, name)}
    attention = kept.get("scaled_dot_product_attention")

    def attend(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, *args: Any, **kw: Any):
        return attention(query, key, value, attn_mask, 0.0, *args, **kw)  # type: ignore[misc]

    try:
        for name in kept:
            setattr(home, name, attend if name.startswith("scaled") else lambda input, *args, **kwargs: input)
        yield
    finally:
        for name, function in kept.items():
            setattr(home, name, function)


def without_recurrent_dropout(model: Any) -> None:
    """The dropout within recurrent layers and attention layers, which is no call of ``functional.dropout``."""
    for module in model.modules():
        if type(module).__name__ in ("RNN", "LSTM", "GRU", "MultiheadAttention"):
            module.dropout = 0.0


def options_of(model: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """By path: the class, and the plain options, of every layer that is PyTorch's own (or jaxnn's of the same name)."""
    plain = (bool, int, float, str, type(None))
    found = {}
    for path, module in model.named_modules():
        home = type(module).__module__
        if home.startswith(("torch.nn.modules.", "jaxnn.modules.")):
            values = {
                name: list(value) if isinstance(value, (tuple, list)) else value
                for name, value in vars(module).items()
                if not name.startswith("_") and name not in ("inplace", "training")
                and (isinstance(value, plain) or (isinstance(value, (tuple, list)) and all(isinstance(v, plain) for v in value)))
            }  # fmt: skip
            found[path] = (type(module).__name__, values)
    return found


def made(result: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """What the user's function gave: a module, and its inputs."""
    if not isinstance(result, tuple) or len(result) not in (2, 3):
        raise TypeError("the function of --run gives (module, inputs) or (module, inputs, keyword inputs)")
    module, args = result[0], result[1]
    args = tuple(args) if isinstance(args, (tuple, list)) else (args,)
    return module, args, dict(result[2]) if len(result) == 3 else {}


def reference(make: Callable[[], Any], seed: int = 0, store: Store | None = None, shift: int = 0) -> Reference:
    """Build the original and note all that it does, in `store`; with `shift`, of weights and inputs a little off."""
    torch: Any = importlib.import_module("torch")
    store = store or Store()
    seed_all(seed)
    torch.manual_seed(seed)
    model, args, kwargs = made(make())
    without_recurrent_dropout(model)
    if shift:
        args, kwargs = _shifted(torch, model, args, kwargs, shift)
    is_tensor = lambda value: isinstance(value, torch.Tensor)  # noqa: E731
    simple = lambda value: value if isinstance(value, (int, float, str, bool, type(None), np.ndarray)) else Own()  # noqa: E731
    as_sent = lambda value: Tensor(store.put(viewed(value))) if is_tensor(value) else simple(value)  # noqa: E731
    state = {name: store.put(viewed(value)) for name, value in _state(model).items()}
    buffers = {name: _put(store, viewed(value), state.get(name)) for name, value in model.named_buffers()}
    found = Reference(
        args=replaced(args, as_sent, _is_leaf),
        kwargs=replaced(kwargs, as_sent, _is_leaf),
        state=state,
        buffers=buffers,
        constants={name: value for name, value in buffers.items() if name not in state}
        | {name: store.put(viewed(value)) for name, value in _attributes(model)},
        kinds={name: kind_of(value) for name, value in _state(model).items()},
        trained=[name for name, box in model.named_parameters() if box.requires_grad],
        options=options_of(model),
        runs={},
    )
    for mode in ("eval", "train"):
        try:
            found.runs[mode] = _run(_Original(torch, model, args, kwargs, mode), state, store)
        except Exception as failure:  # whatever the original raises in this mode
            found.notes.append(f"the original fails in {mode} mode: {type(failure).__name__}: {failure}")
    if "eval" in found.runs:
        found.layers = _layers(model, args, kwargs, store, found.notes)
    return found


def _shifted(torch: Any, model: Any, args: Any, kwargs: Any, shift: int) -> tuple[Any, Any]:
    """Multiply parameters, in place, and inputs by what is nearly one: far more than rounding, and the same model to all else."""
    generator = torch.Generator().manual_seed(shift)

    def off(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return value * (1 + _SHIFT * torch.randn(value.shape, generator=generator)).to(value.dtype)

    with torch.no_grad():
        for box in model.parameters():
            box.copy_(off(box))
        return replaced(args, off, _is_leaf), replaced(kwargs, off, _is_leaf)


def _is_leaf(value: Any) -> bool:
    return not isinstance(value, (dict, list, tuple))


def _state(model: Any) -> dict[str, Any]:
    return {name: value for name, value in model.state_dict().items() if hasattr(value, "detach")}


def _attributes(model: Any) -> Iterator[tuple[str, Any]]:
    """The tensors that modules keep as plain attributes."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if hasattr(value, "detach"):
                yield f"{path}.{name}" if path else name, value


def _put(store: Store, value: Any, before: Any) -> Any:
    """`value` in the store; where it still is what lies there already, that."""
    return before if before is not None and _is_still(value, before) else store.put(value)


def _is_still(value: Any, before: Any) -> bool:
    return dtype_of(value) == dtype_of(before) and error(value, before) == 0


def _copy(model: Any) -> Any:
    try:
        return copy.deepcopy(model)
    except RuntimeError:  # an attribute that is no leaf of a graph
        return model


# Takes each result as soon as it is there: of what kind it is, its name, and its numbers, in memory that is not its own.
_Keep = Callable[[str, str, Any], Any]


def _run(original: _Original, state: Leaves, store: Store) -> Run:
    """What one mode gives in float32, and then in float64: each result as it comes, so that few are in memory."""

    def keep(kind: str, name: str, value: Any) -> Any:
        return _put(store, value, state.get(name) if kind == "state" else None)

    with without_dropout(original.torch.nn.functional):
        grad = True
        try:
            own = original.once(keep)
        except RuntimeError:  # it writes into what has a gradient: PyTorch runs it without gradients alone
            grad = False
            own = original.once(keep, grad=grad)
        again = original.once(lambda kind, name, value: _copied(value), seed=2, grad=grad, outputs_alone=True)
        pairs = zip(own["outputs"].values(), again["outputs"].values())
        is_random = any(not np.array_equal(read(a), b, equal_nan=True) for a, b in pairs if is_f(a))
        size = max(map(largest, own["gradients"].values()), default=0.0)
        bounds = {"outputs": (FORWARD, 0.0), "gradients": (GRADIENT, 1e-3 * size), "state": (FORWARD, 0.0)}

        def judge_by(kind: str, name: str, value: Any) -> Any:
            if name not in own[kind]:
                return None
            found = expected(own[kind][name], value, *bounds[kind])
            found.value = store.put(found.value)
            return found

        try:
            true: dict[str, Any] = original.once(judge_by, dtype=original.torch.float64, grad=grad)
        except Exception:  # a dtype written into the original
            true = {kind: {} for kind in own}
    held = {
        kind: {name: true[kind].get(name) or expected(value, None, *bounds[kind]) for name, value in values.items()}
        for kind, values in own.items()
    }
    for name, value in own["gradients"].items():
        if held["gradients"][name].value is not value:
            store.drop(value)
    return Run(**held, is_random=is_random)


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def is_f(value: Any) -> bool:
    return dtype_of(value).kind in "fc"


@dataclass
class _Original:
    """The original in one mode, to be run on copies."""

    torch: Any
    model: Any
    args: Any
    kwargs: Any
    mode: str

    def once(
        self, keep: _Keep, dtype: Any = None, seed: int = 1, grad: bool = True, outputs_alone: bool = False
    ) -> dict[str, Leaves]:
        """What `keep` makes of outputs, of gradients of parameters and inputs, and of the state afterwards."""
        torch, dtype = self.torch, dtype or self.torch.float32
        model = _copy(self.model)
        model = (model.double() if dtype == torch.float64 else model).train(self.mode == "train")
        inputs: list[Any] = []

        def taken(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            value = value.detach().clone()
            if value.dtype == torch.float32:
                value = value.to(dtype).requires_grad_(grad)
                inputs.append(value)
            return value

        args, kwargs = replaced(self.args, taken, _is_leaf), replaced(self.kwargs, taken, _is_leaf)
        seed_all(seed)
        torch.manual_seed(seed)
        # A copy of each input: writing into a leaf that has a gradient is refused.
        view = lambda value: value.clone() if isinstance(value, torch.Tensor) and value.requires_grad else value  # noqa: E731
        with torch.set_grad_enabled(grad):
            output = model(*replaced(args, view, _is_leaf), **replaced(kwargs, view, _is_leaf))
        found = dict(leaves(output))
        del output
        kept: dict[str, Leaves] = {
            "outputs": {name: keep("outputs", name, viewed(value)) for name, value in found.items()}
        }
        if outputs_alone:
            return kept
        kept["gradients"] = {}
        boxes = {name: box for name, box in model.named_parameters() if box.requires_grad}
        boxes |= {f"input {at}": value for at, value in enumerate(inputs)}
        given = self._gradients(found, list(boxes.values()))
        for name, box in boxes.items() if given else ():
            one = given.pop(0)
            value = np.zeros(tuple(box.shape), np.float32) if one is None else viewed(one)
            kept["gradients"][name] = keep("gradients", name, value)
        kept["state"] = {name: keep("state", name, viewed(value)) for name, value in _state(model).items()}
        return kept

    def _gradients(self, found: Leaves, boxes: list[Any]) -> list[Any]:
        """Those of the sum of all outputs, each weighted by fixed numbers; nothing where none has a gradient."""
        live = [(at, value) for at, value in enumerate(found.values()) if getattr(value, "requires_grad", False)]
        found.clear()
        if not live:
            return []
        terms = []
        for at, value in live:
            weights = self.torch.from_numpy(weights_of(value.shape, at)).to(value.dtype)
            terms.append((value * weights).sum())
        total = sum((term.real if term.is_complex() else term) for term in terms)
        return list(self.torch.autograd.grad(total, boxes, allow_unused=True))


def _layers(model: Any, args: Any, kwargs: Any, store: Store, notes: list[str]) -> Any:
    """The run layer by layer, in both precisions, for finding where the models part; None where it cannot be had."""
    from jaxnn.testing.trace import recorded

    def stored(float64: bool) -> Any:
        return store.put_object(recorded(model, args, kwargs, float64, gradients=False, state=False))

    model.eval()  # the last that is asked of it
    try:
        own = stored(float64=False)
    except Exception as failure:
        notes.append(f"no comparison layer by layer: {type(failure).__name__}: {failure}")
        return None
    try:
        return stored(float64=True), own
    except Exception:
        return own, own
