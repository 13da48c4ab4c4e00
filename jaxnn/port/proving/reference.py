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

from jaxnn.port.proving.values import Leaves, Own, Tensor, kind_of, leaves, numpy_of, replaced, seed_all, weights_of

_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")


@dataclass
class Run:
    """One mode: what PyTorch's float32 gave, what float64 gave (the truth; float32's where float64 fails), and more."""

    outputs: Leaves
    true_outputs: Leaves
    gradients: Leaves
    true_gradients: Leaves
    state: Leaves
    true_state: Leaves
    is_random: bool = False


@dataclass
class Reference:
    """All that the ported model is held to."""

    args: Any
    kwargs: Any
    state: dict[str, Any]
    buffers: dict[str, Any]
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


def reference(make: Callable[[], Any], seed: int = 0) -> Reference:
    """Build the original and note all that it does."""
    torch: Any = importlib.import_module("torch")
    seed_all(seed)
    torch.manual_seed(seed)
    model, args, kwargs = made(make())
    without_recurrent_dropout(model)
    is_tensor = lambda value: isinstance(value, torch.Tensor)  # noqa: E731
    simple = lambda value: value if isinstance(value, (int, float, str, bool, type(None), np.ndarray)) else Own()  # noqa: E731
    as_sent = lambda value: Tensor(numpy_of(value)) if is_tensor(value) else simple(value)  # noqa: E731
    is_leaf = lambda value: not isinstance(value, (dict, list, tuple))  # noqa: E731
    state = {name: value for name, value in model.state_dict().items() if is_tensor(value)}
    found = Reference(
        args=replaced(args, as_sent, is_leaf),
        kwargs=replaced(kwargs, as_sent, is_leaf),
        state={name: numpy_of(value) for name, value in state.items()},
        buffers={name: numpy_of(value) for name, value in model.named_buffers()},
        kinds={name: kind_of(value) for name, value in state.items()},
        trained=[name for name, box in model.named_parameters() if box.requires_grad],
        options=options_of(model),
        runs={},
    )
    for mode in ("eval", "train"):
        try:
            found.runs[mode] = _run(torch, model, args, kwargs, mode)
        except Exception as failure:  # whatever the original raises in this mode
            found.notes.append(f"the original fails in {mode} mode: {type(failure).__name__}: {failure}")
    if "eval" in found.runs:
        found.layers = _layers(model, args, kwargs, found.notes)
    return found


def _copy(model: Any) -> Any:
    try:
        return copy.deepcopy(model)
    except RuntimeError:  # an attribute that is no leaf of a graph
        return model


def _run(torch: Any, model: Any, args: Any, kwargs: Any, mode: str) -> Run:
    with without_dropout(torch.nn.functional):
        grad = True
        try:
            own = _once(torch, model, args, kwargs, mode, torch.float32)
        except RuntimeError:  # it writes into what has a gradient: PyTorch runs it without gradients alone
            grad = False
            own = _once(torch, model, args, kwargs, mode, torch.float32, grad=grad)
        again = _once(torch, model, args, kwargs, mode, torch.float32, 2, grad, outputs_alone=True)
        try:
            true = _once(torch, model, args, kwargs, mode, torch.float64, grad=grad)
        except Exception:  # a dtype written into the original
            true = own
    is_random = any(
        not np.array_equal(a, b, equal_nan=True) for a, b in zip(own[0].values(), again[0].values()) if is_f(a)
    )
    return Run(own[0], true[0], own[1], true[1], own[2], true[2], is_random)


def is_f(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "fc"


def _once(
    torch: Any,
    model: Any,
    args: Any,
    kwargs: Any,
    mode: str,
    dtype: Any,
    seed: int = 1,
    grad: bool = True,
    outputs_alone: bool = False,
) -> tuple[Leaves, Leaves, Leaves]:
    """Outputs, gradients of parameters and inputs, and state afterwards."""
    model = _copy(model)
    model = (model.double() if dtype == torch.float64 else model).train(mode == "train")
    inputs: list[Any] = []

    def taken(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        value = value.detach().clone()
        if value.dtype == torch.float32:
            value = value.to(dtype).requires_grad_(grad)
            inputs.append(value)
        return value

    is_leaf = lambda value: not isinstance(value, (dict, list, tuple))  # noqa: E731
    args, kwargs = replaced(args, taken, is_leaf), replaced(kwargs, taken, is_leaf)
    seed_all(seed)
    torch.manual_seed(seed)
    # A copy of each input: writing into a leaf that has a gradient is refused.
    view = lambda value: value.clone() if isinstance(value, torch.Tensor) and value.requires_grad else value  # noqa: E731
    with torch.set_grad_enabled(grad):
        output = model(*replaced(args, view, is_leaf), **replaced(kwargs, view, is_leaf))
    found = dict(leaves(output))
    outputs = {name: numpy_of(value) for name, value in found.items()}
    if outputs_alone:
        return outputs, {}, {}
    live = [(at, value) for at, value in enumerate(found.values()) if getattr(value, "requires_grad", False)]
    gradients: Leaves = {}
    if live:
        terms = []
        for at, value in live:
            weights = torch.from_numpy(weights_of(value.shape, at)).to(value.dtype)
            terms.append((value * weights).sum())
        total = sum((term.real if term.is_complex() else term) for term in terms)
        boxes = {name: box for name, box in model.named_parameters() if box.requires_grad}
        boxes |= {f"input {at}": value for at, value in enumerate(inputs)}
        given = torch.autograd.grad(total, list(boxes.values()), allow_unused=True)
        gradients = {
            name: np.zeros(tuple(box.shape), np.float32) if grad is None else numpy_of(grad)
            for (name, box), grad in zip(boxes.items(), given)
        }
    state = {name: numpy_of(value) for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    return outputs, gradients, state


def _layers(model: Any, args: Any, kwargs: Any, notes: list[str]) -> Any:
    """The run layer by layer, in both precisions, for finding where the models part; None where it cannot be had."""
    from jaxnn.testing import record

    model = _copy(model).eval()
    try:
        own = record(model, *args, gradients=False, **kwargs)
    except Exception as failure:
        notes.append(f"no comparison layer by layer: {type(failure).__name__}: {failure}")
        return None
    try:
        return record(model, *args, gradients=False, float64=True, **kwargs), own
    except Exception:
        return own, own
