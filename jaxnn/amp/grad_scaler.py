"""`GradScaler`: float16 gradients kept in range by a factor on the loss that adapts itself.

The scale and what was found are arrays, so that a compiled step holds all of it: no inf, growth or backoff compiles
anything anew. torch: gradients are values, so `unscale_` returns them and `step` takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.base.checks import as_int, check_used, fail
from jaxnn.base.dtypes import common_dtype, describe, is_array, is_floating, promote_types
from jaxnn.core.stateful import Stateful
from jaxnn.optim.optimizer import Optimizer

_BFLOAT16 = "bfloat16 has float32's range and needs no GradScaler: nn.autocast(dtype=jnp.bfloat16)"


class GradScaler(Stateful):
    """Multiplies the loss, divides the gradients, and skips the steps whose gradients overflow.

    float16 loses gradients below 6e-8. So the loss is multiplied by a scale that is as large as goes: halved after a
    step with an inf or NaN, which is skipped, and doubled after `growth_interval` steps without one. bfloat16, what
    ``nn.autocast`` takes by default, has float32's range: it needs no scaler.

    Args:
        device: accepted, and without meaning here.
        init_scale: the scale at the start.
        growth_factor: what the scale is multiplied by after `growth_interval` good steps.
        backoff_factor: what it is multiplied by after an overflow.
        growth_interval: how many good steps in a row make it grow.
        enabled: False makes a scaler that does nothing, and steps as the optimizer does.

    Raises:
        AssertionError: a growth factor of at most 1, or a backoff factor of at least 1.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn, jaxnn.functional as F
        >>> model = nn.Linear(2, 1)
        >>> optimizer = nn.optim.SGD(model, lr=0.1)
        >>> scaler = nn.amp.GradScaler(init_scale=2.0**10)
        >>> @nn.jit
        ... def step(model, optimizer, scaler, x, y):
        ...     def scaled_loss(model):
        ...         with nn.autocast(dtype=jnp.float16):
        ...             loss = F.mse_loss(model(x), y)
        ...         return scaler.scale(loss), loss
        ...     (_, loss), grads = nn.value_and_grad(scaled_loss, has_aux=True)(model)
        ...     grads = scaler.unscale_(optimizer, grads)  # only for what comes between, such as clipping
        ...     scaler.step(optimizer, model, grads)
        ...     scaler.update()
        ...     return loss
        >>> loss = step(model, optimizer, scaler, jnp.ones((4, 2)), jnp.zeros((4, 1)))
        >>> scaler.get_scale()
        1024.0

    Follows ``torch.amp.GradScaler``.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        self._init_state()
        if enabled and growth_factor <= 1.0:
            fail(AssertionError, "GradScaler", "growth_factor", "a number > 1.0", repr(growth_factor))
        if enabled and backoff_factor >= 1.0:
            fail(AssertionError, "GradScaler", "backoff_factor", "a number < 1.0", repr(backoff_factor))
        self._enabled = bool(enabled)
        self._growth_factor, self._backoff_factor = float(growth_factor), float(backoff_factor)
        self._growth_interval = as_int("GradScaler", "growth_interval", growth_interval)
        self._scale = jnp.asarray(init_scale, jnp.float32)
        self._growth_tracker = jnp.zeros((), jnp.int32)
        self._found_inf = jnp.asarray(_NOTHING, jnp.float32)
        self._awaited = 0  # optimizers that were unscaled for or stepped since the last update

    # -- the iteration --------------------------------------------------------------------------------------------

    @property
    def _stages(self) -> dict[int, _Stage]:
        """What was done for each optimizer since the last update, in this function."""
        return self.__dict__.setdefault("_aside", {})  # no part of the pytree: a copy begins without

    def scale(self, outputs: Any) -> Any:
        """`outputs` times the scale: an array, or an iterable of them. Gradients of the result are scaled too.

        Raises:
            ValueError: anything else.
        """
        if not self._enabled:
            return outputs
        if is_array(outputs):
            outputs = jnp.asarray(outputs)
            dtype = common_dtype(outputs, self._scale)
            wide = promote_types(dtype, jnp.float32)  # a scale of 2**16 is infinite in float16
            return (outputs.astype(wide) * self._scale.astype(wide)).astype(dtype)
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(map(self.scale, outputs))
        if isinstance(outputs, Iterable) and not isinstance(outputs, (str, bytes, Mapping)):
            return map(self.scale, outputs)
        fail(ValueError, "GradScaler.scale", "outputs", "an array or an iterable of arrays", outputs)

    def unscale_(self, optimizer: Optimizer, grads: Any = None) -> Any:
        """`grads` divided by the scale; notes whether there is an inf or NaN in them.

        Only for what looks at gradients or changes them before the step, such as clipping: `step` unscales by itself
        what was not. Under ``nn.jit`` it belongs in the function that steps.

        Args:
            optimizer: whose gradients these are.
            grads: the gradients of a scaled loss.

        Returns:
            The gradients, in the container they came in.

        Raises:
            TypeError: no gradients given.
            RuntimeError: called twice for an optimizer since the last ``update()``, or after its step.
                The result is dropped.
            ValueError: float16 gradients, which come from float16 parameters.
        """
        if grads is None:
            fail(
                TypeError, "GradScaler.unscale_", "grads", "the gradients of the scaled loss", "none",
                "Gradients are values here: grads = scaler.unscale_(optimizer, grads)",
            )  # fmt: skip
        if not self._enabled:
            return grads
        stage = self._stage(optimizer, "unscale_")
        if stage.done == "unscaled":
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        if stage.done == "stepped":
            raise RuntimeError("unscale_() is being called after step().")
        leaves, treedef = jax.tree.flatten(grads)
        for leaf in leaves:
            if leaf.dtype == jnp.float16:
                raise ValueError(
                    "GradScaler.unscale_: Attempting to unscale FP16 gradients. Keep the parameters in float32, and let "
                    f"nn.autocast(dtype=jnp.float16) compute in float16. {_BFLOAT16}"
                )
        counted = [leaf for leaf in leaves if leaf.dtype != jax.dtypes.float0]
        found = jnp.asarray([~jnp.isfinite(leaf).all() for leaf in counted]).any() if counted else jnp.zeros((), bool)
        check_used("GradScaler.unscale_", "Write: grads = scaler.unscale_(optimizer, grads)")
        stage.found, stage.done = found.astype(jnp.float32), "unscaled"
        self._found_inf = jnp.maximum(self._found_inf, stage.found)
        factors = _inverse(self._scale)
        return jax.tree.unflatten(treedef, [_scaled(leaf, factors) for leaf in leaves])

    def step(self, optimizer: Optimizer, model: Any = None, grads: Any = None) -> Any:
        """``optimizer.step(model, grads)``, with `grads` unscaled first, unless there is an inf or NaN among them.

        Args:
            optimizer: the optimizer.
            model: its model.
            grads: the gradients of the scaled loss; or what `unscale_` made of them, changed at will.

        Returns:
            What the optimizer's step returns.

        Raises:
            TypeError: no model or gradients given.
            RuntimeError: a function instead of gradients, or two steps of an optimizer without ``update()`` between.
        """
        if not self._enabled:
            return optimizer.step(model, grads)
        if callable(grads) and not isinstance(grads, Mapping):
            raise RuntimeError(
                "GradScaler.step: Closure use is not currently supported if GradScaler is enabled. Compute the gradients "
                "of scaler.scale(loss) by nn.value_and_grad, and pass them"
            )
        if model is None or grads is None:
            fail(
                TypeError, "GradScaler.step", "grads", "the model and its gradients", f"{describe(model)} and none",
                "Gradients are values here: scaler.step(optimizer, model, grads)",
            )  # fmt: skip
        stage = self._stage(optimizer, "step")
        if stage.done == "stepped":
            raise RuntimeError("step() has already been called since the last update().")
        if stage.done == "":
            grads = self.unscale_(optimizer, grads)
        stage.done = "stepped"
        if not isinstance(stage.found, _compat.Tracer) and _compat.at_top_level():
            return None if float(stage.found) else optimizer.step(model, grads)
        return optimizer.step(model, grads, skip=stage.found > 0)

    def _stage(self, optimizer: Optimizer, called: str) -> _Stage:
        if not isinstance(optimizer, Optimizer):
            fail(TypeError, f"GradScaler.{called}", "optimizer", "an optimizer of nn.optim", optimizer)
        stages = self._stages
        if id(optimizer) not in stages:
            if self._awaited > len(stages):
                raise RuntimeError(
                    f"GradScaler.{called}: unscale_() or step() was called in another compiled function since the last "
                    "update(). Call unscale_(), step() and update() in the one that steps"
                )
            stages[id(optimizer)] = _Stage(optimizer)
            self._awaited = len(stages)
        return stages[id(optimizer)]

    def update(self, new_scale: Any = None) -> None:
        """Adapt the scale to what was found since the last update, at the end of an iteration.

        Args:
            new_scale: set the scale to this instead: a number or an array of one element.

        Raises:
            AssertionError: nothing was unscaled or stepped since the last update; a `new_scale` of more elements.
        """
        if not self._enabled:
            return
        if new_scale is not None:
            new = jnp.asarray(new_scale, jnp.float32)
            if new.size != 1:
                fail(AssertionError, "GradScaler.update", "new_scale", "a float or an array of 1 element", new_scale)
            self._scale = new.reshape(())
        else:
            found = self._found_inf
            if not isinstance(found, _compat.Tracer) and float(found) == _NOTHING:
                raise AssertionError(
                    "GradScaler.update: No inf checks were recorded prior to update. Call scaler.step(optimizer, model, "
                    "grads) before"
                )
            self._scale, self._growth_tracker = _updated(
                self._scale,
                self._growth_tracker,
                found,
                self._growth_factor,
                self._backoff_factor,
                self._growth_interval,
            )
        self._found_inf = jnp.asarray(_NOTHING, jnp.float32)
        self._awaited = 0
        self._stages.clear()

    # -- what it is set to ----------------------------------------------------------------------------------------

    def get_scale(self) -> Any:
        """The scale as a float, or inside a compiled function as an array; 1.0 of one that is not enabled."""
        if not self._enabled:
            return 1.0
        return self._scale if isinstance(self._scale, _compat.Tracer) else float(self._scale)

    def get_growth_factor(self) -> float:
        """The factor of growth."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set the factor of growth; a step that was compiled is compiled anew."""
        self._growth_factor = float(new_factor)

    def get_backoff_factor(self) -> float:
        """The factor after an overflow."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set the factor after an overflow; a step that was compiled is compiled anew."""
        self._backoff_factor = float(new_factor)

    def get_growth_interval(self) -> int:
        """How many good steps make the scale grow."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set how many good steps make the scale grow; a step that was compiled is compiled anew."""
        self._growth_interval = as_int("set_growth_interval", "new_interval", new_interval)

    def _get_growth_tracker(self) -> Any:
        if not self._enabled:
            return 0
        return self._growth_tracker if isinstance(self._growth_tracker, _compat.Tracer) else int(self._growth_tracker)

    def is_enabled(self) -> bool:
        """Whether it does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """The scale, the factors and the count of good steps, in torch's form; empty where it is not enabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._get_growth_tracker(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a state from `state_dict`, or from torch's; nothing where the scaler is not enabled.

        Raises:
            RuntimeError: an empty state, as one that is not enabled has.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        scale, tracker = state_dict["scale"], state_dict["_growth_tracker"]
        factors = float(state_dict["growth_factor"]), float(state_dict["backoff_factor"])
        interval = int(state_dict["growth_interval"])
        self._scale = jnp.asarray(np.asarray(scale), jnp.float32)
        self._growth_tracker = jnp.asarray(np.asarray(tracker), jnp.int32)
        (self._growth_factor, self._backoff_factor), self._growth_interval = factors, interval

    def __getstate__(self) -> dict[str, Any]:
        if self._enabled and self._awaited:
            raise AssertionError(
                "A GradScaler instance may only be pickled at the beginning of an iteration, or at the end after "
                "scaler.update()."
            )
        return super().__getstate__()


_NOTHING = -1.0  # found_inf before anything was looked at


class _Stage:
    """Where an optimizer is in this iteration: "", "unscaled" or "stepped"; and what was found in its gradients."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.done = optimizer, ""  # held, so that its id stays its own
        self.found: Any = None


def _scaled(gradient: Any, factors: tuple[Any, Any]) -> Any:
    if gradient.dtype == jax.dtypes.float0:
        return gradient
    wide = gradient.dtype if not is_floating(gradient.dtype) else promote_types(gradient.dtype, jnp.float32)
    first, second = (factor.astype(wide) for factor in factors)
    return (jnp.asarray(gradient).astype(wide) * first * second).astype(gradient.dtype)


def _inverse(scale: Any) -> tuple[Any, Any]:
    """1 / scale, rounded once from float64, in two factors: beyond 2**126 it is a denormal, which XLA takes for zero."""
    power = jnp.where(scale > 2.0**100, jnp.float32(2.0**-50), jnp.float32(1))
    with jax.enable_x64(True):
        rest = scale.astype(jnp.float64) * power.astype(jnp.float64)
        return (1.0 / rest).astype(jnp.float32), power


def _times(scale: Any, factor: float) -> Any:
    """scale * factor, rounded once from float64."""
    with jax.enable_x64(True):
        return (scale.astype(jnp.float64) * np.float64(factor)).astype(jnp.float32)


def _updated(scale: Any, tracker: Any, found: Any, growth: float, backoff: float, interval: int) -> tuple[Any, Any]:
    """The scale and the count of good steps after an iteration."""
    good = tracker + 1
    grown = _times(scale, growth)
    grown = jnp.where(jnp.isfinite(grown), grown, scale)  # does not grow past float32
    due = good == interval
    kept, counted = jnp.where(due, grown, scale), jnp.where(due, 0, good)
    new, count = jnp.where(found > 0, _times(scale, backoff), kept), jnp.where(found > 0, 0, counted)
    nothing = found < 0
    return jnp.where(nothing, scale, new), jnp.where(nothing, tracker, count).astype(jnp.int32)
