"""What a training step asks of each chip: memory by kind, exchanges, and the speed that nothing can exceed."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxnn.core.module import Module
from jaxnn.targets.collectives import Collective
from jaxnn.targets.compiling import Compiled, compile
from jaxnn.targets.laying_out import on_chip
from jaxnn.targets.naming import Names, models_in
from jaxnn.targets.pages import Table, bars, page, scaled, seconds
from jaxnn.targets.profiling import held
from jaxnn.targets.target import Target

_NETWORK = 50e9  # bytes a second of a GPU to one of another machine: 400 Gb/s


@dataclasses.dataclass
class Report:
    """A training step on a target, by its compiler. ``print`` it, or keep it as a page with `save_html`.

    Attributes:
        compiled: the program.
        memory: bytes of a chip, by kind: parameters, buffers, optimizer, inputs, activations (of the forward pass, held for the
            backward pass), other temporaries, outputs with room of their own, program.
        parameters: how many the model has, tied ones once; `tokens`: how many examples or tokens a step takes.
        limits: seconds that a step takes at least, by what limits it: products, memory, links, and the compiler's estimate.
        warnings: what is wrong with the program.
    """

    compiled: Compiled
    memory: dict[str, int]
    parameters: int
    tokens: int
    limits: dict[str, float]
    warnings: list[str]

    @property
    def target(self) -> Target:
        """What it was compiled for."""
        return self.compiled.target

    @property
    def devices(self) -> int:
        """That take part."""
        return 1 if self.compiled.mesh is None else self.compiled.mesh.size

    @property
    def fits(self) -> bool:
        """Whether a chip has the memory."""
        return self.compiled.peak_bytes <= self.room

    @property
    def room(self) -> int:
        """Bytes of memory of one device."""
        return self.target.chip.memory // self.target.chip.cores

    @property
    def step_seconds(self) -> float:
        """What a step takes at least."""
        return max(self.limits.values())

    @property
    def model_flops(self) -> float:
        """6 N D: multiplications and additions of forward and backward pass, for N parameters and D tokens."""
        return 6.0 * self.parameters * self.tokens

    @property
    def flops_ratio(self) -> float:
        """The products of all devices, divided by 6 N D: about 1; 4/3 where the forward pass is computed twice."""
        return sum(self.compiled.flops.values()) * self.devices / self.model_flops if self.model_flops else math.nan

    @property
    def mfu(self) -> float:
        """Model flops utilisation: no run can reach more than this part of the chips' peak."""
        peak = self.target.peak("bf16") * self.devices
        return self.model_flops / (peak * self.step_seconds) if self.step_seconds else math.nan

    @property
    def tokens_per_second(self) -> float:
        """Of all devices together, at most."""
        return self.tokens / self.step_seconds if self.step_seconds else math.nan

    def tables(self) -> list[Table]:
        """Memory, limits, exchanges."""
        peak = self.compiled.peak_bytes
        memory = [
            (kind, scaled(size, "B", 1024), f"{100 * size / self.room:.1f} %") for kind, size in self.memory.items()
        ]
        memory.append(("all", scaled(peak, "B", 1024), f"{100 * peak / self.room:.1f} %"))
        limits = [
            (name, seconds(value), f"{100 * value / self.step_seconds:.0f} %") for name, value in self.limits.items()
        ]
        said = [
            (one.kind, one.axis, one.dtype, str(one.chips), str(one.count), scaled(one.bytes, "B"), one.op_name)
            for one in self.compiled.collectives
        ]
        found = [
            Table(f"Memory of a chip ({scaled(self.room, 'B', 1024)})", ("kind", "bytes", "of the chip"), memory),
            Table("What a step takes at least", ("limit", "time", "of the longest"), limits),
        ]
        if said:
            found.append(
                Table("Exchanges", ("kind", "axis", "dtype", "chips", "count", "bytes a chip", "largest"), said)
            )
        return found

    def summary(self) -> str:
        """A few sentences."""
        found = self.compiled
        flops = ", ".join(f"{scaled(count)} {kind}" for kind, count in found.flops.items()) or "none"
        mesh = (
            "one device"
            if found.mesh is None
            else " x ".join(f"{name} {size}" for name, size in found.mesh.shape.items())
        )
        longest = max(self.limits, key=lambda name: self.limits[name])
        lines = [
            f"{self.target.name}, {mesh}: {'fits' if self.fits else 'does NOT fit'}: "
            f"{scaled(found.peak_bytes, 'B', 1024)} of {scaled(self.room, 'B', 1024)} a chip",
            f"products a chip: {flops}: {self.flops_ratio:.2f} of 6 x {scaled(self.parameters)} parameters "
            f"x {self.tokens:,} tokens",
            f"at most {scaled(self.tokens_per_second)} tokens/s, MFU {100 * self.mfu:.1f} %: a step takes at least "
            f"{seconds(self.step_seconds)} ({longest})",
        ]
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings])

    def __str__(self) -> str:
        return "\n\n".join([self.summary(), *map(str, self.tables())])

    def __rich__(self) -> Any:
        from rich.console import Group

        return Group(self.summary(), *(table.__rich__() for table in self.tables()))

    def parts(self) -> list[str]:
        """The elements of its page."""
        told = "".join(f"<p>{line}</p>" for line in self.summary().split("\n") if not line.startswith("warning"))
        told += "".join(f'<p class="warning">{text}</p>' for text in self.warnings)
        memory = bars([("memory", [(kind, size, scaled(size, "B", 1024)) for kind, size in self.memory.items()])])
        limits = bars([(name, [(name, value, seconds(value))]) for name, value in self.limits.items()], legend=False)
        tables = [table.to_html() for table in self.tables()]
        return [told, memory, tables[0], limits, *tables[1:]]

    def to_html(self) -> str:
        """One page: pictures and tables."""
        return page(f"A training step on {self.target.name}", self.parts())

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write `to_html` into a file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.to_html())


def report(
    step: Callable[..., Any], *args: Any, target: str | Target | None = None, tokens: int | None = None, **kwargs: Any
) -> Report:
    """What ``step(*args, **kwargs)`` asks of each chip of a machine that is not here, and how fast it can be at most.

    Args:
        step: a training step, as `compile` takes it.
        args, kwargs: as in `compile`: models, optimizers, and the batch.
        target: as in `compile`.
        tokens: how many tokens (or examples) a step takes. Default: the elements of the batch's first array where it holds
            integers, else its first size.

    Returns:
        Memory by kind, exchanges by mesh axis, and the bounds of speed: print it, or write a page with ``save_html``.

    Raises:
        ImportError, ValueError: as `compile`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn, jaxnn.functional as F
        >>> from jaxnn import targets
        >>> model = nn.Linear(256, 256)
        >>> optimizer = nn.optim.SGD(model, lr=0.1)
        >>> @nn.jit(donate_argnums=(0, 1))
        ... def step(model, optimizer, x):
        ...     loss, grads = nn.value_and_grad(lambda m: F.mse_loss(m(x), x))(model)
        ...     optimizer.step(model, grads)
        ...     return loss
        >>> if targets.is_installed("tpu"):
        ...     assert targets.report(step, model, optimizer, jnp.ones((64, 256)), target="v5e").fits
    """
    compiled = compile(step, *args, target=target, **kwargs)
    return report_of(compiled, (args, kwargs), tokens)


def report_of(compiled: Compiled, arguments: Any, tokens: int | None = None) -> Report:
    """The report of a program that was compiled for these arguments."""
    models = list(models_in(arguments))
    count = sum(math.prod(box.shape) for model in models for box in {id(p): p for p in model.parameters()}.values())
    tokens = _tokens(arguments) if tokens is None else tokens
    found = Report(compiled, _memory(compiled, arguments), count, tokens, limits(compiled), [])
    found.warnings = _warnings(found)
    return found


def _is_optimizer(value: Any) -> bool:
    return not isinstance(value, Module) and hasattr(value, "step") and hasattr(value, "param_groups")


def _batch(arguments: Any) -> list[Any]:
    kept = jax.tree.leaves(arguments, is_leaf=lambda leaf: isinstance(leaf, Module) or _is_optimizer(leaf))
    return [leaf for leaf in kept if hasattr(leaf, "shape") and hasattr(leaf, "dtype") and not isinstance(leaf, Module)]


def _tokens(arguments: Any) -> int:
    arrays = [leaf for leaf in _batch(arguments) if leaf.shape]
    if not arrays:
        return 0
    whole = np.issubdtype(arrays[0].dtype, np.integer)
    return math.prod(arrays[0].shape) if whole else arrays[0].shape[0]


def _memory(compiled: Compiled, arguments: Any) -> dict[str, int]:
    """Bytes of a chip by kind; they sum to the program's `peak_bytes`."""
    nodes = jax.tree.leaves(arguments, is_leaf=lambda leaf: isinstance(leaf, Module) or _is_optimizer(leaf))
    found = {"parameters": 0, "buffers": 0, "optimizer": 0}
    for node in nodes:
        if isinstance(node, Module):
            whole = sum(map(on_chip, jax.tree.leaves(node)))
            boxes = {id(box): box for box in node.parameters()}.values()
            trained = sum(on_chip(box.value) for box in boxes)
            found["parameters"] += trained
            found["buffers"] += whole - trained
        elif _is_optimizer(node):
            found["optimizer"] += sum(map(on_chip, jax.tree.leaves(node)))
    known = sum(found.values())
    found["inputs"] = max(0, compiled.argument_bytes - known)
    kept = min(sum(held(compiled.program, Names(arguments)).values()), compiled.temporary_bytes)
    found["activations"] = kept
    found["other temporaries"] = compiled.temporary_bytes - kept
    found["outputs"] = compiled.output_bytes - compiled.alias_bytes
    found["program"] = compiled.program_bytes
    return {kind: size for kind, size in found.items() if size}


def limits(compiled: Compiled) -> dict[str, float]:
    """Seconds that one call takes at least, by what limits it."""
    target = compiled.target
    found = {
        "products": sum(count / target.peak(kind) for kind, count in compiled.flops.items()),
        "memory": compiled.hbm_bytes * target.chip.cores / target.chip.bandwidth,
    }
    talk = [one.sent / _bandwidth(one, compiled) for one in compiled.collectives]
    if talk:
        found["links"] = sum(talk)
    if compiled.cycles:
        found["the compiler's cycles"] = compiled.cycles / target.chip.clock
    return found


def _bandwidth(one: Collective, compiled: Compiled) -> float:
    """Bytes a second that a chip can send along the axes of an exchange, at most."""
    chip, mesh = compiled.target.chip, compiled.mesh
    if mesh is None:
        return chip.link
    names = [name.strip() for name in one.axis.split(",")] if one.axis != "?" else list(mesh.axis_names)
    along = [mesh.axis_names.index(name) for name in names]
    first = mesh.devices[tuple(slice(None) if axis in along else 0 for axis in range(mesh.devices.ndim))].flatten()
    if chip.platform == "tpu":
        coords = np.array([device.coords for device in first])
        return chip.link * max(1, int((coords.max(0) != coords.min(0)).sum()))
    machines = {device.id // 8 for device in first}
    return chip.link if len(machines) == 1 else min(chip.link, _NETWORK)


def _warnings(found: Report) -> list[str]:
    compiled = found.compiled
    said = [f"XLA: {text}" for text in compiled.messages]
    if not found.fits:
        said.append(f"does not fit: {scaled(compiled.peak_bytes - found.room, 'B', 1024)} a chip too much")
    if compiled.unknown_loops:
        said.append(f"{len(compiled.unknown_loops)} loops turn as often as the data says; they count once")
    if compiled.target.platform == "tpu" and compiled.custom_calls:
        names = ", ".join(f"{count} {name}" for name, count in compiled.custom_calls.items())
        said.append(f"the estimates leave out {names}")
    slow = sum(count for kind, count in compiled.flops.items() if kind in ("f32 highest", "f32 high", "f64"))
    whole = sum(compiled.flops.values())
    if whole and slow > 0.1 * whole:
        said.append(
            f"{100 * slow / whole:.0f} % of the products are float32 at full precision, at a sixth of the speed: nn.autocast"
        )
    if compiled.mesh is not None and compiled.alias_bytes < 0.5 * min(compiled.output_bytes, compiled.argument_bytes):
        said.append("the step does not donate its model and optimizer: both old and new ones are held")
    return said
