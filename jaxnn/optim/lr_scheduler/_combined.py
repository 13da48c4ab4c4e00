"""Schedulers made of schedulers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxnn.optim.lr_scheduler._plateau import ReduceLROnPlateau
from jaxnn.optim.lr_scheduler.base import LRScheduler, exact
from jaxnn.optim.lr_scheduler.numbers import both, is_traced, opposite
from jaxnn.optim.optimizer import Optimizer


class _Combined(LRScheduler):
    """Base of those that hold schedulers."""

    _schedulers: list[Any]

    def _check(self, schedulers: Sequence[Any], optimizer: Any) -> None:
        name = type(self).__name__
        for number, scheduler in enumerate(schedulers):
            if not hasattr(scheduler, "optimizer"):
                raise TypeError(f"{name} at index {number} should have `optimizer` as its attribute.")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(
                    f"{name} does not support `ReduceLROnPlateau` scheduler as it requires the metric when calling "
                    f"`step`, but got one at index {number} in the given schedulers sequence."
                )
            if optimizer is not scheduler.optimizer:
                raise ValueError(
                    f"{name} expects all schedulers to belong to the same optimizer, but got scheduler "
                    f"{type(scheduler).__name__} at index {number} with another one."
                )

    def state_dict(self) -> dict[str, Any]:
        """As of every scheduler, with the states of those inside."""
        return super().state_dict() | {"_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave, here or in torch."""
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "_schedulers"})
        for scheduler, saved in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(saved)


class ChainedScheduler(_Combined):
    """All of its schedulers step together, each from where the last has left the learning rate.

    Args:
        schedulers: schedulers of one optimizer.
        optimizer: that optimizer; None: of the first scheduler.

    Raises:
        ValueError: no scheduler, one of another optimizer, or a `ReduceLROnPlateau`.
        TypeError: something without an optimizer.

    Follows ``torch.optim.lr_scheduler.ChainedScheduler``.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> warmup = nn.optim.lr_scheduler.ConstantLR(optimizer, factor=0.1, total_iters=20)
        >>> decay = nn.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
        >>> nn.optim.lr_scheduler.ChainedScheduler([warmup, decay]).get_last_lr()
        [0.05]
    """

    def __init__(self, schedulers: Sequence[Any], optimizer: Optimizer | None = None) -> None:
        if len(schedulers) < 1:
            raise ValueError(
                f"{type(self).__name__} expects at least one scheduler to be chained, but got no scheduler."
            )
        optimizer = optimizer if optimizer is not None else schedulers[0].optimizer
        self._check(schedulers, optimizer)
        self._attach(optimizer)
        self._schedulers = list(schedulers)
        self._last_lr = self._of_groups("lr")

    def step(self) -> None:  # type: ignore[override]
        """Step every scheduler."""
        for scheduler in self._schedulers:
            scheduler.step()
        with exact():
            self._last_lr = self._of_groups("lr")


class SequentialLR(_Combined):
    """One scheduler after another: the next takes over at each of the `milestones`.

    Args:
        optimizer: the optimizer.
        schedulers: its schedulers, in order.
        milestones: the epochs at which the second, third ... begin.
        last_epoch: as in torch.

    Raises:
        ValueError: no scheduler, one of another optimizer, a `ReduceLROnPlateau`, or another number of milestones.
        TypeError: something without an optimizer.

    Follows ``torch.optim.lr_scheduler.SequentialLR``.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> warmup = nn.optim.lr_scheduler.ConstantLR(optimizer, factor=0.1, total_iters=20)
        >>> decay = nn.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
        >>> nn.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], milestones=[20]).get_last_lr()
        [0.05]
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[Any], milestones: list[int], last_epoch: int = -1
    ) -> None:
        name = type(self).__name__
        if len(schedulers) < 1:
            raise ValueError(f"{name} expects at least one scheduler, but got no scheduler.")
        self._check(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than the number of milestone "
                f"points, but got number of schedulers {len(schedulers)} and the number of milestones to be equal to "
                f"{len(milestones)}"
            )
        self._attach(optimizer)
        self._schedulers, self._milestones = list(schedulers), list(milestones)
        self.last_epoch = last_epoch + 1
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self.recursive_undo()
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first._initial_step()
        self._last_lr = list(first.get_last_lr())

    def recursive_undo(self, sched: Any = None) -> None:
        """Take back the step that each scheduler took when it was made."""
        scheduler = self if sched is None else sched
        if isinstance(scheduler, _Combined):
            for inner in scheduler._schedulers:
                self.recursive_undo(inner)
        elif hasattr(scheduler, "last_epoch"):
            scheduler.last_epoch = scheduler.last_epoch - 1

    def step(self) -> None:  # type: ignore[override]
        """Step the scheduler whose turn it is."""
        with exact():
            epoch = self.last_epoch = self.last_epoch + 1
            epoch = self.last_epoch
            turn = sum((epoch >= milestone) * 1 for milestone in self._milestones)
            for number, scheduler in enumerate(self._schedulers):
                mine = turn == number
                begins = number > 0 and self._milestones[number - 1] == epoch
                _only_if(both(mine, begins), lambda s=scheduler: s._update_lr(0), scheduler)
                _only_if(both(mine, opposite(begins)), scheduler.step, scheduler)
            self._last_lr = self._of_groups("lr")


def _numbers_of(scheduler: Any) -> list[Any]:
    """The boxes of a scheduler's numbers, of those inside it, and of its optimizer's options."""
    boxes = list(scheduler._slots.values())
    for inner in getattr(scheduler, "_schedulers", ()):
        boxes += _numbers_of(inner)
    return boxes + [box for name, box in scheduler.optimizer._slots.items() if name.startswith("options.")]


def _only_if(condition: Any, function: Callable[[], None], scheduler: Any) -> None:
    """Call `function`; where the condition is traced, keep what it does to the numbers only where that holds."""
    if not is_traced(condition):
        if condition:
            function()
        return
    before = [(box, box.value) for box in {id(box): box for box in _numbers_of(scheduler)}.values()]
    function()
    for box, value in before:
        if box.value is not value:
            box.value = jnp.where(condition, box.value, value)
