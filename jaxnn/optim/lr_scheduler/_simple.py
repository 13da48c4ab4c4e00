"""Schedulers of one formula: by a function, in steps, linear, exponential, polynomial."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from jaxnn.optim.lr_scheduler.base import LRScheduler, asked_within_step, check_optimizer
from jaxnn.optim.lr_scheduler.numbers import choose, is_traced, smaller
from jaxnn.optim.optimizer import Optimizer


class _ByFunction(LRScheduler):
    """Base of those that call a function of the epoch for each group."""

    lr_lambdas: list[Callable[[Any], Any]]

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[Any], Any] | list[Callable[[Any], Any]] | tuple[Callable[[Any], Any], ...],
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(optimizer)
        count = len(optimizer.param_groups)
        if isinstance(lr_lambda, (list, tuple)) and len(lr_lambda) != count:
            raise ValueError(f"Expected {count} lr_lambdas, but got {len(lr_lambda)}")
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * count
        for function in self.lr_lambdas:
            if not callable(function):
                raise TypeError(f"lr_lambda should be a function, but got {type(function).__name__}")
        super().__init__(optimizer, last_epoch)

    def _factors(self) -> list[Any]:
        epoch = self.last_epoch
        try:
            return [function(epoch) for function in self.lr_lambdas]
        except jax.errors.JAXTypeError as error:
            if not is_traced(epoch):
                raise
            raise TypeError(
                f"{type(self).__name__}: lr_lambda: in a compiled function the epoch is traced, and this lr_lambda needs "
                "a Python number. Use jnp.where for `if` and jnp for math in it, or call scheduler.step() outside"
            ) from error

    def state_dict(self) -> dict[str, Any]:
        """As of every scheduler; of the functions only those that are objects are saved, by their attributes."""
        functions = [
            None if isinstance(function, types.FunctionType) else dict(getattr(function, "__dict__", {}))
            for function in self.lr_lambdas
        ]
        return super().state_dict() | {"lr_lambdas": functions}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave; the functions stay, but for the attributes of those that are objects."""
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "lr_lambdas"})
        for function, saved in zip(self.lr_lambdas, state_dict["lr_lambdas"]):
            if saved is not None:
                function.__dict__.update(saved)


class LambdaLR(_ByFunction):
    """``lr = initial_lr * lr_lambda(epoch)``.

    Args:
        optimizer: the optimizer.
        lr_lambda: a function of the epoch, or a list of one for each group. In a compiled step the epoch is traced.
        last_epoch: the epoch to go on from; -1 to begin.

    Raises:
        ValueError: another number of functions than of groups.

    Follows ``torch.optim.lr_scheduler.LambdaLR``.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> nn.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.95**epoch).get_last_lr()
        [0.5]
    """

    def get_lr(self) -> list[Any]:
        asked_within_step()
        return [lr * factor for lr, factor in zip(self.base_lrs, self._factors(), strict=True)]


class MultiplicativeLR(_ByFunction):
    """Each epoch multiplies the learning rate by ``lr_lambda(epoch)``.

    Args:
        optimizer, lr_lambda, last_epoch: as in `LambdaLR`.

    Raises:
        ValueError: another number of functions than of groups.
        TypeError: `lr_lambda` is no function.

    Follows ``torch.optim.lr_scheduler.MultiplicativeLR``.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> scheduler = nn.optim.lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.95)
    """

    def get_lr(self) -> list[Any]:
        asked_within_step()
        if self._is_initial:
            return self._of_groups("lr")
        return [lr * factor for lr, factor in zip(self._of_groups("lr"), self._factors(), strict=True)]


class StepLR(LRScheduler):
    """Every `step_size` epochs, ``lr = lr * gamma``.

    Args:
        optimizer: the optimizer.
        step_size, gamma: numbers.
        last_epoch: the epoch to go on from; -1 to begin.

    Follows ``torch.optim.lr_scheduler.StepLR``.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> scheduler = nn.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        asked_within_step()
        lrs, epoch = self._of_groups("lr"), self.last_epoch
        stay = (epoch == 0) | (epoch % self.step_size != 0)
        return choose(stay, lambda: lrs, lambda: [lr * self.gamma for lr in lrs])

    def _get_closed_form_lr(self) -> list[Any]:
        return [lr * self.gamma ** (self.last_epoch // self.step_size) for lr in self.base_lrs]


class MultiStepLR(LRScheduler):
    """At each of the `milestones`, ``lr = lr * gamma``.

    Args:
        optimizer: the optimizer.
        milestones: epochs; one that occurs twice counts twice.
        gamma: a number.
        last_epoch: the epoch to go on from; -1 to begin.

    Follows ``torch.optim.lr_scheduler.MultiStepLR``.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> scheduler = nn.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[30, 80], gamma=0.1)
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.milestones, self.gamma = Counter(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        asked_within_step()
        lrs, epoch = self._of_groups("lr"), self.last_epoch
        if not is_traced(epoch):
            times = self.milestones.get(epoch, 0)
            return [lr * self.gamma**times for lr in lrs] if times else lrs
        times = sum(count * (epoch == milestone) for milestone, count in self.milestones.items())
        return choose(times == 0, lambda: lrs, lambda: [lr * self.gamma**times for lr in lrs])

    def _get_closed_form_lr(self) -> list[Any]:
        epoch = self.last_epoch
        passed = sum(count * (epoch >= milestone) for milestone, count in self.milestones.items())
        return [lr * self.gamma**passed for lr in self.base_lrs]


class ConstantLR(LRScheduler):
    """``lr = initial_lr * factor`` for the first `total_iters` epochs, then ``initial_lr``.

    Args:
        optimizer: the optimizer.
        factor: a number from 0 to 1.
        total_iters: a number of epochs.
        last_epoch: the epoch to go on from; -1 to begin.

    Raises:
        ValueError: `factor` out of its range.

    Follows ``torch.optim.lr_scheduler.ConstantLR``.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> nn.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=4).get_last_lr()
        [0.25]
    """

    def __init__(
        self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1
    ) -> None:
        if factor > 1.0 or factor < 0:
            raise ValueError(f"Constant multiplicative factor expected to be between 0 and 1, got {factor}")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        asked_within_step()
        lrs, epoch = self._of_groups("lr"), self.last_epoch
        return choose(
            epoch == 0,
            lambda: [lr * self.factor for lr in lrs],
            lambda: choose(epoch != self.total_iters, lambda: lrs, lambda: [lr * (1.0 / self.factor) for lr in lrs]),
        )

    def _get_closed_form_lr(self) -> list[Any]:
        done = self.last_epoch >= self.total_iters
        return [lr * (self.factor + done * (1 - self.factor)) for lr in self.base_lrs]


class LinearLR(LRScheduler):
    """``lr = initial_lr * f``, where ``f`` goes from `start_factor` to `end_factor` in `total_iters` epochs.

    Args:
        optimizer: the optimizer.
        start_factor, end_factor: numbers above 0 (the end: from 0) up to 1.
        total_iters: a number of epochs.
        last_epoch: the epoch to go on from; -1 to begin.

    Raises:
        ValueError: a factor out of its range.

    Follows ``torch.optim.lr_scheduler.LinearLR``.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> nn.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=4).get_last_lr()
        [0.25]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if start_factor > 1.0 or start_factor <= 0:
            raise ValueError(
                "Starting multiplicative factor expected to be greater than 0 and less or equal to 1, got "
                f"{start_factor}"
            )
        if end_factor > 1.0 or end_factor < 0:
            raise ValueError(f"Ending multiplicative factor expected to be between 0 and 1, got {end_factor}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        asked_within_step()
        lrs, epoch, start, rise = (
            self._of_groups("lr"), self.last_epoch, self.start_factor, self.end_factor - self.start_factor
        )  # fmt: skip

        def risen() -> list[Any]:
            return [lr * (1.0 + rise / (self.total_iters * start + (epoch - 1) * rise)) for lr in lrs]

        later = lambda: choose(self._is_initial or epoch > self.total_iters, lambda: lrs, risen)  # noqa: E731
        return choose(epoch == 0, lambda: [lr * start for lr in lrs], later)

    def _get_closed_form_lr(self) -> list[Any]:
        rise, done = self.end_factor - self.start_factor, smaller(self.total_iters, self.last_epoch)
        return [lr * (self.start_factor + rise * done / self.total_iters) for lr in self.base_lrs]


class ExponentialLR(LRScheduler):
    """Each epoch, ``lr = lr * gamma``.

    Args:
        optimizer: the optimizer.
        gamma: a number.
        last_epoch: the epoch to go on from; -1 to begin.

    Follows ``torch.optim.lr_scheduler.ExponentialLR``.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> scheduler = nn.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        asked_within_step()
        lrs = self._of_groups("lr")
        return lrs if self._is_initial else [lr * self.gamma for lr in lrs]

    def _get_closed_form_lr(self) -> list[Any]:
        return [lr * self.gamma**self.last_epoch for lr in self.base_lrs]


class PolynomialLR(LRScheduler):
    """``lr = initial_lr * (1 - epoch / total_iters)**power``, and 0 after.

    Args:
        optimizer: the optimizer.
        total_iters, power: numbers.
        last_epoch: the epoch to go on from; -1 to begin.

    Follows ``torch.optim.lr_scheduler.PolynomialLR``.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> scheduler = nn.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=4, power=2.0)
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        asked_within_step()
        lrs, epoch, total = self._of_groups("lr"), self.last_epoch, self.total_iters

        def shrunk() -> list[Any]:
            factor = ((1.0 - epoch / total) / (1.0 - (epoch - 1) / total)) ** self.power
            return [lr * factor for lr in lrs]

        return choose(self._is_initial or epoch > total, lambda: lrs, shrunk)

    def _get_closed_form_lr(self) -> list[Any]:
        done = smaller(self.total_iters, self.last_epoch) / self.total_iters
        return [lr * (1.0 - done) ** self.power for lr in self.base_lrs]
