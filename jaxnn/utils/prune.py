"""Pruning: a parameter times a mask of zeros and ones, by magnitude, at random, or as given.

``l1_unstructured(layer, "weight", 0.3)`` moves the parameter to ``weight_orig`` and keeps the mask in the buffer
``weight_mask``; ``layer.weight`` reads their product. torch: it is computed at every read, and is never old.
"""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import init
from jaxnn.base.checks import fail
from jaxnn.core.module import Module
from jaxnn.functional.norms import vector_norm
from jaxnn.utils import _hooked
from jaxnn.utils.convert_parameters import parameters_to_vector

__all__ = [
    "BasePruningMethod",
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "PruningContainer",
    "RandomStructured",
    "RandomUnstructured",
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
]


class BasePruningMethod(_hooked.Attached, ABC):
    """Base of pruning methods. A subclass writes ``compute_mask`` and sets ``PRUNING_TYPE``.

    ``PRUNING_TYPE`` says what a further call may prune of an array pruned before: "unstructured" the elements left,
    "structured" the channels (along ``dim``) of which something is left, "global" everything.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.utils import prune
        >>> class EveryOther(prune.BasePruningMethod):
        ...     PRUNING_TYPE = "unstructured"
        ...     def compute_mask(self, t, default_mask):
        ...         return default_mask.at[..., ::2].set(0)
        >>> layer = nn.Linear(4, 1)
        >>> _ = EveryOther.apply(layer, "weight")
        >>> print(layer.weight_mask)
        [[0. 1. 0. 1.]]

    Follows ``torch.nn.utils.prune.BasePruningMethod``.
    """

    _tensor_name: str
    PRUNING_TYPE: str

    def _attribute(self) -> str:
        return self._tensor_name

    def _value(self, module: Any) -> Any:
        return self.apply_mask(module)

    def __call__(self, module: Any, inputs: Any) -> None:
        """Nothing to renew: the pruned array is computed at every read."""

    @abstractmethod
    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """The mask for the importances `t`, on top of `default_mask` (ones where nothing was pruned before)."""

    def apply_mask(self, module: Any) -> Any:
        """``<name>_orig * <name>_mask``."""
        original = getattr(module, self._tensor_name + "_orig")
        return getattr(module, self._tensor_name + "_mask").astype(original.dtype) * original

    @classmethod
    def apply(cls, module: Any, name: str, *args: Any, importance_scores: Any = None, **kwargs: Any) -> Any:
        """Prune the parameter `name` of `module`, on top of what was pruned before.

        Args:
            module: the module.
            name: the parameter.
            args: for the method's constructor.
            importance_scores: what the mask is computed from: an array of the parameter's shape, by default its values.
            kwargs: for the method's constructor.

        Returns:
            The method, or a PruningContainer of all methods that the parameter was pruned by.
        """
        old = _hooked.find(module, BasePruningMethod, name)
        method = cls(*args, **kwargs)
        method._tensor_name = name
        hook = method if old is None else PruningContainer._of(name, old, method)
        array = getattr(module, name)
        scores = _scores("apply", array, importance_scores)
        if old is not None:
            mask = hook.compute_mask(scores, default_mask=getattr(module, name + "_mask"))
            module.register_buffer(name + "_mask", mask)
            _hooked.remove_hook(module, "forward_pre", old)
            _hooked.attach(module, hook)
            return hook
        box = module._parameters.get(name)
        if box is None:
            raise TypeError(f"prune: name: expected the name of a parameter of {type(module).__name__}, got {name!r}")
        mask = hook.compute_mask(scores, default_mask=jnp.ones_like(array))
        module.register_parameter(name + "_orig", box)
        del module._parameters[name]
        module.register_buffer(name + "_mask", mask)
        _hooked.attach(module, hook)
        return hook

    def prune(self, t: Any, default_mask: Any = None, importance_scores: Any = None) -> Any:
        """`t` pruned: times the mask for `importance_scores` (by default `t`) on top of `default_mask`."""
        scores = _scores("prune", t, importance_scores)
        default_mask = jnp.ones_like(t) if default_mask is None else default_mask
        return t * self.compute_mask(scores, default_mask=default_mask).astype(t.dtype)

    def remove(self, module: Any) -> None:
        """Make the pruned array the parameter again, the same box as before. The pruning is not undone."""
        name = self._tensor_name
        value = self.apply_mask(module)
        _hooked.detach(module, self)
        box = module._parameters[name + "_orig"]
        box.value = value
        del module._parameters[name + "_orig"]
        del module._buffers[name + "_mask"]
        setattr(module, name, box)


def _scores(function: str, array: Any, importance_scores: Any) -> Any:
    if importance_scores is None:
        return array
    if tuple(importance_scores.shape) != tuple(array.shape):
        raise AssertionError(
            f"{function}: importance_scores: expected the shape of what is pruned, {tuple(array.shape)}, got "
            f"{tuple(importance_scores.shape)}"
        )
    return importance_scores


class PruningContainer(BasePruningMethod):
    """The methods that one parameter was pruned by, in order; computes with the last.

    Args:
        args: pruning methods.

    Follows ``torch.nn.utils.prune.PruningContainer``.
    """

    def __init__(self, *args: Any) -> None:
        self._pruning_methods: tuple[BasePruningMethod, ...] = ()
        if len(args) == 1:
            self._tensor_name = args[0]._tensor_name
        for method in args:
            self.add_pruning_method(method)

    @classmethod
    def _of(cls, name: str, old: BasePruningMethod, new: BasePruningMethod) -> PruningContainer:
        container = cls()
        container._tensor_name = name
        for method in (*(old if isinstance(old, PruningContainer) else (old,)), new):
            container.add_pruning_method(method)
        return container

    def add_pruning_method(self, method: BasePruningMethod | None) -> None:
        """Add a method.

        Raises:
            TypeError: not a pruning method.
            ValueError: it prunes a parameter of another name.
        """
        if method is not None:
            if not isinstance(method, BasePruningMethod):
                raise TypeError(f"add_pruning_method: {type(method)} is not a BasePruningMethod subclass")
            if self._tensor_name != method._tensor_name:
                raise ValueError(
                    f"add_pruning_method: method: expected one for the parameter {self._tensor_name!r}, got one for "
                    f"{method._tensor_name!r}"
                )
        self._pruning_methods += (method,)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[BasePruningMethod]:
        return iter(self._pruning_methods)

    def __getitem__(self, idx: Any) -> Any:
        return self._pruning_methods[idx]

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """The last method's mask for what `default_mask` leaves, combined with `default_mask`."""
        method = self._pruning_methods[-1]
        where = _left_over(method, t, default_mask)
        mask = method.compute_mask(t[where], default_mask=default_mask[where])
        return default_mask.astype(t.dtype).at[where].set(mask.astype(t.dtype))


def _left_over(method: Any, t: Any, mask: Any) -> Any:
    """The index of what `method` may prune, by its PRUNING_TYPE."""
    if method.PRUNING_TYPE == "unstructured":
        return np.asarray(mask) == 1
    if method.PRUNING_TYPE == "global":
        return (slice(None),) * t.ndim
    if method.PRUNING_TYPE != "structured":
        raise ValueError(f"prune: expected PRUNING_TYPE unstructured, structured or global, got {method.PRUNING_TYPE}")
    if not hasattr(method, "dim"):
        raise AttributeError(f'{type(method).__name__}: a method of PRUNING_TYPE "structured" needs the attribute dim')
    dim = _dimension(t, method.dim)
    channels = np.asarray(mask).sum(axis=tuple(d for d in range(t.ndim) if d != dim)) != 0
    return (*(slice(None),) * dim, np.flatnonzero(channels))


def _dimension(t: Any, dim: int) -> int:
    if not -t.ndim <= dim < t.ndim:
        fail(IndexError, "prune", "dim", f"a dimension from {-t.ndim} to {t.ndim - 1}", str(dim))
    return dim % t.ndim


class Identity(BasePruningMethod):
    """Prunes nothing: a mask of ones. Follows ``torch.nn.utils.prune.Identity``."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """`default_mask`."""
        return default_mask

    @classmethod
    def apply(cls, module: Any, name: str) -> Any:  # type: ignore[override]
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name)


class _ByAmount(BasePruningMethod):
    """Methods that prune an amount: a number of elements or channels, or a share of them."""

    amount: Any

    def _count(self, size: int) -> int:
        """How many of `size` elements or channels to prune."""
        count = _compute_nparams_toprune(self.amount, size)
        _validate_pruning_amount(count, size)
        return count


def _without(mask: Any, places: Any) -> Any:
    return mask.reshape(-1).at[places].set(jnp.zeros((), mask.dtype)).reshape(mask.shape)


class RandomUnstructured(_ByAmount):
    """Prunes elements at random. With the same seed they are torch's.

    Args:
        amount: how many elements, or a float from 0 to 1: what share of them.

    Follows ``torch.nn.utils.prune.RandomUnstructured``.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: Any) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """`default_mask` with zeros in random places."""
        count = self._count(t.size)
        if count == 0:
            return default_mask
        drawn = _hooked.drawn(init.uniform_, tuple(t.shape), t.dtype)
        return _without(default_mask, jax.lax.top_k(drawn.reshape(-1), count)[1])

    @classmethod
    def apply(cls, module: Any, name: str, amount: Any) -> Any:  # type: ignore[override]
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name, amount=amount)


class L1Unstructured(_ByAmount):
    """Prunes the elements of smallest absolute value.

    Args:
        amount: how many elements, or a float from 0 to 1: what share of them.

    Follows ``torch.nn.utils.prune.L1Unstructured``.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: Any) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """`default_mask` with zeros where the absolute values are smallest."""
        count = self._count(t.size)
        if count == 0:
            return default_mask
        return _without(default_mask, jax.lax.top_k(-jnp.abs(t).reshape(-1), count)[1])

    @classmethod
    def apply(cls, module: Any, name: str, amount: Any, importance_scores: Any = None) -> Any:  # type: ignore[override]
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name, amount=amount, importance_scores=importance_scores)


class _Channels(_ByAmount):
    """Methods that prune whole channels."""

    PRUNING_TYPE = "structured"
    dim: int

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """`default_mask` with zeros in whole channels.

        Raises:
            ValueError: `t` has one dimension or none, or fewer channels than the amount.
            IndexError: `dim` out of range.
        """
        _validate_structured_pruning(t)
        dim = _dimension(t, self.dim)
        size = t.shape[dim]
        count = self._count(size)
        if count == 0:
            return default_mask
        kept = self._kept(t, dim, size, count).astype(t.dtype)
        return default_mask.astype(t.dtype) * kept.reshape((1,) * dim + (size,) + (1,) * (t.ndim - dim - 1))

    def _kept(self, t: Any, dim: int, size: int, count: int) -> Any:
        """For each of the `size` channels whether it stays; `count` of them do not."""
        raise NotImplementedError


class RandomStructured(_Channels):
    """Prunes channels at random. With the same seed they are torch's.

    Args:
        amount: how many channels, or a float from 0 to 1: what share of them.
        dim: the dimension of the channels.

    Follows ``torch.nn.utils.prune.RandomStructured``.
    """

    def __init__(self, amount: Any, dim: int = -1) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount
        self.dim = dim

    def _kept(self, t: Any, dim: int, size: int, count: int) -> Any:
        drawn = _hooked.drawn(init.uniform_, (size,), jnp.float32)
        return drawn > jnp.sort(drawn)[count - 1]

    @classmethod
    def apply(cls, module: Any, name: str, amount: Any, dim: int = -1) -> Any:  # type: ignore[override]
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name, amount=amount, dim=dim)


class LnStructured(_Channels):
    """Prunes the channels of smallest norm.

    Args:
        amount: how many channels, or a float from 0 to 1: what share of them.
        n: the norm's exponent: a number, infinite too, or "fro" or "nuc", the norms of matrices.
        dim: the dimension of the channels.

    Follows ``torch.nn.utils.prune.LnStructured``.
    """

    def __init__(self, amount: Any, n: Any, dim: int = -1) -> None:
        _validate_pruning_amount_init(amount)
        self.amount = amount
        self.n = n
        self.dim = dim

    def _kept(self, t: Any, dim: int, size: int, count: int) -> Any:
        largest = jax.lax.top_k(_compute_norm(t, self.n, dim), size - count)[1]
        return jnp.zeros(size, bool).at[largest].set(True)

    @classmethod
    def apply(  # type: ignore[override]
        cls, module: Any, name: str, amount: Any, n: Any, dim: int, importance_scores: Any = None
    ) -> Any:
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name, amount=amount, n=n, dim=dim, importance_scores=importance_scores)


class _Held:
    """Carries an array that is no part of the module's data, and is compared by identity."""

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __deepcopy__(self, memo: Any) -> _Held:
        return self

    def __reduce__(self) -> Any:
        return _Held, (self.array,)


class CustomFromMask(BasePruningMethod):
    """Prunes where a given mask is 0.

    Args:
        mask: an array of the parameter's shape.

    Follows ``torch.nn.utils.prune.CustomFromMask``.
    """

    PRUNING_TYPE = "global"

    def __init__(self, mask: Any) -> None:
        self._mask = _Held(mask)

    @property
    def mask(self) -> Any:
        """The mask as given."""
        return self._mask.array

    def compute_mask(self, t: Any, default_mask: Any) -> Any:
        """The product of `default_mask` and the given mask."""
        if tuple(default_mask.shape) != tuple(self.mask.shape):
            raise AssertionError(
                f"CustomFromMask: mask: expected shape {tuple(default_mask.shape)}, got {tuple(self.mask.shape)}"
            )
        return default_mask * jnp.asarray(self.mask).astype(default_mask.dtype)

    @classmethod
    def apply(cls, module: Any, name: str, mask: Any) -> Any:  # type: ignore[override]
        """As `BasePruningMethod.apply`."""
        return super().apply(module, name, mask=mask)


def identity(module: Any, name: str) -> Any:
    """Make the parameter `name` a pruned one of which nothing is pruned: ``<name>_orig`` and a mask of ones.

    Returns:
        `module`.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.utils import prune
        >>> layer = prune.identity(nn.Linear(2, 3), "bias")
        >>> print(layer.bias_mask)
        [1. 1. 1.]

    Follows ``torch.nn.utils.prune.identity``.
    """
    Identity.apply(module, name)
    return module


def random_unstructured(module: Any, name: str, amount: Any) -> Any:
    """Prune elements of the parameter `name` at random. With the same seed they are torch's.

    Args:
        module: the module.
        name: the parameter.
        amount: how many of the elements left, or a float from 0 to 1: what share of them.

    Returns:
        `module`, with ``<name>_orig`` (the parameter), ``<name>_mask`` (a buffer), and ``<name>``, their product.

    Raises:
        ValueError: a share outside [0, 1], a negative number, or more elements than there are.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.utils import prune
        >>> layer = prune.random_unstructured(nn.Linear(2, 3), "weight", amount=1)
        >>> int((layer.weight == 0).sum())
        1

    Follows ``torch.nn.utils.prune.random_unstructured``.
    """
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(module: Any, name: str, amount: Any, importance_scores: Any = None) -> Any:
    """Prune the elements of the parameter `name` of smallest absolute value.

    Args:
        module: the module.
        name: the parameter.
        amount: how many of the elements left, or a float from 0 to 1: what share of them.
        importance_scores: an array of the parameter's shape whose absolute values count instead of its own.

    Returns:
        `module`, with ``<name>_orig`` (the parameter), ``<name>_mask`` (a buffer), and ``<name>``, their product.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.utils import prune
        >>> layer = prune.l1_unstructured(nn.Linear(2, 3), "weight", amount=0.2)
        >>> list(layer.state_dict())
        ['bias', 'weight_orig', 'weight_mask']

    Follows ``torch.nn.utils.prune.l1_unstructured``.
    """
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores)
    return module


def random_structured(module: Any, name: str, amount: Any, dim: int) -> Any:
    """Prune channels of the parameter `name` at random. With the same seed they are torch's.

    Args:
        module: the module.
        name: the parameter.
        amount: how many of the channels left, or a float from 0 to 1: what share of them.
        dim: the dimension of the channels.

    Returns:
        `module`, with ``<name>_orig`` (the parameter), ``<name>_mask`` (a buffer), and ``<name>``, their product.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.utils import prune
        >>> layer = prune.random_structured(nn.Linear(5, 3), "weight", amount=3, dim=1)
        >>> int((layer.weight == 0).all(0).sum())
        3

    Follows ``torch.nn.utils.prune.random_structured``.
    """
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(module: Any, name: str, amount: Any, n: Any, dim: int, importance_scores: Any = None) -> Any:
    """Prune the channels of the parameter `name` of smallest norm.

    Args:
        module: the module.
        name: the parameter.
        amount: how many of the channels left, or a float from 0 to 1: what share of them.
        n: the norm's exponent: a number, infinite too, or "fro" or "nuc", the norms of matrices.
        dim: the dimension of the channels.
        importance_scores: an array of the parameter's shape whose norms count instead of its own.

    Returns:
        `module`, with ``<name>_orig`` (the parameter), ``<name>_mask`` (a buffer), and ``<name>``, their product.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.utils import prune
        >>> layer = prune.ln_structured(nn.Conv2d(5, 3, 2), "weight", amount=0.4, n=float("-inf"), dim=1)
        >>> int((layer.weight == 0).all((0, 2, 3)).sum())
        2

    Follows ``torch.nn.utils.prune.ln_structured``.
    """
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Any, str]], pruning_method: Any, importance_scores: Any = None, **kwargs: Any
) -> None:
    """Prune several parameters as if they were one: the least important elements of them all.

    Args:
        parameters: pairs of a module and a name.
        pruning_method: a class of ``PRUNING_TYPE`` "unstructured".
        importance_scores: a dict from such pairs to arrays whose values count instead of the parameter's.
        kwargs: for the method: ``amount``.

    Raises:
        TypeError: `parameters` is not iterable, `importance_scores` is no dict, or a method of another type.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.utils import prune
        >>> first, second = nn.Linear(10, 4), nn.Linear(4, 1)
        >>> prune.global_unstructured([(first, "weight"), (second, "weight")], prune.L1Unstructured, amount=10)
        >>> int((first.weight == 0).sum() + (second.weight == 0).sum())
        10

    Follows ``torch.nn.utils.prune.global_unstructured``.
    """
    if not isinstance(parameters, Iterable):
        fail(TypeError, "global_unstructured", "parameters", "an iterable of pairs", parameters)
    scores = {} if importance_scores is None else importance_scores
    if not isinstance(scores, dict):
        fail(TypeError, "global_unstructured", "importance_scores", "a dict", importance_scores)
    pairs = list(parameters)
    method = pruning_method(**kwargs)
    method._tensor_name = "temp"
    if method.PRUNING_TYPE != "unstructured":
        fail(
            TypeError,
            "global_unstructured",
            "pruning_method",
            'a method of PRUNING_TYPE "unstructured"',
            f"{pruning_method} of type {method.PRUNING_TYPE}",
        )
    arrays = [getattr(module, name) for module, name in pairs]
    importance = parameters_to_vector([scores.get(pair, array) for pair, array in zip(pairs, arrays)])
    masks = [
        getattr(module, name + "_mask", None) if hasattr(module, name + "_mask") else jnp.ones_like(array)
        for (module, name), array in zip(pairs, arrays)
    ]
    mask = PruningContainer(method).compute_mask(importance, parameters_to_vector(masks))
    start = 0
    for (module, name), array in zip(pairs, arrays):
        custom_from_mask(module, name, mask=mask[start : start + array.size].reshape(array.shape))
        start += array.size


def custom_from_mask(module: Any, name: str, mask: Any) -> Any:
    """Prune the parameter `name` where `mask` is 0.

    Returns:
        `module`, with ``<name>_orig`` (the parameter), ``<name>_mask`` (a buffer), and ``<name>``, their product.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> from jaxnn.utils import prune
        >>> layer = prune.custom_from_mask(nn.Linear(5, 3), "bias", mask=jnp.array([0, 1, 0]))
        >>> print(layer.bias_mask)
        [0. 1. 0.]

    Follows ``torch.nn.utils.prune.custom_from_mask``.
    """
    CustomFromMask.apply(module, name, mask)
    return module


def remove(module: Any, name: str) -> Any:
    """Make the pruned array the parameter `name` again. The pruning is not undone.

    Raises:
        ValueError: `name` is not pruned.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.utils import prune
        >>> layer = prune.remove(prune.random_unstructured(nn.Linear(5, 7), "weight", amount=0.2), "weight")
        >>> list(layer.state_dict()), int((layer.weight == 0).sum())
        (['bias', 'weight'], 7)

    Follows ``torch.nn.utils.prune.remove``.
    """
    method = _hooked.find(module, BasePruningMethod, name)
    if method is None:
        fail(ValueError, "prune.remove", "name", f"a pruned parameter of {type(module).__name__}", repr(name))
    method.remove(module)
    return module


def is_pruned(module: Module) -> bool:
    """Whether anything in `module` or below it is pruned.

    Example:
        >>> import jaxnn as nn
        >>> from jaxnn.utils import prune
        >>> layer = nn.Linear(5, 7)
        >>> prune.is_pruned(layer), prune.is_pruned(prune.identity(layer, "weight"))
        (False, True)

    Follows ``torch.nn.utils.prune.is_pruned``.
    """
    hooks = (hook for child in module.modules() for hook in child._hook_list("forward_pre"))
    return any(isinstance(hook.function, BasePruningMethod) for hook in hooks)


def _validate_pruning_amount_init(amount: Any) -> None:
    """An amount is a whole number from 0 or a float from 0 to 1."""
    if not isinstance(amount, numbers.Real):
        fail(TypeError, "prune", "amount", "an int or a float", amount)
    whole = isinstance(amount, numbers.Integral)
    if amount < 0 or (not whole and float(amount) > 1.0):
        fail(ValueError, "prune", "amount", "a float from 0 to 1 or a whole number from 0", amount)


def _validate_pruning_amount(amount: Any, tensor_size: int) -> None:
    """A whole number may not be larger than what there is to prune."""
    if isinstance(amount, numbers.Integral) and int(amount) > tensor_size:
        fail(ValueError, "prune", "amount", f"at most {tensor_size}, the number of parameters to prune", str(amount))


def _validate_structured_pruning(t: Any) -> None:
    """Channels need 2 dimensions or more."""
    if len(t.shape) <= 1:
        fail(ValueError, "prune", "name", "an array of 2 dimensions or more for structured pruning", t)


def _compute_nparams_toprune(amount: Any, tensor_size: int) -> int:
    """How many of `tensor_size` an amount is."""
    return int(amount) if isinstance(amount, numbers.Integral) else round(float(amount) * tensor_size)


def _compute_norm(t: Any, n: Any, dim: int) -> Any:
    """The norm of each channel along `dim`."""
    dims = tuple(d for d in range(t.ndim) if d != _dimension(t, dim))
    if n == "nuc" and len(dims) == 2:
        return jnp.linalg.norm(t, "nuc", axis=dims)
    if n == "fro" and len(dims) <= 2:
        n = 2
    if isinstance(n, str):
        takes = "a number, 'fro' for arrays of 2 or 3 dimensions, or 'nuc' for arrays of 3"
        fail(RuntimeError, "prune", "n", takes, f"{n!r} for {t.ndim}")
    return vector_norm(t, n, dims)


def __dir__() -> list[str]:
    return __all__
