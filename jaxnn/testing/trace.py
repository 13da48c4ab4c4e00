"""What a model computed, call by call: inputs, outputs and gradients of every submodule.

One form for a PyTorch model (at its own precision and in float64), a jaxnn model, and a recording of either.
PyTorch is never imported: a model that is given brings its own.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base.dtypes import as_array
from jaxnn.core.module import Module

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass
class Call:
    """One call of one submodule, in the order in which calls ended."""

    path: str
    kind: str
    inputs: Arrays
    outputs: Arrays
    gradients: Arrays = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path or "(the model)"


@dataclass
class Trace:
    """All calls of one run, the model's state before and after it, and the gradients of its parameters."""

    inputs: list[Any]
    calls: list[Call]
    state: Arrays
    after: Arrays
    gradients: Arrays
    training: bool
    library: str = "PyTorch"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the run to a file that ``load`` reads without PyTorch (``.pt``)."""
        from jaxnn.io import save

        fields = dict(vars(self))
        fields["calls"] = [dict(vars(call)) for call in self.calls]
        save(fields, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Trace:
        """A run that ``save`` wrote; it holds its inputs: ``compare(Trace.load(path), model)``."""
        from jaxnn.io import load

        fields = load(path)
        fields["calls"] = [Call(**call) for call in fields["calls"]]
        return Trace(**fields)


def is_torch(model: Any) -> bool:
    """Whether `model` is a torch.nn.Module."""
    return any(kind.__module__ == "torch.nn.modules.module" for kind in type(model).__mro__)


def record(model: Any, *inputs: Any, float64: bool = False, gradients: bool = True, **kwargs: Any) -> Trace:
    """Run a model once and note what every submodule took, gave, and passed back.

    The model is left as it was: it runs on a copy. Gradients are those of the sum of all outputs, each weighted by
    fixed numbers.

    Args:
        model: a torch.nn.Module or a jaxnn Module.
        inputs: arrays or tensors, in any containers; numbers and None as they are.
        float64: run a PyTorch model in float64.
        gradients: also run backwards.
        kwargs: further inputs by name.

    Raises:
        TypeError: `model` is neither.
    """
    return recorded(model, inputs, kwargs, float64, gradients)


def recorded(
    model: Any,
    inputs: Sequence[Any],
    kwargs: Mapping[str, Any],
    float64: bool = False,
    gradients: bool = True,
    state: bool = True,
) -> Trace:
    """`record` for inputs of any names; without `state` the trace has none, which is twice the model's memory less."""
    plain = jax.tree.map(_numpy, list(inputs), is_leaf=_is_leaf)
    named = {key: jax.tree.map(_numpy, value, is_leaf=_is_leaf) for key, value in kwargs.items()}
    check_model(model)
    state_of = _state if state else lambda model: {}
    if is_torch(model):
        return _record_torch(copy.deepcopy(model), plain, named, float64, gradients, state_of)
    return _record_ours(copy.deepcopy(model), plain, named, gradients, state_of)


def check_model(model: Any) -> None:
    """TypeError unless `model` is one that can be recorded."""
    if not is_torch(model) and not isinstance(model, Module):
        raise TypeError(f"expected a torch.nn.Module or a jaxnn Module, got {type(model).__name__}")


def flat(value: Any, prefix: str = "") -> Arrays:
    """The arrays in nested containers, by place: "0", "1.hidden", ... ; a lone array is ""."""
    if isinstance(value, dict):
        items: Iterator[tuple[Any, Any]] = iter(value.items())
    elif isinstance(value, (list, tuple)):
        items = iter(enumerate(value))
    elif hasattr(value, "data") and hasattr(value, "batch_sizes"):  # a packed sequence
        return flat(value.data, prefix)
    else:
        return {prefix: _numpy(value)} if _is_array(value) else {}
    return {
        key: array for at, item in items for key, array in flat(item, f"{prefix}.{at}" if prefix else str(at)).items()
    }


def weights_of(shape: tuple[int, ...], at: int) -> np.ndarray[Any, Any]:
    """The fixed numbers that output `at` is weighted by: neither equal nor of one sign."""
    return np.random.default_rng(at).uniform(-1, 1, shape)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _is_leaf(value: Any) -> bool:
    return _is_array(value)


def _numpy(value: Any) -> Any:
    """Any array or tensor as a copy that NumPy owns; 16-bit floats as float32, which NumPy can print."""
    if not _is_array(value):
        return value
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if "float16" in str(value.dtype) else value
        return value.numpy().copy()
    if isinstance(value, _compat.Tracer):
        return value
    array = np.array(value)
    return array.astype(np.float32) if array.dtype.kind not in "fciub" or array.dtype == np.float16 else array


def _state(model: Any) -> Arrays:
    return {name: _numpy(value) for name, value in model.state_dict().items() if _is_array(value)}


def _floating(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.inexact)


_HIDDEN = {"training"}


def _config(module: Any) -> dict[str, Any]:
    """A module's plain options."""
    plain = (bool, int, float, str, type(None))
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_") or name in _HIDDEN:
            continue
        if isinstance(value, tuple) and all(isinstance(item, plain) for item in value):
            found[name] = list(value)
        elif isinstance(value, plain):
            found[name] = value
        elif isinstance(value, list) and all(isinstance(item, plain) for item in value):
            found[name] = list(value)
    return found | {"training": module.training}


@contextmanager
def _hooked(model: Any, hook: Callable[..., Any]) -> Iterator[None]:
    """`hook(path, module, inputs, output)` after every call of every submodule, once for each shared module.

    The inputs are copied before the call: PyTorch's in-place layers write to them.
    """
    handles = []
    entered: list[Arrays] = []  # calls end in the reverse order in which they begin

    def before(module: Any, args: Any, kwargs: Any) -> None:
        entered.append(flat([*args, kwargs]))

    for path, module in model.named_modules():

        def after(module: Any, args: Any, kwargs: Any, output: Any, path: str = path) -> Any:
            return hook(path, module, entered.pop(), output)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ------------------------------------------------------------------------------------------------ PyTorch


def _record_torch(
    model: Any,
    inputs: list[Any],
    kwargs: dict[str, Any],
    float64: bool,
    gradients: bool,
    state_of: Callable[[Any], Arrays],
) -> Trace:
    import sys

    torch = sys.modules["torch"]
    if float64:
        model = model.double()
    wide = {np.dtype(np.float32): torch.float64} if float64 else {}

    def tensor(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        made = torch.tensor(value, dtype=wide.get(value.dtype))
        # A copy, since PyTorch lets no in-place layer write to a leaf that requires gradients.
        return made.requires_grad_().clone() if gradients and made.is_floating_point() else made

    args = jax.tree.map(tensor, inputs)
    named = {key: jax.tree.map(tensor, value) for key, value in kwargs.items()}
    calls: list[Call] = []
    views: list[tuple[Call, str, Any, int]] = []

    def hook(path: str, module: Any, inputs: Arrays, output: Any) -> None:
        call = Call(path, type(module).__name__, inputs, flat(output), config=_config(module))
        calls.append(call)
        if gradients:
            for key, value in _tensors(output):
                if value.requires_grad:
                    # Not retain_grad: that follows the tensor to what is written to it in place afterwards.
                    value.register_hook(lambda grad, key=key: call.gradients.__setitem__(key, _numpy(grad)))
                    if value._is_view():
                        views.append((call, key, value, value._version))

    state = state_of(model)
    with _hooked(model, hook), torch.set_grad_enabled(gradients):
        output = model(*args, **named)
    if gradients:
        outputs = [value for _, value in _tensors(output) if value.requires_grad]
        if outputs:
            weighted = [
                (value * torch.tensor(weights_of(tuple(value.shape), at)).to(value)).sum()
                for at, value in enumerate(outputs)
            ]
            torch.stack(weighted).sum().backward()
        for call, key, value, version in views:
            if value._version != version:  # written to in place, a view gets a new history: this gradient is a part
                call.gradients.pop(key, None)
    parameters = {name: box.grad for name, box in model.named_parameters() if box.grad is not None}
    return Trace(inputs, calls, state, state_of(model), flat(parameters), model.training)


def _tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        if hasattr(value, "requires_grad"):
            yield prefix, value
        return
    for at, item in items:
        yield from _tensors(item, f"{prefix}.{at}" if prefix else str(at))


# ------------------------------------------------------------------------------------------------ jaxnn


def _record_ours(
    model: Module, inputs: list[Any], kwargs: dict[str, Any], gradients: bool, state_of: Callable[[Any], Arrays]
) -> Trace:
    args = [jax.tree.map(_ours, value) for value in inputs]
    named = {key: jax.tree.map(_ours, value) for key, value in kwargs.items()}
    state = state_of(model)
    initial = model.state_dict()
    calls: list[Call] = []

    def hook(path: str, module: Any, inputs: Arrays, output: Any) -> None:
        calls.append(Call(path, type(module).__name__, inputs, flat(output), config=_config(module)))

    from jaxnn.core.random import get_rng_state, set_rng_state

    stream = get_rng_state()
    with _hooked(model, hook):
        model(*args, **named)
    after = state_of(model)
    by_parameter: Arrays = {}
    if gradients:
        model.load_state_dict(initial)
        set_rng_state(stream)
        by_parameter, by_call = _our_gradients(model, args, named, calls)
        for call, found in zip(calls, by_call):
            call.gradients = found
    set_rng_state(stream)
    return Trace(inputs, calls, state, after, by_parameter, model.training, "jaxnn")


def _our_gradients(model: Module, args: Any, kwargs: Any, calls: list[Call]) -> tuple[Arrays, list[Arrays]]:
    """Gradients of parameters, and of every call's outputs: those of zeros that hooks add to the outputs."""
    from jaxnn.transforms.gradients import value_and_grad

    zeros = [
        {key: jnp.zeros(value.shape, value.dtype) for key, value in call.outputs.items() if _floating(value)}
        for call in calls
    ]

    def loss(model: Module, zeros: Any) -> Any:
        number = iter(range(len(calls)))

        def hook(path: str, module: Any, inputs: Arrays, output: Any) -> Any:
            at = next(number)
            return _shifted(output, zeros[at])

        with _hooked(model, hook):
            output = model(*args, **kwargs)
        floats = [value for value in jax.tree.leaves(output) if _floating(value)]
        weighted = [
            jnp.sum(value * jnp.asarray(weights_of(value.shape, at), value.dtype)) for at, value in enumerate(floats)
        ]
        return sum(weighted, jnp.zeros(()))

    trained = any(box.requires_grad for box in model.parameters())
    _, (*grads, shifts) = value_and_grad(loss, argnums=(0, 1) if trained else (1,))(model, zeros)
    return flat(dict(grads[0])) if trained else {}, [flat(shift) for shift in shifts]


def _shifted(output: Any, zeros: Any, prefix: str = "") -> Any:
    if isinstance(output, dict):
        return type(output)(
            {at: _shifted(item, zeros, f"{prefix}.{at}" if prefix else str(at)) for at, item in output.items()}
        )
    if isinstance(output, (list, tuple)):
        items = [_shifted(item, zeros, f"{prefix}.{at}" if prefix else str(at)) for at, item in enumerate(output)]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    if prefix not in zeros:
        return output
    return output + zeros[prefix].astype(output.dtype)


def _ours(value: Any) -> Any:
    return as_array(value, "record: inputs") if isinstance(value, np.ndarray) else value
