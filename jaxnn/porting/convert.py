"""`from_torch`: the jaxnn module with the structure, options and weights of a PyTorch module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jaxnn
from jaxnn.core.module import Module
from jaxnn.io.dtypes import DTYPES
from jaxnn.porting.arrays import from_torch_state_dict
from jaxnn.testing.trace import is_torch


class CannotConvert(TypeError):
    """Parts of a model that have no counterpart: all of them at once, with the place of each."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(
            f"from_torch: {len(problems)} part(s) of the model cannot be mapped:\n{lines}\n"
            "Write a jaxnn class for each and give it by registry={TheirClass: OurClass or a function of the module}"
        )


Registry = Mapping[type, Any]


def from_torch(model: Any, registry: Registry | None = None) -> Module:
    """Build the jaxnn module that computes what a live PyTorch module computes, with its weights.

    Layers of torch.nn map by name. A class of one's own is looked up in `registry`; where it is not there and its
    ``forward`` can be traced by torch.fx, it is rebuilt from the trace. Modes, ``requires_grad`` and ties are kept.

    Args:
        model: a torch.nn.Module; left as it is.
        registry: PyTorch classes to jaxnn classes, or to functions that take the PyTorch module and return a jaxnn
            one. A class is called with no arguments if it takes none, else with those of its parameters that the
            module has as attributes.

    Raises:
        TypeError: `model` is not a torch.nn.Module.
        CannotConvert: (a TypeError) names everything that has no counterpart.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn, torch
        >>> original = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
        >>> model = nn.from_torch(original)
        >>> model(jnp.ones((3, 4))).shape
        (3, 2)
    """
    if not is_torch(model):
        raise TypeError(f"from_torch: model: expected a torch.nn.Module, got {type(model).__name__}")
    builder = _Builder(registry or {})
    result = builder.build(model, "")
    if builder.problems:
        raise CannotConvert(builder.problems)
    _tie(model, result)
    result.load_state_dict(from_torch_state_dict(model.state_dict()))
    ours = dict(result.named_modules(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        if path in ours:
            ours[path].training = module.training
    for name, box in result.named_parameters():
        box.requires_grad_(model.get_parameter(name).requires_grad)
    return result


def _tie(model: Any, result: Module) -> None:
    """Parameters that are one tensor there become one box here."""
    first: dict[int, str] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        home = first.setdefault(id(tensor), name)
        if home != name:
            path, _, attribute = name.rpartition(".")
            result.get_submodule(path).register_parameter(attribute, result.get_parameter(home))


class _Builder:
    """Builds modules, each once however many places it has, and collects what it cannot build."""

    def __init__(self, registry: Registry):
        self.registry = registry
        self.problems: list[str] = []
        self._made: dict[int, Module] = {}

    def build(self, module: Any, path: str) -> Module:
        if id(module) not in self._made:
            self._made[id(module)] = self._build(module, path)
        return self._made[id(module)]

    def _build(self, module: Any, path: str) -> Module:
        kind = type(module)
        if kind in self.registry:
            return self._registered(self.registry[kind], module, path)
        ours = getattr(jaxnn, kind.__name__, None)
        if kind.__module__.startswith("torch.nn.modules") and isinstance(ours, type):
            try:
                return self._layer(ours, module, path)
            except (TypeError, ValueError, AttributeError) as error:
                self.problems.append(f"{path or 'the model'}: {kind.__name__}: {error}")
                return jaxnn.Identity()
        from jaxnn.porting import traced

        return traced.rebuild(self, module, path)

    def _registered(self, ours: Any, module: Any, path: str) -> Module:
        if not isinstance(ours, type):
            return ours(module)
        try:
            return ours(**_arguments(ours, module))
        except TypeError as error:
            self.problems.append(f"{path or 'the model'}: {ours.__name__}, from the registry: {error}")
            return jaxnn.Identity()

    def _layer(self, ours: type, module: Any, path: str) -> Module:
        name = ours.__name__
        if name in _CONTAINERS:
            return self._container(ours, module, path)
        special = _SPECIAL.get(name)
        made = ours(**(special(self, module, path) if special else _arguments(ours, module)))
        # Children that the owner replaced, or that layers were handed (Transformer's).
        for child, theirs in module.named_children():
            mine = getattr(made, child, None)
            if mine is not None and type(mine).__name__ != type(theirs).__name__ and child not in _INTERNAL:
                setattr(made, child, self.build(theirs, f"{path}.{child}" if path else child))
        return made

    def _container(self, ours: type, module: Any, path: str) -> Module:
        if ours.__name__ in ("ParameterList", "ParameterDict"):
            items = module.items() if ours.__name__ == "ParameterDict" else enumerate(module)
            values = {key: jaxnn.Parameter(_value(tensor)) for key, tensor in items}
            return ours(values if ours.__name__ == "ParameterDict" else list(values.values()))
        result = ours()
        for child, theirs in module._modules.items():
            result.add_module(
                child, None if theirs is None else self.build(theirs, f"{path}.{child}" if path else child)
            )
        return result


_CONTAINERS = {"Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict"}
_INTERNAL = {"out_proj"}  # MultiheadAttention's is a Linear of another name
_IGNORED = {"self", "device", "size_average", "reduce", "args", "kwargs", "_weight", "_freeze", "_weights"}


def _arguments(ours: type, module: Any) -> dict[str, Any]:
    """Arguments of our constructor, from the attributes of the same names."""
    found = {}
    for name, parameter in inspect.signature(ours).parameters.items():
        if name in _IGNORED:
            continue
        if name == "dtype":
            found |= _dtype(module)
        elif name == "bias":
            bias = getattr(module, "bias", None)
            found["bias"] = bias if isinstance(bias, bool) else bias is not None
        elif hasattr(module, name):
            found[name] = _value(getattr(module, name))
        elif parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            raise TypeError(f"its constructor wants {name!r}, which the module has not kept")
    return found


def _dtype(module: Any) -> dict[str, Any]:
    tensor = next((tensor for tensor in module.parameters(recurse=False) if tensor.is_floating_point()), None)
    return {} if tensor is None else {"dtype": DTYPES[str(tensor.dtype).removeprefix("torch.")]}


def _value(value: Any) -> Any:
    """An option: tensors as arrays, functions of torch by their names here, containers of these."""
    if hasattr(value, "detach"):
        return from_torch_state_dict({"": value})[""]
    if isinstance(value, (list, tuple)):
        return tuple(map(_value, value))
    if callable(value) and not isinstance(value, type):
        return function_of(value)
    return value


def function_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Our function of the same name as one of torch's.

    Raises:
        TypeError: there is none.
    """
    import jaxnn.functional as F

    name = getattr(function, "__name__", repr(function))
    ours = getattr(F, name, None)
    if ours is None:
        raise TypeError(f"a function {name!r} as an option")
    return ours


def _attention(builder: _Builder, module: Any, path: str) -> dict[str, Any]:
    return {
        "embed_dim": module.embed_dim,
        "num_heads": module.num_heads,
        "dropout": module.dropout,
        "bias": module.in_proj_bias is not None,
        "add_bias_kv": module.bias_k is not None,
        "add_zero_attn": module.add_zero_attn,
        "kdim": module.kdim,
        "vdim": module.vdim,
        "batch_first": module.batch_first,
    } | {"dtype": DTYPES[str(module.out_proj.weight.dtype).removeprefix("torch.")]}


def _transformer_layer(builder: _Builder, module: Any, path: str) -> dict[str, Any]:
    activation = module.activation
    if is_torch(activation):
        activation = builder.build(activation, f"{path}.activation")
    return {
        "d_model": module.self_attn.embed_dim,
        "nhead": module.self_attn.num_heads,
        "dim_feedforward": module.linear1.out_features,
        "dropout": module.dropout.p,
        "activation": activation if isinstance(activation, Module) else function_of(activation),
        "layer_norm_eps": module.norm1.eps,
        "batch_first": module.self_attn.batch_first,
        "norm_first": module.norm_first,
        "bias": module.linear1.bias is not None,
    } | _dtype(module.linear1)


def _transformer_stack(kind: str) -> Callable[[_Builder, Any, str], dict[str, Any]]:
    def arguments(builder: _Builder, module: Any, path: str) -> dict[str, Any]:
        norm = None if module.norm is None else builder.build(module.norm, f"{path}.norm")
        layer = builder._layer(getattr(jaxnn, type(module.layers[0]).__name__), module.layers[0], f"{path}.layers.0")
        return {f"{kind}_layer": layer, "num_layers": module.num_layers, "norm": norm}

    return arguments


def _transformer(builder: _Builder, module: Any, path: str) -> dict[str, Any]:
    return {
        "d_model": module.d_model,
        "nhead": module.nhead,
        "batch_first": module.batch_first,
        "custom_encoder": builder.build(module.encoder, f"{path}.encoder"),
        "custom_decoder": builder.build(module.decoder, f"{path}.decoder"),
    }


def _adaptive(builder: _Builder, module: Any, path: str) -> dict[str, Any]:
    return {
        "in_features": module.in_features,
        "n_classes": module.n_classes,
        "cutoffs": list(module.cutoffs[:-1]),
        "div_value": module.div_value,
        "head_bias": module.head_bias,
    }


def _recurrent(builder: _Builder, module: Any, path: str) -> dict[str, Any]:
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
    found = {name: getattr(module, name) for name in names} | _dtype(module)
    kind = type(module).__name__
    if kind == "LSTM":
        found["proj_size"] = module.proj_size
    if kind == "RNN":
        found["nonlinearity"] = module.nonlinearity
    return found


_SPECIAL: dict[str, Callable[[_Builder, Any, str], dict[str, Any]]] = {
    "MultiheadAttention": _attention,
    "TransformerEncoderLayer": _transformer_layer,
    "TransformerDecoderLayer": _transformer_layer,
    "TransformerEncoder": _transformer_stack("encoder"),
    "TransformerDecoder": _transformer_stack("decoder"),
    "Transformer": _transformer,
    "AdaptiveLogSoftmaxWithLoss": _adaptive,
    "RNN": _recurrent,
    "LSTM": _recurrent,
    "GRU": _recurrent,
}
