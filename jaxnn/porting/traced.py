"""A PyTorch class of one's own, rebuilt from what torch.fx sees of its forward."""

from __future__ import annotations

import functools
import inspect
import operator
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxnn
import jaxnn.functional as F
from jaxnn import tensor as T
from jaxnn.core.module import Module
from jaxnn.io.dtypes import DTYPES
from jaxnn.porting.arrays import from_torch_state_dict

if TYPE_CHECKING:
    from jaxnn.porting.convert import _Builder


class Ref(NamedTuple):
    """The result of another step."""

    name: str


class Step(NamedTuple):
    """One operation of a traced forward: `function` is a callable, or the path of a submodule or parameter."""

    name: str
    kind: str
    function: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]


class Traced(Module):
    """Runs the steps that torch.fx recorded. Its submodules and parameters have the names of the original."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: tuple[Step, ...] = ()
        self.arguments: tuple[tuple[str, Any], ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        names = [name for name, _ in self.arguments]
        values = dict(self.arguments) | dict(zip(names, args)) | kwargs
        missing = [name for name in names if values.get(name) is inspect.Parameter.empty]
        if missing or len(args) > len(names) or set(kwargs) - set(names):
            raise TypeError(f"{type(self).__name__}: forward takes ({', '.join(names)})")
        for step in self.steps:
            found = [_resolved(item, values) for item in step.args]
            named = {key: _resolved(item, values) for key, item in step.kwargs}
            if step.kind == "output":
                return found[0]
            if step.kind == "get_attr":
                values[step.name] = operator.attrgetter(step.function)(self)
            elif step.kind == "call_module":
                values[step.name] = self.get_submodule(step.function)(*found, **named)
            else:
                values[step.name] = step.function(*found, **named)
        return None


def _resolved(item: Any, values: dict[str, Any]) -> Any:
    if isinstance(item, Ref):
        return values[item.name]
    if isinstance(item, slice):
        return slice(*[_resolved(part, values) for part in (item.start, item.stop, item.step)])
    if isinstance(item, (tuple, list)):
        return type(item)(_resolved(part, values) for part in item)
    return item


@functools.cache
def _named(name: str) -> type:
    return type(name, (Traced,), {"__module__": __name__})


def place(kind: type) -> str:
    """File and line of a class."""
    try:
        return f"{inspect.getsourcefile(kind)}:{inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):
        return "defined interactively"


def rebuild(builder: _Builder, module: Any, path: str) -> Module:
    """The module that does what `module` does, or a stand-in and one or more problems noted with the builder."""
    fx = sys.modules["torch"].fx
    where, kind = path or "the model", type(module)

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
            return True

    result = _named(kind.__name__)()
    for child, theirs in module._modules.items():
        result.add_module(
            child, None if theirs is None else builder.build(theirs, f"{path}.{child}" if path else child)
        )
    for name, tensor in module._parameters.items():
        value = None if tensor is None else jaxnn.Parameter(from_torch_state_dict({"": tensor})[""])
        result.register_parameter(name, value)
    for name, tensor in module._buffers.items():
        value = None if tensor is None else from_torch_state_dict({"": tensor})[""]
        result.register_buffer(name, value, name not in module._non_persistent_buffers_set)
    try:
        graph = Tracer().trace(module)
    except Exception as error:  # whatever the user's forward raises on proxies
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        builder.problems.append(f"{where}: {kind.__name__} ({place(kind)}): torch.fx cannot trace its forward: {first}")
        return result
    steps, arguments = [], []
    for node in graph.nodes:
        if node.op == "placeholder":
            arguments.append((node.name, node.args[0] if node.args else inspect.Parameter.empty))
            continue
        function = node.target
        if node.op in ("call_function", "call_method"):
            function = _counterpart(node)
            if function is None:
                builder.problems.append(f"{where}: {kind.__name__} calls {_called(node)} at {_line(node, kind)}")
                continue
        args = tuple(_plain(item, fx) for item in node.args)
        steps.append(
            Step(node.name, node.op, function, args, tuple((k, _plain(v, fx)) for k, v in node.kwargs.items()))
        )
    result.steps, result.arguments = tuple(steps), tuple(arguments)
    return result


def _plain(item: Any, fx: Any) -> Any:
    """Nodes as Refs, torch's dtypes as NumPy's, lists as tuples (steps are compared by value)."""
    if isinstance(item, fx.Node):
        return Ref(item.name)
    if isinstance(item, slice):
        return slice(*[_plain(part, fx) for part in (item.start, item.stop, item.step)])
    if isinstance(item, (list, tuple)):
        return tuple(_plain(part, fx) for part in item)
    if type(item).__name__ == "dtype" and str(item).startswith("torch."):
        return DTYPES[str(item).removeprefix("torch.")]
    return None if type(item).__name__ == "device" else item


def _called(node: Any) -> str:
    if node.op == "call_method":
        return f"the tensor method .{node.target}()"
    return f"{getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', node.target)}".lstrip(".")


def _line(node: Any, kind: type) -> str:
    places = re.findall(r'File "([^"]+)", line (\d+)', node.stack_trace or "")
    return ":".join(places[-1]) if places else place(kind)


def _counterpart(node: Any) -> Callable[..., Any] | None:
    target = node.target
    if node.op == "call_method":
        return _METHODS.get(target)
    if target in (getattr, *vars(operator).values()):
        return target
    name = getattr(target, "__name__", "")
    home = getattr(target, "__module__", "") or ""
    if home.startswith("torch.nn.functional") or (name and hasattr(F, name) and name not in _FUNCTIONS):
        return getattr(F, name, None)
    return _FUNCTIONS.get(name)


# torch's tensor functions in terms of jnp, taking torch's arguments.


def _axis(function: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction: dim and keepdim are axis and keepdims."""

    def reduce(x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
        result = function(x, axis=tuple(dim) if isinstance(dim, list) else dim, keepdims=keepdim)
        return result if dtype is None else result.astype(dtype)

    return reduce


def _sizes(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else tuple(sizes)


def _flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    return jaxnn.Flatten(start_dim, end_dim)(x)


def _to(x: Any, *options: Any, dtype: Any = None, **_: Any) -> Any:
    wanted = next((option for option in (dtype, *options) if hasattr(option, "itemsize")), None)
    return x if wanted is None else x.astype(getattr(wanted, "dtype", wanted))


def _size(x: Any, dim: int | None = None) -> Any:
    return x.shape if dim is None else x.shape[dim]


def _std(x: Any, dim: Any = None, keepdim: bool = False, unbiased: bool = True, correction: int = 1) -> Any:
    return jnp.sqrt(_var(x, dim, keepdim, unbiased, correction))


def _var(x: Any, dim: Any = None, keepdim: bool = False, unbiased: bool = True, correction: int = 1) -> Any:
    axis = tuple(dim) if isinstance(dim, list) else dim
    return jnp.var(x, axis=axis, keepdims=keepdim, ddof=correction if unbiased else 0)


def _matmul(a: Any, b: Any) -> Any:
    from jaxnn.base import modes

    return jnp.matmul(a, b, precision=modes.matmul_precision())


def _cat(tensors: Any, dim: int = 0) -> Any:
    return jnp.concatenate(list(tensors), axis=dim)


_SHARED: dict[str, Callable[..., Any]] = {
    "flatten": _flatten,
    "matmul": _matmul,
    "bmm": _matmul,
    "mm": _matmul,
    "chunk": T.chunk,
    "split": T.split,
    "squeeze": T.squeeze,
    "unsqueeze": lambda x, dim: jnp.expand_dims(x, dim if dim >= 0 else x.ndim + dim + 1),
    "transpose": lambda x, dim0, dim1: jnp.swapaxes(x, dim0, dim1),
    "permute": lambda x, *dims: jnp.transpose(x, _sizes(dims)),
    "reshape": lambda x, *shape: jnp.reshape(x, _sizes(shape)),
    "mean": _axis(jnp.mean),
    "sum": _axis(jnp.sum),
    "amax": _axis(jnp.max),
    "amin": _axis(jnp.min),
    "var": _var,
    "std": _std,
    "add": lambda a, b, alpha=1: a + (b if alpha == 1 else alpha * b),
    "sub": lambda a, b, alpha=1: a - (b if alpha == 1 else alpha * b),
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
    "pow": operator.pow,
    "abs": jnp.abs,
    "exp": jnp.exp,
    "log": jnp.log,
    "sqrt": jnp.sqrt,
    "rsqrt": jax.lax.rsqrt,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "clamp": lambda x, min=None, max=None: jnp.clip(x, min, max),
    "relu": F.relu,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "softmax": F.softmax,
    "log_softmax": F.log_softmax,
    "masked_fill": lambda x, mask, value: jnp.where(mask, jnp.asarray(value, x.dtype), x),
    "unbind": lambda x, dim=0: tuple(jnp.moveaxis(x, dim, 0)),
    "detach": jax.lax.stop_gradient,
    "size": _size,
    "numel": lambda x: x.size,
    "argmax": lambda x, dim=None, keepdim=False: jnp.argmax(x, axis=dim, keepdims=keepdim),
    "roll": lambda x, shifts, dims=None: jnp.roll(x, shifts, dims),
}
_METHODS: dict[str, Callable[..., Any]] = _SHARED | {
    "view": _SHARED["reshape"],
    "contiguous": lambda x: x,
    "clone": lambda x: x,
    "expand": T.expand,
    "repeat": lambda x, *sizes: jnp.tile(x, _sizes(sizes)),
    "t": lambda x: x.T,
    "to": _to,
    "type_as": _to,
    "float": lambda x: x.astype(jnp.float32),
    "dim": lambda x: x.ndim,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = _SHARED | {
    "cat": _cat,
    "concat": _cat,
    "stack": lambda tensors, dim=0: jnp.stack(list(tensors), axis=dim),
    "where": jnp.where,
    "einsum": lambda equation, *operands: jnp.einsum(equation, *operands, precision="highest"),
    "maximum": jnp.maximum,
    "minimum": jnp.minimum,
}
