"""`ReduceLROnPlateau`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxnn.optim._groups import Number
from jaxnn.optim.lr_scheduler.base import LRScheduler, exact, warn_epoch
from jaxnn.optim.lr_scheduler.numbers import both, choose, is_traced, larger, opposite
from jaxnn.optim.optimizer import Optimizer


class ReduceLROnPlateau(LRScheduler):
    """``lr = max(lr * factor, min_lr)`` when a metric has not improved for more than `patience` epochs.

    ``step(metric)`` may be part of a compiled step: the metric, and all that is counted, is data.

    Args:
        optimizer: the optimizer.
        mode: "min" or "max": whether smaller metrics are better, or larger ones.
        factor: a number below 1.
        patience: epochs without improvement that are borne.
        threshold, threshold_mode: how much better counts as better: a part of the best ("rel") or a difference ("abs").
        cooldown: epochs after a reduction in which nothing is counted.
        min_lr: a number, or a list of one for each group.
        eps: a reduction by no more than this is left out.

    Raises:
        ValueError: an option out of its range.
        TypeError: `optimizer` is no optimizer.

    Follows ``torch.optim.lr_scheduler.ReduceLROnPlateau``.

    Example:
        >>> import jaxnn as nn
        >>> scheduler = nn.optim.lr_scheduler.ReduceLROnPlateau(nn.optim.SGD(nn.Linear(2, 1), lr=0.5), patience=1)
        >>> for loss in (3.0, 3.0, 3.0):
        ...     scheduler.step(loss)
        >>> scheduler.get_last_lr()
        [0.05]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: Number | Sequence[Number] = 0,
        eps: float = 1e-8,
    ) -> None:
        if factor >= 1.0:
            raise ValueError(f"Factor should be < 1.0, got {factor}")
        self.factor = factor
        self._attach(optimizer)
        count = len(optimizer.param_groups)
        if isinstance(min_lr, (list, tuple)):
            if len(min_lr) != count:
                raise ValueError(f"expected {count} min_lrs, got {len(min_lr)}")
            self.default_min_lr, self.min_lrs = None, list(min_lr)
        else:
            self.default_min_lr, self.min_lrs = min_lr, [min_lr] * count
        self.patience, self.cooldown, self.eps, self.last_epoch = patience, cooldown, eps, 0
        self._last_lr = self._of_groups("lr")
        self._set_mode(mode, threshold, threshold_mode)
        self._reset()

    def _set_mode(self, mode: str, threshold: Any, threshold_mode: str) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode} is unknown! Expected 'min' or 'max'")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold mode {threshold_mode} is unknown! Expected 'rel' or 'abs'")
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode

    def _reset(self) -> None:
        """Forget the best metric and all that was counted."""
        self.best, self.cooldown_counter, self.num_bad_epochs = self.mode_worse, 0, 0

    @property
    def in_cooldown(self) -> Any:
        """Whether a reduction was too recent for bad epochs to count."""
        return self.cooldown_counter > 0

    def _is_better(self, metric: Any, best: Any) -> Any:
        if self.threshold_mode == "rel":
            return (
                metric < best * (1.0 - self.threshold) if self.mode == "min" else metric > best * (self.threshold + 1.0)
            )
        return metric < best - self.threshold if self.mode == "min" else metric > best + self.threshold

    def step(self, metrics: Any, epoch: Any = None) -> None:
        """Look at a metric: a number, or an array of one number."""
        with exact():
            metric = metrics.reshape(()).astype("float64") if is_traced(metrics) else float(metrics)
            if epoch is not None:
                warn_epoch()
            self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
            best, bad = self.best, self.num_bad_epochs
            better = self._is_better(metric, best)
            self.best = choose(better, lambda: metric, lambda: best)
            cooling, left = self.in_cooldown, self.cooldown_counter
            bad = choose(better, lambda: 0 * bad, lambda: bad + 1)
            bad = choose(cooling, lambda: 0 * bad, lambda: bad)
            left = choose(cooling, lambda: left - 1, lambda: left)
            reduce = bad > self.patience
            self._reduce_lr(reduce)
            self.cooldown_counter = choose(reduce, lambda: self.cooldown, lambda: left)
            self.num_bad_epochs = choose(reduce, lambda: 0 * bad, lambda: bad)
            self._last_lr = self._of_groups("lr")

    def _reduce_lr(self, reduce: Any) -> None:
        groups = self.optimizer.param_groups
        if not is_traced(reduce) and not reduce:
            return
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"The number of param groups in the `optimizer` ({len(groups)}) differs from when "
                    f"`ReduceLROnPlateau` was initialized ({len(self.min_lrs)}): set `min_lrs` to one for each group"
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, least in zip(groups, self.min_lrs):
            old = group["lr"]
            new = larger(old * self.factor, least)
            much = both(reduce, old - new > self.eps)
            group["lr"] = choose(opposite(much), lambda old=old: old, lambda new=new: new)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave, here or in torch."""
        super().load_state_dict(state_dict)
        self._set_mode(self.mode, self.threshold, self.threshold_mode)
