"""torch.optim.swa_utils: a running average of a model's weights, and the learning rate that goes with it."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn._compat import Tracer
from jaxnn.base.dtypes import describe, promote_types
from jaxnn.base.modes import no_grad
from jaxnn.base.types import Device
from jaxnn.boxes.parameter import Buffer, as_sharding
from jaxnn.boxes.writes import assign_all
from jaxnn.core.conversions import place
from jaxnn.core.module import Module
from jaxnn.modules.batchnorm import _BatchNorm
from jaxnn.optim._groups import Number
from jaxnn.optim.lr_scheduler.base import LRScheduler, asked_within_step, for_each_group
from jaxnn.optim.lr_scheduler.numbers import choose, cos, larger, smaller
from jaxnn.optim.optimizer import Optimizer

__all__ = [
    "AveragedModel",
    "SWALR",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]


def _check_decay(decay: float) -> None:
    if decay < 0.0 or decay > 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")


def _inexact(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.inexact)


def _lerp(start: Any, end: Any, weight: Any) -> Any:
    """Part of the way from one array to the other, as torch's lerp rounds it; 16-bit floats in float32."""
    wide = promote_types(start.dtype, jnp.float32)
    a, b = start.astype(wide), end.astype(wide)
    weight = jnp.asarray(weight, jnp.finfo(wide).dtype)
    found = jnp.where(weight < 0.5, a + weight * (b - a), b - (b - a) * (1 - weight))
    return found.astype(start.dtype)


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable[..., Any]:
    """For `AveragedModel`: the exponential average ``decay * averaged + (1 - decay) * current``, of all arrays at once.

    Raises:
        ValueError: `decay` is not from 0 to 1.

    Example:
        >>> import jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> ema = nn.optim.swa_utils.AveragedModel(model, multi_avg_fn=nn.optim.swa_utils.get_ema_multi_avg_fn(0.99))
        >>> ema.update_parameters(model)
    """
    _check_decay(decay)

    def ema_update(averaged: list[Any], current: list[Any], num_averaged: Any) -> list[Any]:
        if _inexact(averaged[0]):
            return [_lerp(a, c, 1 - decay) for a, c in zip(averaged, current, strict=True)]
        return [a * decay + c * (1 - decay) for a, c in zip(averaged, current, strict=True)]

    return ema_update


def get_swa_multi_avg_fn() -> Callable[..., Any]:
    """For `AveragedModel`: the mean of all that it was given, of all arrays at once.

    Example:
        >>> import jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> swa = nn.optim.swa_utils.AveragedModel(model, multi_avg_fn=nn.optim.swa_utils.get_swa_multi_avg_fn())
        >>> swa.update_parameters(model)
    """

    def swa_update(averaged: list[Any], current: list[Any], num_averaged: Any) -> list[Any]:
        if _inexact(averaged[0]):
            return [_lerp(a, c, 1 / (num_averaged + 1)) for a, c in zip(averaged, current, strict=True)]
        return [a + (c - a) / (num_averaged + 1) for a, c in zip(averaged, current, strict=True)]

    return swa_update


def get_ema_avg_fn(decay: float = 0.999) -> Callable[..., Any]:
    """For `AveragedModel`: the exponential average of one array, ``decay * averaged + (1 - decay) * current``.

    Raises:
        ValueError: `decay` is not from 0 to 1.

    Example:
        >>> import jaxnn as nn
        >>> ema = nn.optim.swa_utils.AveragedModel(nn.Linear(2, 1), avg_fn=nn.optim.swa_utils.get_ema_avg_fn(0.99))
    """
    _check_decay(decay)

    def ema_update(averaged: Any, current: Any, num_averaged: Any) -> Any:
        return decay * averaged + (1 - decay) * current

    return ema_update


def get_swa_avg_fn() -> Callable[..., Any]:
    """For `AveragedModel`: the mean of one array, ``averaged + (current - averaged) / (num_averaged + 1)``.

    Example:
        >>> import jaxnn as nn
        >>> swa = nn.optim.swa_utils.AveragedModel(nn.Linear(2, 1), avg_fn=nn.optim.swa_utils.get_swa_avg_fn())
    """

    def swa_update(averaged: Any, current: Any, num_averaged: Any) -> Any:
        return averaged + (current - averaged) / jnp.asarray(num_averaged + 1, jnp.float32)

    return swa_update


class AveragedModel(Module):
    """A copy of a model whose weights are a running average of the model's: ``update_parameters(model)`` after a step.

    The first update copies. Without a function of your own the average is the mean of all updates (SWA).

    Args:
        model: the model; it is copied.
        device: where the copy goes; None: where the model is.
        avg_fn: ``avg_fn(averaged, current, num_averaged)`` gives the new average of one array.
        multi_avg_fn: the same for lists of arrays of one dtype. torch: it changes the first list in place; here it
            returns the new list.
        use_buffers: average the buffers too; otherwise they are copied from the model at each update.

    Raises:
        AssertionError: both functions given.

    Follows ``torch.optim.swa_utils.AveragedModel``; Izmailov and others, 2018.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.SGD(model, lr=0.1)
        >>> ema = nn.optim.swa_utils.AveragedModel(model, multi_avg_fn=nn.optim.swa_utils.get_ema_multi_avg_fn(0.9))
        >>> @nn.jit
        ... def step(model, optimizer, ema, x):
        ...     loss = optimizer.step(model, lambda m: (m(x) ** 2).mean())
        ...     ema.update_parameters(model)
        ...     return loss
        >>> losses = [step(model, optimizer, ema, jnp.ones((4, 2))) for _ in range(3)]
        >>> ema(jnp.ones((4, 2))).shape
        (4, 1)
    """

    n_averaged: Any

    def __init__(
        self,
        model: Module,
        device: Device | None = None,
        avg_fn: Callable[..., Any] | None = None,
        multi_avg_fn: Callable[..., Any] | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.n_averaged = Buffer(jnp.zeros((), jnp.int32))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged model gives."""
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take a model's weights into the average. It works in a compiled step as well as outside.

        Raises:
            TypeError: `multi_avg_fn` did not return as many arrays as it was given.
            ValueError: a parameter of another shape than the average's.
        """
        ours: Any = self.module.parameters()
        theirs: Any = model.parameters()
        if self.use_buffers:
            ours = itertools.chain(ours, self.module.buffers())
            theirs = itertools.chain(theirs, model.buffers())
        boxes, values = list(ours), [box.value for box in theirs]
        for number, (box, value) in enumerate(zip(boxes, values)):
            if box.shape != value.shape:
                raise ValueError(
                    f"AveragedModel.update_parameters: model: parameter {number}: expected the shape {box.shape}, got "
                    f"{value.shape}"
                )
        count = self.n_averaged
        traced = isinstance(count, Tracer)
        new = None if not traced and count == 0 else self._averages([box.value for box in boxes], values, count)
        averages = []
        for number, (box, value) in enumerate(zip(boxes, values)):
            first = jnp.array(value, box.dtype, copy=True)
            if new is not None:
                average = new[number].astype(box.dtype)
                first = jnp.where(count == 0, first, average) if traced else average
            averages.append(jax.lax.stop_gradient(first))
        if not self.use_buffers:
            for box, other in zip(self.module.buffers(), model.buffers(), strict=True):
                boxes.append(box)
                averages.append(jnp.array(other.value, copy=True))
        assign_all([*boxes, self._buffers["n_averaged"]], [*averages, count + 1])

    def _averages(self, averaged: list[Any], current: list[Any], count: Any) -> list[Any]:
        if self.multi_avg_fn is None:
            function = self.avg_fn or get_swa_avg_fn()
            return [function(a, c, count) for a, c in zip(averaged, current)]
        found: list[Any] = [None] * len(averaged)
        for dtype in dict.fromkeys(a.dtype for a in averaged):
            chosen = [i for i, a in enumerate(averaged) if a.dtype == dtype]
            out = self.multi_avg_fn([averaged[i] for i in chosen], [current[i] for i in chosen], count)
            if not isinstance(out, (list, tuple)) or len(out) != len(chosen):
                raise TypeError(
                    f"AveragedModel: multi_avg_fn: expected a list of the {len(chosen)} new averages (arrays do not change "
                    f"in place), got {describe(out)}"
                )
            for i, value in zip(chosen, out):
                found[i] = value
        return found


def update_bn(loader: Iterable[Any], model: Module, device: Device | None = None) -> None:
    """Make the running statistics of all batch norms anew, from a pass over `loader`.

    Args:
        loader: batches; of a list or tuple, the first is the input.
        model: the model, an `AveragedModel` most often.
        device: where batches go first, a jax device, a sharding or a platform's name; None: they stay.

    Follows ``torch.optim.swa_utils.update_bn``.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> nn.optim.swa_utils.update_bn([jnp.ones((4, 2)), jnp.zeros((4, 2))], model)
        >>> int(model[1].num_batches_tracked)
        2
    """
    sharding = as_sharding(device, "update_bn: device")
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta, was_training = [norm.momentum for norm in norms], model.training
    try:
        model.train()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
        with no_grad():
            for batch in loader:
                batch = batch[0] if isinstance(batch, (list, tuple)) else batch
                model(batch if sharding is None else place(batch, sharding))
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        model.train(was_training)


class SWALR(LRScheduler):
    """The learning rate goes from where it is to `swa_lr` in `anneal_epochs` epochs, and stays there.

    Args:
        optimizer: the optimizer.
        swa_lr: a number, or a list of one for each group.
        anneal_epochs: a number of epochs.
        anneal_strategy: "cos" or "linear".
        last_epoch: the epoch to go on from; -1 to begin.

    Raises:
        ValueError: an option out of its range.

    Follows ``torch.optim.swa_utils.SWALR``.

    Example:
        >>> import jaxnn as nn
        >>> optimizer = nn.optim.SGD(nn.Linear(2, 1), lr=0.5)
        >>> scheduler = nn.optim.swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=5)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Number | Sequence[Number],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        self._attach(optimizer)
        rates = for_each_group("swa_lr", optimizer, swa_lr)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        for rate, group in zip(rates, optimizer.param_groups, strict=True):
            group["swa_lr"] = rate
        self._anneal_strategy, self.anneal_epochs = anneal_strategy, anneal_epochs
        super().__init__(optimizer, last_epoch)

    def _part(self, step: Any) -> Any:
        """How far the learning rate has come at a step: from 0 to 1."""
        part = larger(0, smaller(1, step / larger(1, self.anneal_epochs)))
        return part if self._anneal_strategy == "linear" else (1 - cos(math.pi * part)) / 2

    def get_lr(self) -> list[Any]:
        asked_within_step()
        step = self._step_count - 1
        step = choose(self.anneal_epochs == 0, lambda: larger(1, step), lambda: step)
        before, now = self._part(step - 1), self._part(step)

        def start(lr: Any, end: Any) -> Any:
            return choose(before == 1, lambda: end, lambda: (lr - before * end) / (1 - before))

        ends = self._of_groups("swa_lr")
        return [end * now + start(lr, end) * (1 - now) for lr, end in zip(self._of_groups("lr"), ends, strict=True)]


def __dir__() -> list[str]:
    return __all__
