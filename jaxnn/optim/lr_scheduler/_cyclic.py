"""Schedulers that cycle the momentum against the learning rate."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from jaxnn.optim._groups import Number
from jaxnn.optim.lr_scheduler.base import LRScheduler, asked_within_step, check_optimizer, for_each_group
from jaxnn.optim.lr_scheduler.numbers import choose, cos, floor, is_traced
from jaxnn.optim.optimizer import Optimizer


class _Cycling(LRScheduler):
    """Base of those that may cycle the momentum, or the first of Adam's betas."""

    use_beta1: bool

    def _start_momentum(self, base: list[Any], largest: list[Any], last_epoch: int) -> None:
        if last_epoch != -1:
            return
        for group, low, high in zip(self.optimizer.param_groups, base, largest, strict=True):
            self._set_momentum(group, high)
            group["max_momentum"], group["base_momentum"] = high, low

    def _find_momentum(self) -> None:
        if not any(self.optimizer._knows(name) for name in ("momentum", "betas")):
            raise ValueError(
                f"{type(self).__name__}: optimizer must support momentum or beta1 with `cycle_momentum` option enabled, "
                f"got {type(self.optimizer).__name__}; pass cycle_momentum=False"
            )
        self.use_beta1 = self.optimizer._knows("betas")

    def _set_momentum(self, group: Any, value: Any) -> None:
        if self.use_beta1:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value


def _triangular(x: Any) -> Any:
    return 1.0


def _triangular2(x: Any) -> Any:
    return 1 / (2.0 ** (x - 1))


class CyclicLR(_Cycling):
    """The learning rate goes from `base_lr` up to `max_lr` and back down, over and over.

    Args:
        optimizer: the optimizer.
        base_lr, max_lr: numbers, or a list of one for each group.
        step_size_up, step_size_down: steps of the rise and of the fall (None: as many).
        mode: "triangular", "triangular2" (each cycle half as high) or "exp_range" (``gamma**step`` as high).
        gamma: a number, for "exp_range".
        scale_fn: a function of the cycle or of the step in place of `mode`; in a compiled step that is traced.
        scale_mode: "cycle" or "iterations": what `scale_fn` is given.
        cycle_momentum: whether momentum goes from `max_momentum` to `base_momentum` as the learning rate rises.
        base_momentum, max_momentum: numbers, or a list of one for each group.
        last_epoch: the step to go on from; -1 to begin.

    Raises:
        ValueError: an unknown `mode`, another number of values than of groups, or an optimizer without momentum.

    Follows ``torch.optim.lr_scheduler.CyclicLR``; Smith, 2017.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.1, momentum=0.9)
        >>> nn.optim.lr_scheduler.CyclicLR(optimizer, base_lr=0.01, max_lr=0.1).get_last_lr()
        [0.01]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: Number | Sequence[Number],
        max_lr: Number | Sequence[Number],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[Any], Any] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: Number | Sequence[Number] = 0.8,
        max_momentum: Number | Sequence[Number] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self._attach(optimizer)
        base_lrs = for_each_group("base_lr", optimizer, base_lr)
        if last_epoch == -1:
            for lr, group in zip(base_lrs, optimizer.param_groups, strict=True):
                group["lr"] = lr
        self.max_lrs = for_each_group("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        down = float(step_size_down) if step_size_down is not None else up
        self.total_size, self.step_ratio = up + down, up / (up + down)
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError(f"mode is invalid and scale_fn is None: got mode {mode!r}")
        self.mode, self.gamma, self._scale_fn_custom = mode, gamma, scale_fn
        if scale_fn is None:
            scale_mode = "iterations" if mode == "exp_range" else "cycle"
        self.scale_mode, self.cycle_momentum = scale_mode, cycle_momentum
        if cycle_momentum:
            self._find_momentum()
            self.base_momentums = for_each_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = for_each_group("max_momentum", optimizer, max_momentum)
            self._start_momentum(self.base_momentums, self.max_momentums, last_epoch)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: Any) -> Any:
        """How high the cycle, or the step, `x` is."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        return {"triangular": _triangular, "triangular2": _triangular2}.get(self.mode, lambda n: self.gamma**n)(x)

    def get_lr(self) -> list[Any]:
        asked_within_step()
        where = self.last_epoch / self.total_size
        cycle, ratio = floor(1 + where), self.step_ratio
        x = 1.0 + where - cycle
        height = choose(x <= ratio, lambda: x / ratio, lambda: (x - 1) / (ratio - 1))
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            ends = zip(self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True)
            for group, low, high in ends:
                self._set_momentum(group, high - (high - low) * height * scale)
        return [low + (high - low) * height * scale for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """As of every scheduler; a `scale_fn` is saved by its attributes, when it is an object that has any."""
        function = self._scale_fn_custom
        named = function is None or isinstance(function, types.FunctionType)
        return super().state_dict() | {"_scale_fn_custom": None if named else dict(function.__dict__)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; `scale_fn` stays, but for the attributes of an object."""
        saved = state_dict["_scale_fn_custom"]
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "_scale_fn_custom"})
        if saved is not None:
            self._scale_fn_custom.__dict__.update(saved)


class OneCycleLR(_Cycling):
    """One cycle: from ``max_lr / div_factor`` up to `max_lr`, then down to ``max_lr / (div_factor * final_div_factor)``.

    It steps after each batch, `total_steps` times; momentum goes the other way.

    Args:
        optimizer: the optimizer.
        max_lr: a number, or a list of one for each group.
        total_steps: the number of steps; or give `epochs` and `steps_per_epoch`.
        pct_start: the part of the steps in which the learning rate rises.
        anneal_strategy: "cos" or "linear".
        cycle_momentum, base_momentum, max_momentum: as in `CyclicLR`.
        div_factor, final_div_factor: numbers.
        three_phase: fall as long as it rose, then on to the end.
        last_epoch: the step to go on from; -1 to begin.

    Raises:
        ValueError: an option out of its range; or a step past the last (in a compiled step the learning rate is NaN).

    Follows ``torch.optim.lr_scheduler.OneCycleLR``; Smith and Topin, 2018.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.AdamW(nn.Linear(2, 1))
        >>> scheduler = nn.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=100)
        >>> optimizer.param_groups[0]["betas"]
        (0.95, 0.999)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: Number | Sequence[Number],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: Number | Sequence[Number] = 0.85,
        max_momentum: Number | Sequence[Number] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        self._attach(optimizer)
        self.total_steps = _total(total_steps, epochs, steps_per_epoch)
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        if not isinstance(pct_start, float) or pct_start < 0 or pct_start > 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self._anneal_func_type = anneal_strategy
        max_lrs = for_each_group("max_lr", optimizer, max_lr)
        if last_epoch == -1:
            for lr, group in zip(max_lrs, optimizer.param_groups, strict=True):
                group["initial_lr"] = lr / div_factor
                group["max_lr"] = lr
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._find_momentum()
            low = for_each_group("base_momentum", optimizer, base_momentum)
            self._start_momentum(low, for_each_group("max_momentum", optimizer, max_momentum), last_epoch)
        super().__init__(optimizer, last_epoch)

    def _between(self, start: Any, end: Any, part: Any) -> Any:
        if self._anneal_func_type == "cos":
            return end + (start - end) / 2.0 * (cos(math.pi * part) + 1)
        return (end - start) * part + start

    def _phase(self, number: int, begun: Any) -> Any:
        """The learning rate and the momentum of each group in a phase that began at a step."""
        phase = self._schedule_phases[number]
        part = (self.last_epoch - begun) / (phase["end_step"] - begun)
        ends = [("start_lr", "end_lr")] + [("start_momentum", "end_momentum")] * self.cycle_momentum
        return [
            [self._between(group[phase[start]], group[phase[end]], part) for start, end in ends]
            for group in self.optimizer.param_groups
        ]

    def get_lr(self) -> list[Any]:
        asked_within_step()
        step, total = self.last_epoch, self.total_steps
        beyond = step > total
        if not is_traced(beyond) and beyond:
            raise ValueError(f"Tried to step {step} times. The specified number of total steps is {total}")

        def found(number: int, begun: Any) -> Any:
            if number == len(self._schedule_phases) - 1:
                return self._phase(number, begun)
            end = self._schedule_phases[number]["end_step"]
            return choose(step <= end, lambda: self._phase(number, begun), lambda: found(number + 1, end))

        values = found(0, 0.0)
        if self.cycle_momentum:
            for group, (_, momentum) in zip(self.optimizer.param_groups, values, strict=True):
                self._set_momentum(group, momentum)
        lrs = [row[0] for row in values]
        return [jnp.where(beyond, jnp.nan, lr) for lr in lrs] if is_traced(beyond) else lrs


def _total(total_steps: Any, epochs: Any, steps_per_epoch: Any) -> int:
    """The number of steps, as given or as a product."""
    if total_steps is None and (epochs is None or steps_per_epoch is None):
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    given = (
        {"epochs": epochs, "steps_per_epoch": steps_per_epoch} if total_steps is None else {"total_steps": total_steps}
    )
    for name, value in given.items():
        if not isinstance(value, int) or value <= 0:
            raise ValueError(f"Expected positive integer {name}, but got {value}")
    return math.prod(given.values())


def _phases(total: int, rise: float, three: bool) -> list[dict[str, Any]]:
    """Where each phase ends, and between which of a group's options it goes."""
    names = ("start_lr", "end_lr", "start_momentum", "end_momentum")
    up = ("initial_lr", "max_lr", "max_momentum", "base_momentum")
    back = ("max_lr", "initial_lr", "base_momentum", "max_momentum")
    rest = ("initial_lr", "min_lr", "max_momentum", "max_momentum")
    down = ("max_lr", "min_lr", "base_momentum", "max_momentum")
    first = float(rise * total) - 1
    if three:
        rows = [(first, up), (float(2 * rise * total) - 2, back), (total - 1, rest)]
    else:
        rows = [(first, up), (total - 1, down)]
    return [{"end_step": end, **dict(zip(names, ends))} for end, ends in rows]
