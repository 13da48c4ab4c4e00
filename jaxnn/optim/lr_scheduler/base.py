"""`LRScheduler`: what all schedulers share."""

from __future__ import annotations

import contextvars
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import jax

from jaxnn.base.dtypes import describe
from jaxnn.core.stateful import Stateful
from jaxnn.optim import _double
from jaxnn.optim.lr_scheduler.numbers import Kind, decoded, encoded, is_traced, kind_of
from jaxnn.optim.optimizer import Optimizer

# Lists of numbers that are data; every other list is configuration.
_LISTS = frozenset(("base_lrs", "max_lrs", "min_lrs", "_last_lr", "base_momentums", "max_momentums"))
_NOT_SAVED = frozenset(("optimizer", "_kinds", "_home", "_cache", "_pending", "_scope", "_unbound"))
_NOT_SAVED |= {"_parameters", "_buffers", "_slots", "_modules", "_is_initial"}
_within_step: contextvars.ContextVar[bool] = contextvars.ContextVar("within_step", default=False)


class LRScheduler(Stateful):
    """Base of the schedulers: each ``step()`` sets the learning rate of every parameter group.

    Attributes that are numbers are data: a scheduler may step inside a compiled function, and no number of it, nor the
    epoch, is part of the program. Outside, the learning rates are torch's, bit for bit.

    Args:
        optimizer: an optimizer whose learning rates are numbers.
        last_epoch: the epoch to go on from; -1 to begin.

    Raises:
        TypeError: `optimizer` is no optimizer, or its learning rate is an optax schedule.
        KeyError: `last_epoch` is given, and the groups have no ``"initial_lr"``.

    Follows ``torch.optim.lr_scheduler.LRScheduler``. A subclass defines ``get_lr``.

    Example:
        >>> import jaxnn as nn
        >>> class Halving(nn.optim.lr_scheduler.LRScheduler):
        ...     def get_lr(self):
        ...         return [lr * 0.5**self.last_epoch for lr in self.base_lrs]
        >>> Halving(nn.optim.SGD(nn.Linear(2, 1), lr=0.8)).get_last_lr()
        [0.8]
    """

    optimizer: Any
    last_epoch: Any
    _step_count: Any
    _is_initial = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._init_state()
        self.__dict__["_kinds"] = ()
        return self

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self._attach(optimizer)
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{number}] when resuming scheduler with "
                    "last_epoch >= 0: load the optimizer's state_dict first, or leave last_epoch at -1"
                )
        self.base_lrs = self._of_groups("initial_lr")
        self.last_epoch = last_epoch
        self._initial_step()

    def _attach(self, optimizer: Any) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        for group in optimizer.param_groups:
            if "lr" not in group or callable(group["lr"]):
                raise TypeError(
                    f"{type(self).__name__}: optimizer: expected a number as its lr, got "
                    f"{'an optax schedule' if 'lr' in group else 'an optax transformation, which includes its own'}"
                )
        self.optimizer = optimizer
        self.__dict__["_unbound"] = _seen(optimizer)

    # -- numbers --------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        kind = kind_of(value) if name in _LISTS or not isinstance(value, (list, tuple)) else None
        if hasattr(getattr(type(self), name, None), "__set__"):
            kind = None
        kinds: dict[str, Kind] = dict(self.__dict__["_kinds"])
        known = kinds.get(name)
        if kind is None and known is not None:
            self._set_plain("_kinds", tuple((other, k) for other, k in kinds.items() if other != name))
        elif kind is not None and known != kind and not (known is not None and is_traced(value)):
            self._set_plain("_kinds", tuple((kinds | {name: kind}).items()))
        self._set_plain(name, value if kind is None else encoded(value))

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if isinstance(value, jax.Array) and name in (kinds := dict(self._kinds)):
            value = decoded(value, kinds[name])
            return _Numbers(self, name, value) if isinstance(value, list) else value
        return value

    def _bind(self, objects: Iterable[Any]) -> None:
        """Let the optimizer learn its parameters' names from the models that go through a transform with this."""
        self.optimizer._bind(objects)

    def _of_groups(self, name: str) -> list[Any]:
        return [group[name] for group in self.optimizer.param_groups]

    # -- the step -------------------------------------------------------------------------------------------------

    @property
    def _get_lr_called_within_step(self) -> bool:
        return _within_step.get()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            del self._is_initial

    def get_lr(self) -> list[Any]:
        """The learning rate of each group at ``last_epoch``; what a subclass defines."""
        raise NotImplementedError

    def get_last_lr(self) -> list[Any]:
        """The learning rate of each group that the last step set."""
        return self._last_lr

    def step(self, epoch: Any = None) -> None:
        """Go on to the next epoch, or to `epoch` (deprecated, as in torch), after ``optimizer.step``."""
        with exact():
            count = self._step_count
            if not is_traced(count) and count == 1:
                _warn_if_too_early(self)
            self._step_count = count + 1
            if epoch is not None:
                warn_epoch()
            self._update_lr(epoch)

    def _update_lr(self, epoch: Any = None) -> None:
        closed = getattr(self, "_get_closed_form_lr", None)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._set_lrs(self.get_lr() if epoch is None or closed is None else closed())

    def _set_lrs(self, values: list[Any]) -> None:
        for group, lr in zip(self.optimizer.param_groups, values, strict=True):
            group["lr"] = lr
        self._last_lr = self._of_groups("lr")

    # -- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer, under torch's names: torch loads it."""
        found = {name: value for name, value in self.__dict__.items() if name not in _NOT_SAVED}
        for name, _ in self._kinds:
            value = getattr(self, name)
            found[name] = list(value) if isinstance(value, list) else value
        return found | {"_get_lr_called_within_step": False, "_is_initial": False}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave, here or in torch."""
        for name, value in state_dict.items():
            if name not in ("_get_lr_called_within_step", "_is_initial"):
                setattr(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_unbound", None)  # what the optimizer was like, in this process
        return state

    def __repr__(self) -> str:
        return f"{type(self).__module__.rpartition('._')[0]}.{type(self).__name__}(last_lr={list(self.get_last_lr())})"


class _Numbers(list[Any]):
    """A list of a scheduler's numbers; what is set in it is set in the scheduler."""

    def __init__(self, owner: LRScheduler, name: str, values: list[Any]) -> None:
        super().__init__(values)
        self._owner, self._name = owner, name

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        setattr(self._owner, self._name, list(self))

    def __reduce__(self) -> Any:
        return list, (list(self),)


@contextmanager
def exact() -> Iterator[None]:
    """Inside a scheduler's step: traced numbers are of double precision."""
    token = _within_step.set(True)
    try:
        with _double.double():
            yield
    finally:
        _within_step.reset(token)


def asked_within_step() -> None:
    """Warn when ``get_lr`` is called by anything but ``step``, as torch does."""
    if not _within_step.get():
        warnings.warn(
            "To get the last learning rate computed by the scheduler, please use `get_last_lr()`.", stacklevel=3
        )


def warn_epoch() -> None:
    """torch's deprecation of ``step(epoch)``."""
    warnings.warn(
        "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. Please "
        "use `scheduler.step()` to step the scheduler.",
        stacklevel=3,
    )


def _seen(optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's state as it is: every step replaces its arrays."""
    slots = optimizer._slots.items()
    return {name: weakref.ref(slot.value) for name, slot in slots if not name.startswith("options.")}


def _warn_if_too_early(scheduler: LRScheduler) -> None:
    seen = scheduler.__dict__.get("_unbound")
    now = {n: slot.value for n, slot in scheduler.optimizer._slots.items() if not n.startswith("options.")}
    if seen and seen.keys() == now.keys() and all(ref() is now[name] for name, ref in seen.items()):
        warnings.warn(
            "Detected call of `lr_scheduler.step()` before `optimizer.step()`: call them in the opposite order, or the "
            "first value of the learning rate schedule is skipped",
            stacklevel=3,
        )


def for_each_group(name: str, optimizer: Any, value: Any) -> list[Any]:
    """An option as a list with one value for each group."""
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has {len(value)} values, "
            f"param_groups has {count}."
        )
    return list(value)


def check_optimizer(optimizer: Any) -> None:
    """Raise TypeError for anything but an optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer (got {describe(optimizer)})")
