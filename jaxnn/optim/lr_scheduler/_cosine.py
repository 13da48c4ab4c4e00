"""Schedulers along a cosine."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from jaxnn.optim.lr_scheduler.base import LRScheduler, asked_within_step, exact
from jaxnn.optim.lr_scheduler.numbers import choose, cos, floor, is_traced
from jaxnn.optim.optimizer import Optimizer


class CosineAnnealingLR(LRScheduler):
    """``lr = eta_min + (initial_lr - eta_min) * (1 + cos(pi * epoch / T_max)) / 2``, from one epoch to the next.

    Args:
        optimizer: the optimizer.
        T_max: epochs of half a period.
        eta_min: the smallest learning rate.
        last_epoch: the epoch to go on from; -1 to begin.

    Follows ``torch.optim.lr_scheduler.CosineAnnealingLR``; Loshchilov and Hutter, 2017 (without restarts).

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> scheduler = nn.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        asked_within_step()
        lrs, epoch, half, least = self._of_groups("lr"), self.last_epoch, self.T_max, self.eta_min
        if self._is_initial:
            return lrs
        base = self.base_lrs

        def turning() -> list[Any]:  # the ratio below would divide by zero
            return [lr + (start - least) * (1 - cos(math.pi / half)) / 2 for lr, start in zip(lrs, base, strict=True)]

        def next_one() -> list[Any]:
            ratio = (1 + cos(math.pi * epoch / half)) / (1 + cos(math.pi * (epoch - 1) / half))
            return [ratio * (lr - least) + least for lr in lrs]

        later = lambda: choose((epoch - 1 - half) % (2 * half) == 0, turning, next_one)  # noqa: E731
        resumed = (self._step_count == 1) & (epoch > 0)
        return choose(resumed, self._get_closed_form_lr, later)

    def _get_closed_form_lr(self) -> list[Any]:
        least = self.eta_min
        factor = 1 + cos(math.pi * self.last_epoch / self.T_max)
        return [least + (lr - least) * factor / 2 for lr in self.base_lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """``lr = eta_min + (initial_lr - eta_min) * (1 + cos(pi * T_cur / T_i)) / 2``; after ``T_i`` epochs it starts again.

    Args:
        optimizer: the optimizer.
        T_0: epochs until the first restart.
        T_mult: how many times longer each period is than the last.
        eta_min: the smallest learning rate.
        last_epoch: the epoch to go on from; -1 to begin.

    Raises:
        ValueError: `T_0` or `T_mult` is no positive integer, or `eta_min` no number.

    Follows ``torch.optim.lr_scheduler.CosineAnnealingWarmRestarts``; Loshchilov and Hutter, 2017.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> scheduler = nn.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2)
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, (float, int)):
            raise ValueError(f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}")
        self.T_0, self.T_i, self.T_mult, self.eta_min, self.T_cur = T_0, T_0, T_mult, eta_min, last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        asked_within_step()
        least, factor = self.eta_min, 1 + cos(math.pi * self.T_cur / self.T_i)
        return [least + (lr - least) * factor / 2 for lr in self.base_lrs]

    def step(self, epoch: Any = None) -> None:
        """Go on to the next epoch, or to `epoch`, which may be a fraction: ``epoch + batch / batches``.

        Raises:
            ValueError: a negative epoch.
        """
        with exact():
            if epoch is None and not is_traced(self.last_epoch) and self.last_epoch < 0:
                epoch = 0
            if epoch is None:
                epoch = self.last_epoch + 1
                now = self.T_cur + 1
                over, length = now >= self.T_i, self.T_i
                self.T_cur = choose(over, lambda: now % length, lambda: now)
                self.T_i = choose(over, lambda: length * self.T_mult, lambda: length)
            elif is_traced(epoch):
                self._go_to_traced(epoch)
            elif epoch < 0:
                raise ValueError(f"Expected non-negative epoch, but got {epoch}")
            else:
                self._go_to(epoch)
            self.last_epoch = floor(epoch)
            self._set_lrs(self.get_lr())

    def _go_to(self, epoch: Any) -> None:
        first, times = self.T_0, self.T_mult
        if epoch < first:
            self.T_i, self.T_cur = first, epoch
        elif times == 1:
            self.T_cur = epoch % first
        else:
            period = int(math.log(epoch / first * (times - 1) + 1, times))
            self.T_cur = epoch - first * (times**period - 1) / (times - 1)
            self.T_i = first * times**period

    def _go_to_traced(self, epoch: Any) -> None:
        if dict(self._kinds)["T_cur"] == "i" and not jnp.issubdtype(epoch.dtype, jnp.integer):
            raise TypeError(
                "CosineAnnealingWarmRestarts.step: epoch: a fraction of an epoch cannot be traced before one was given "
                "outside; call scheduler.step(0.0) first"
            )
        first, times = self.T_0, self.T_mult
        several = jnp.maximum(times - 1, 1)
        period = jnp.floor(jnp.log(epoch / first * (times - 1) + 1) / jnp.log(jnp.maximum(times, 2) * 1.0))
        period = jnp.where(times == 1, 0, period)
        begun = first * (times**period - 1) / several
        later = jnp.where(times == 1, epoch % first, epoch - begun)
        self.T_cur = jnp.where(epoch < first, epoch, later)
        self.T_i = jnp.where(epoch < first, first, first * times**period)
