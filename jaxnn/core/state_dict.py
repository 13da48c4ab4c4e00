"""state_dict and load_state_dict: torch's keys, order, versions and error texts; all or nothing.

torch keeps integers in int64 where JAX has int32: a buffer made from int64 leaves as a NumPy int64 array and is
range-checked on its way in.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base.checks import warn_caller
from jaxnn.base.dtypes import as_array, describe, is_floating
from jaxnn.base.meta import MetaArray, no_numbers
from jaxnn.boxes.data import Data
from jaxnn.boxes.homes import DeletedArrayError, TraceLeakError, deleted_message, leak_message, may_hold
from jaxnn.boxes.parameter import Buffer, Parameter
from jaxnn.boxes.slot import Slot, is_deleted, next_epoch, structure_epoch
from jaxnn.boxes.writes import restore_acts, write_all
from jaxnn.core import tree
from jaxnn.multihost import spanning

EXTRA_STATE = "_extra_state"


class IncompatibleKeys(namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])):
    """What ``load_state_dict`` gives back: keys the module has and the dict lacks, and the reverse."""

    __slots__ = ()

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return super().__repr__()

    __str__ = __repr__


def outgoing(box: Slot) -> Any:
    """The array of a box as the state_dict shows it; a box without a shape as itself."""
    if getattr(box, "is_lazy", False):
        return box
    if is_deleted(box):
        raise DeletedArrayError(deleted_message(box.label))
    value = box.value
    if isinstance(value, MetaArray) and isinstance(box, Buffer) and box.int64_outside:
        return value.update(dtype=np.dtype("int64"))
    if isinstance(box, Buffer) and box.int64_outside and isinstance(value, jax.Array):
        return value if isinstance(value, _compat.Tracer) else np.asarray(value).astype(np.int64)
    return value


def incoming(value: Any, key: str, dtype: Any = None) -> Any:
    """A value of somebody's state_dict as a jax array: jax, NumPy, one of our boxes, or a tensor of torch.

    `dtype` is the one it is about to be cast to, if any: 64-bit floats then become it at once.
    """
    if isinstance(value, (Slot, Data)):
        return value.value
    if isinstance(value, (jax.Array, jax.ShapeDtypeStruct)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        wide = dtype is not None and value.dtype in (np.float64, np.complex128)
        return as_array(value.astype(dtype) if wide else value, key)
    if hasattr(value, "detach") and hasattr(value, "numpy"):  # a torch tensor, without importing torch
        return _from_tensor(value.detach().cpu(), key, dtype)
    raise TypeError(f"{key}: expected a jax or NumPy array, got {describe(value)}")


def _check_unchanged(state_dict: Mapping[str, Any]) -> None:
    """Ask the files that arrays are maps of (`jaxnn.load`) whether they are still what was loaded."""
    for value in state_dict.values():
        while isinstance(value, np.ndarray):
            value = value.base
        check = getattr(value, "check_unchanged", None) if value is not None else None
        if check is not None:
            check()


def _from_tensor(tensor: Any, key: str, dtype: Any) -> Any:
    if str(tensor.dtype) == "torch.bfloat16":
        return jnp.asarray(tensor.float().numpy()).astype(jnp.bfloat16)
    return incoming(tensor.numpy(), key, dtype)


class StateDict:
    """Module's saving and loading."""

    def get_extra_state(self) -> Any:
        """What the module saves besides its arrays, under the key ``_extra_state``; override with ``set_extra_state``."""
        raise RuntimeError(
            f"{type(self).__name__}.get_extra_state is not written; override it together with set_extra_state"
        )

    def set_extra_state(self, state: Any) -> None:
        """Take back what ``get_extra_state`` gave."""
        raise RuntimeError(
            f"{type(self).__name__}.set_extra_state is not written; override it together with get_extra_state"
        )

    def _has_extra_state(self, method: str) -> bool:
        return getattr(type(self), method) is not getattr(StateDict, method)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put this module's own parameters and persistent buffers into `destination`, without the children's."""
        self_: Any = self
        for name, box in itertools.chain(self_._parameters.items(), self_._buffers.items()):
            if box is None or (isinstance(box, Buffer) and not box.persistent):
                continue
            destination[prefix + name] = box if keep_vars else outgoing(box)
        if self._has_extra_state("get_extra_state"):
            destination[prefix + EXTRA_STATE] = self.get_extra_state()

    def state_dict(self, *args: Any, destination: Any = None, prefix: Any = "", keep_vars: Any = False) -> Any:
        """An ordered dict from dotted names to arrays: every parameter and persistent buffer, tied ones under each name.

        Args:
            destination: a dict to fill, instead of a new one.
            prefix: put before every name.
            keep_vars: give the boxes instead of their arrays.

        Returns:
            An OrderedDict; its ``_metadata`` holds each module's version, as in torch.
        """
        if args:  # torch's older positional form
            destination, prefix, keep_vars = (*args, *(destination, prefix, keep_vars)[len(args) :])
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        self_: Any = self
        local_metadata = {"version": self_._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = local_metadata
        for hook in self_._hook_list("state_dict_pre"):
            hook.function(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, module in self_._modules.items():
            if module is not None:
                module.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in self_._hook_list("state_dict"):
            result = hook.function(self, destination, prefix, local_metadata)
            if result is not None and hook.returns_none:
                raise RuntimeError("state_dict post-hook must return None")
            destination = destination if result is None else result
        return destination

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load this module's own arrays from `state_dict`, without the children's; subclasses may extend it."""
        self_: Any = self
        for hook in self_._hook_list("load_state_dict_pre"):
            first = (self,) if hook.with_module else ()
            hook.function(*first, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        local = {
            name: box
            for name, box in itertools.chain(self_._parameters.items(), self_._buffers.items())
            if box is not None and not (isinstance(box, Buffer) and not box.persistent)
        }
        assign = local_metadata.get("assign_to_params_buffers", False)
        for name, box in local.items():
            key = prefix + name
            if key in state_dict:
                _load_box(box, state_dict[key], key, assign, error_msgs)
            elif strict:
                missing_keys.append(key)
        self._load_extra_state(state_dict, prefix + EXTRA_STATE, strict, missing_keys, unexpected_keys)
        if strict:
            known = {*self_._modules, *local, EXTRA_STATE}
            for key in state_dict:
                if key.startswith(prefix) and key != prefix + EXTRA_STATE:
                    head, *rest = key[len(prefix) :].split(".", 1)
                    if head not in known or (not rest and head not in local) or (rest and head not in self_._modules):
                        unexpected_keys.append(key)

    def _load_extra_state(
        self, state_dict: Mapping[str, Any], key: str, strict: bool, missing: list[str], unexpected: list[str]
    ) -> None:
        if self._has_extra_state("set_extra_state"):
            if key in state_dict:
                self.set_extra_state(state_dict[key])
            elif strict:
                missing.append(key)
        elif strict and key in state_dict:
            unexpected.append(key)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load arrays by name, in place; when anything fails the model stays as it was.

        Args:
            state_dict: names to arrays (jax, NumPy, torch's).
            strict: missing and unexpected names are errors.
            assign: take the arrays' dtypes and devices instead of keeping the model's.

        Returns:
            ``(missing_keys, unexpected_keys)``.

        Raises:
            TypeError: `state_dict` is not a mapping.
            RuntimeError: names missing or unexpected (with `strict`), or shapes that differ; all of them in one text.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                f"Expected state_dict to be dict-like, got {type(state_dict)}."
                + (" Write load_state_dict(nn.load(path))" if isinstance(state_dict, (str, os.PathLike)) else "")
            )
        metadata = getattr(state_dict, "_metadata", None)
        state_dict = OrderedDict(state_dict)
        if metadata is not None:
            state_dict._metadata = metadata  # type: ignore[attr-defined]
        report = _Report(metadata or {}, strict, assign)
        undo = Undo(self)
        try:
            _check_unchanged(state_dict)
            _load(self, state_dict, "", report)
            undo.wait()
            _check_unchanged(state_dict)
            if strict:
                report.errors[:0] = _key_errors(report.unexpected, report.missing)
                hint = _where_the_names_are(state_dict, report.unexpected, report.missing)
                report.errors += [hint] if hint else []
            if report.errors:
                lines = "\n\t".join(report.errors)
                raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{lines}")
        except BaseException:
            undo.restore()
            raise
        if report.missing and state_dict and not state_dict.keys() - set(report.unexpected):
            hint = _where_the_names_are(state_dict, report.unexpected, report.missing)
            warn_caller(
                f"load_state_dict: no name of the state_dict is in {type(self).__name__}, nothing was loaded. {hint}".strip()
            )
        if not assign:
            _warn_of_meta(self, state_dict)
        return IncompatibleKeys(report.missing, report.unexpected)


def _warn_of_meta(module: Any, state_dict: Mapping[str, Any]) -> None:
    """As torch, where numbers were to be copied to the meta device; once for all of them."""
    pairs = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    names = [
        name
        for name, box in pairs
        if isinstance(box._value, MetaArray) and not isinstance(state_dict.get(name, box), (MetaArray, Slot))
    ]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        warn_caller(
            f"load_state_dict: {names[0]}{more}: the model's arrays are on the meta device, and copying numbers to it does "
            "nothing. load_state_dict(..., assign=True) puts the state_dict's arrays in the model"
        )


class _Report:
    def __init__(self, metadata: Mapping[str, Any], strict: bool, assign: bool) -> None:
        self.metadata, self.strict, self.assign = metadata, strict, assign
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.errors: list[str] = []


class Undo:
    """A tree's arrays as they were before a load."""

    def __init__(self, module: Any) -> None:
        self._boxes = [
            (box, box._value, box.meta())  # its class too: loading makes lazy boxes ordinary
            for owner in module.modules()
            for registry in tree.REGISTRIES
            for box in getattr(owner, registry).values()
            if box is not None
        ]

    def wait(self) -> None:
        """Until the boxes' arrays are there: JAX copies later, and the caller may write to what is copied from."""
        for box, _, _ in self._boxes:
            if isinstance(box._value, jax.Array) and not isinstance(box._value, _compat.Tracer):
                box._value.block_until_ready()

    def restore(self) -> None:
        boxes, values = [box for box, _, _ in self._boxes], [value for _, value, _ in self._boxes]
        acts = [act for box, _, meta in self._boxes for act in restore_acts(box, meta)]
        acts.append(functools.partial(list.__setitem__, structure_epoch, 0, next_epoch()))
        write_all(boxes, values, acts)


def _load(module: Any, state_dict: Any, prefix: str, report: _Report) -> None:
    local_metadata = dict(report.metadata.get(prefix[:-1], {}))
    if report.assign:
        local_metadata["assign_to_params_buffers"] = True
    lists = report.missing, report.unexpected, report.errors
    # torch: a module always looks as if it were strict; load_state_dict decides what to make of the lists.
    module._load_from_state_dict(state_dict, prefix, local_metadata, True, *lists)
    for name, child in module._modules.items():
        if child is not None:
            child_prefix = f"{prefix}{name}."
            own = OrderedDict((key, value) for key, value in state_dict.items() if key.startswith(child_prefix))
            _load(child, own, child_prefix, report)
    incompatible = IncompatibleKeys(report.missing, report.unexpected)
    for hook in module._hook_list("load_state_dict_post"):
        if hook.function(module, incompatible) is not None:
            raise RuntimeError(
                f"{type(module).__name__}: hooks registered with register_load_state_dict_post_hook should change "
                "the keys in place and return None"
            )


def _load_box(box: Any, value: Any, key: str, assign: bool, errors: list[str]) -> None:
    if getattr(value, "is_lazy", False):
        if not getattr(box, "is_lazy", False):
            errors.append(f'While copying the parameter named "{key}", the state_dict has no array for it yet')
        return
    try:
        cut = not assign and _is_cut_from_host(value, box)
        array = value if cut else incoming(value, key, None if assign else box.dtype)
    except (TypeError, OverflowError) as error:
        errors.append(f'While copying the parameter named "{key}", {error}')
        return
    if getattr(box, "is_lazy", False):
        box.materialize(array.shape, dtype=array.dtype)
    if box.shape == () and array.shape == (1,):  # files written before torch 0.4 keep scalars so
        array = array[0]
    if tuple(array.shape) != tuple(box.shape):
        errors.append(
            f"size mismatch for {key}: copying a param with shape {_size(array.shape)} from checkpoint, "
            f"the shape in current model is {_size(box.shape)}."
        )
        return
    if not assign and isinstance(array, jax.ShapeDtypeStruct) and not isinstance(box._value, jax.ShapeDtypeStruct):
        errors.append(f'While copying the parameter named "{key}", {no_numbers(array)}')
        return
    if not assign and isinstance(box._value, MetaArray):
        return
    if not assign:
        array = _like(array, box)
        if array is value or array is getattr(value, "value", None):  # torch copies: no two holders of one buffer
            array = jnp.copy(array)
    elif isinstance(value, Parameter) and isinstance(box, Parameter):
        box.requires_grad = value.requires_grad
    if not may_hold(box.home, array):
        raise TraceLeakError(leak_message(key))
    if isinstance(box, Buffer) and is_floating(array.dtype):
        box.int64_outside = False
    box.value = array


def _like(array: Any, box: Slot) -> Any:
    """`array` in the dtype, device and sharding of what the box holds."""
    if isinstance(array, jax.ShapeDtypeStruct):
        return array.update(dtype=box.dtype)
    sharding: Any = getattr(box._value, "sharding", None)
    if isinstance(array, np.ndarray):
        host, dtype = array, box.dtype
        return jax.make_array_from_callback(host.shape, sharding, lambda part: np.array(host[part], dtype))
    array = array.astype(box.dtype)
    if isinstance(array, _compat.Tracer) or sharding is None or array.sharding == sharding:
        return array
    return spanning.place(array, sharding)


def _is_cut_from_host(value: Any, box: Slot) -> bool:
    """Whether each process takes its own part of `value`, a NumPy array, for a box of several processes."""
    sharding = getattr(box._value, "sharding", None)
    several = sharding is not None and not sharding.is_fully_addressable
    return several and isinstance(value, np.ndarray) and is_floating(value.dtype) and is_floating(box.dtype)


def _key_errors(unexpected: list[str], missing: list[str]) -> list[str]:
    rows = (("Unexpected key(s)", unexpected), ("Missing key(s)", missing))
    texts = [
        f"{title} in state_dict: {', '.join(f'{chr(34)}{key}{chr(34)}' for key in keys)}. "
        for title, keys in rows
        if keys
    ]
    return texts[::-1]


def _where_the_names_are(state_dict: Mapping[str, Any], unexpected: list[str], missing: list[str]) -> str:
    """A sentence where all missing names are one step away: in a dict inside, or behind or without a prefix."""
    inside = (
        (f"below {key!r}", f"[{key!r}]", value) for key, value in state_dict.items() if isinstance(value, Mapping)
    )
    for where, index, names in (("", "", state_dict), *inside):
        prefix = _prefix(missing, names)
        if prefix is None:
            continue
        strip = f"{{name.removeprefix({prefix!r}): value for name, value in saved{index}.items()}}"
        place = " ".join(filter(None, (where, f"with the prefix {prefix!r}" if prefix else "")))
        return f"Every name is there {place}: load_state_dict({strip if prefix else f'saved{index}'})."
    prefix = _prefix(unexpected, set(missing))
    if prefix and len(unexpected) == len(missing):
        return f"The model's names are those of the state_dict behind the prefix {prefix!r}: is it wrapped in another module?"
    return ""


def _prefix(names: list[str], others: Any) -> str | None:
    """What stands before each of `names` in `others`."""
    if not names:
        return None
    candidates = {other[: -len(names[0])] for other in others if isinstance(other, str) and other.endswith(names[0])}
    found = (prefix for prefix in sorted(candidates) if not prefix or prefix.endswith("."))
    return next((prefix for prefix in found if all(prefix + name in others for name in names)), None)


def _size(shape: Any) -> str:
    return f"torch.Size({list(shape)})"
