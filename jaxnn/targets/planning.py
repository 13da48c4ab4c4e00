"""`plan`: does a training step fit a machine that is not here, laid out how, and how fast can it be."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.base.autocast import autocast
from jaxnn.base.checks import as_int, fail
from jaxnn.base.dtypes import check_dtype, describe
from jaxnn.core.module import Module
from jaxnn.targets.compiling import compile
from jaxnn.targets.laying_out import Layout, Plan, bytes_of, default_plan, laid_out
from jaxnn.targets.laying_out import layouts as all_layouts
from jaxnn.targets.pages import Table, bars, page, scaled, seconds
from jaxnn.targets.reporting import Report, report_of
from jaxnn.targets.target import Target, get
from jaxnn.transforms.gradients import value_and_grad
from jaxnn.transforms.jit import jit

_MOST_TP = 8  # layers are divided further only where a layout says so
_NEEDED = re.compile(r"([\d.]+[KMGT]?)B? exceeds|[Uu]sed ([\d.]+[KMGT]?)i?B? of|allocate ([\d.]+ ?[KMGT]?i?B)")


@dataclasses.dataclass
class Attempt:
    """A layout with its report, or why there is none."""

    layout: Layout
    report: Report | None = None
    problem: str = ""

    @property
    def fits(self) -> bool:
        """Whether it compiled, and a chip has the memory."""
        return self.report is not None and self.report.fits


@dataclasses.dataclass
class Plans:
    """What was tried, in order. ``print`` it, or keep it as a page with `save_html`."""

    target: Target
    attempts: list[Attempt]

    @property
    def best(self) -> Attempt | None:
        """Of those that fit the one whose steps can be the shortest; None where none fits."""
        fitting = [attempt for attempt in self.attempts if attempt.fits]
        return min(
            fitting, key=lambda attempt: attempt.report.step_seconds if attempt.report else math.inf, default=None
        )

    def table(self) -> Table:
        """A row for each attempt."""
        rows = []
        for attempt in self.attempts:
            found = attempt.report
            if found is None:
                rows.append((str(attempt.layout), "no", attempt.problem, "", "", "", ""))
                continue
            sent = sum(one.sent for one in found.compiled.collectives)
            figures = (scaled(found.compiled.peak_bytes, "B", 1024), scaled(sent, "B"), seconds(found.step_seconds))
            bounds = (scaled(found.tokens_per_second), f"{100 * found.mfu:.1f} %")
            rows.append((str(attempt.layout), "yes" if found.fits else "no", *figures, *bounds))
        head = ("layout", "fits", "a chip", "sent by a chip", "a step, at least", "tokens/s, at most", "MFU, at most")
        best = self.best
        return Table(f"Layouts on {self.target.name}", head, rows, self.attempts.index(best) if best else None)

    def __str__(self) -> str:
        best = self.best
        told = f"best: {best.layout}\n\n{best.report}" if best else "none of them fits"
        return f"{self.table()}\n\n{told}"

    def to_html(self) -> str:
        """One page: the layouts, and the best one's report."""
        made = [(attempt.layout, attempt.report) for attempt in self.attempts if attempt.report]
        memory = [
            (str(layout), [(kind, size, scaled(size, "B", 1024)) for kind, size in found.memory.items()])
            for layout, found in made
        ]
        parts = (
            [self.table().to_html(), "<h2>Memory of a chip</h2>", bars(memory)] if made else [self.table().to_html()]
        )
        best = self.best
        if best and best.report:
            parts += [f"<h2>Best: {best.layout}</h2>", *best.report.parts()]
        return page(f"A training step on {self.target.name}", parts)

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write `to_html` into a file."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.to_html())


def plan(
    build: Callable[[], Module],
    loss: Callable[..., Any],
    batch: Sequence[Any],
    *,
    optimizer: Callable[[Module], Any],
    target: str | Target,
    layouts: Iterable[Layout] | None = None,
    dtype: Any = jnp.bfloat16,
    tokens: int | None = None,
    tries: int = 6,
    tensor_plan: Plan | None = None,
) -> Plans:
    """Whether a model trains on a machine that is not here: layouts of its weights are tried until some fit.

    The model is never made: shapes are enough. Each layout is made by ``nn.parallel``: ``fully_shard`` on each block and on the
    model, ``parallelize_module`` before it where layers are split. The training step is compiled by the target's own compiler.

    Args:
        build: makes the model.
        loss: ``loss(model, *batch)``, a number.
        batch: arrays or ``jax.ShapeDtypeStruct`` of the whole batch, of all chips together; split along their first
            dimension.
        optimizer: makes the optimizer of a model, ``lambda m: nn.optim.AdamW(m, lr=3e-4)``.
        target: as in `compile`.
        layouts: to be tried, in this order. Default: all ways to split the chips into "data" and "fsdp", and with a plan for
            the layers into "tp" up to 8, without and with remat; what has no room for weights and optimizer alone is not
            compiled.
        dtype: that layers compute in: of autocast on one device, else ``fully_shard``'s ``param_dtype``; None for none.
        tokens: as in `report`.
        tries: compile so many layouts at most.
        tensor_plan: how layers are split along "tp", as ``nn.parallel.parallelize_module`` takes it: styles by the names of
            submodules, or a function of the model that gives them. Default: ``nn.parallel.transformer_plan``, for models
            that have nn's transformer layers.

    Returns:
        What was tried, with the best: print it, or write a page with ``save_html``.

    Raises:
        ImportError, ValueError: as `compile`; a batch that no layout divides; layers to be split, and no plan for it.
        TypeError: another kind of argument.
    """
    target = get(target)
    for name, value in (("build", build), ("loss", loss), ("optimizer", optimizer)):
        if not callable(value) or isinstance(value, Module):
            fail(TypeError, "targets.plan", name, "a function", describe(value))
    wanted = None if layouts is None else list(layouts)
    if wrong := [layout for layout in wanted or () if not isinstance(layout, Layout)]:
        fail(TypeError, "targets.plan", "layouts", "a list of targets.Layout", describe(wrong[0]))
    if wanted == [] or as_int("targets.plan", "tries", tries) < 1:
        name, value = ("layouts", wanted) if wanted == [] else ("tries", tries)
        fail(ValueError, "targets.plan", name, "at least one", repr(value))
    rows: list[Any] = [leaf.shape[:1] if hasattr(leaf, "shape") else () for leaf in jax.tree.leaves(batch)]
    if not rows or () in rows:
        fail(TypeError, "targets.plan", "batch", "arrays with a first dimension, or their types", describe(batch))
    dtype = None if dtype is None else check_dtype(dtype, "targets.plan: dtype")
    model = jax.eval_shape(build)
    if tensor_plan is None:
        tensor_plan = default_plan(model)
    devices = len(target.devices())
    first = min(row[0] for row in rows)
    if wanted is None:
        wanted = all_layouts(devices, first, 1 if tensor_plan is None else _MOST_TP)
    if not wanted:
        fail(ValueError, "targets.plan", "batch", f"a first size that {devices} devices divide", first)
    if tensor_plan is None and (split := [layout for layout in wanted if layout.tp > 1]):
        got = f"none, with the layout {split[0]}"
        fail(ValueError, "targets.plan", "tensor_plan", "styles by the names of submodules", got)
    room = target.chip.memory / target.chip.cores
    attempts: list[Attempt] = []
    compiled = 0
    for layout in wanted:
        if compiled >= tries or any(a.fits and not a.layout.remat for a in attempts) and layout.remat:
            continue
        try:
            placed, rows_lie = laid_out(model, layout, target, dtype, tensor_plan)
            optimized = optimizer(placed)
        except ValueError as error:  # a dimension that does not divide: named there
            attempts.append(Attempt(layout, None, str(error)))
            continue
        alone = bytes_of((placed, optimized))
        if alone > room:
            said = f"weights and optimizer alone take {scaled(alone, 'B', 1024)} of {scaled(room, 'B', 1024)}"
            attempts.append(Attempt(layout, None, said))
            continue
        compiled += 1
        given = tuple(jax.tree.map(lambda leaf: _type(leaf, rows_lie), batch))  # noqa: B023
        step = _step(loss, target, dtype if rows_lie is None else None)
        attempts.append(_attempt(layout, step, (placed, optimized, given), target, tokens))
    return Plans(target, attempts)


def _type(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _attempt(layout: Layout, step: Any, arguments: Any, target: Target, tokens: int | None) -> Attempt:
    try:
        compiled = compile(step, *arguments, target=target)
    except jax.errors.JaxRuntimeError as error:
        return Attempt(layout, None, _too_much(str(error)))
    return Attempt(layout, report_of(compiled, arguments, tokens))


def _too_much(text: str) -> str:
    if "RESOURCE_EXHAUSTED" not in text and "memory" not in text.lower():
        raise RuntimeError(f"targets.plan: {text}") from None
    found = _NEEDED.search(text)
    needed = next((group for group in found.groups() if group), "") if found else ""
    return f"the compiler needs {needed}" if needed else "the compiler finds no room"


def _step(loss: Any, target: Target, dtype: Any) -> Any:
    def step(model: Any, optimizer: Any, batch: Any) -> Any:
        def run(model: Any) -> Any:
            if dtype is None:
                return loss(model, *batch)
            with autocast("tpu" if target.platform == "tpu" else "cuda", dtype):
                return loss(model, *batch)

        value, grads = value_and_grad(run)(model)
        optimizer.step(model, grads)
        return value

    return jit(step, donate_argnums=(0, 1))


def next_token_loss(model: Module, tokens: Any) -> Any:
    """Cross entropy of each token's successor: the loss of a language model, for arrays of integers."""
    from jaxnn.functional.loss_classification import cross_entropy

    logits = model(tokens)[:, :-1]
    return cross_entropy(logits.astype(jnp.float32).swapaxes(1, 2), tokens[:, 1:])


def squared_loss(model: Module, *inputs: Any) -> Any:
    """The mean of the outputs' squares: a stand-in for the losses of other models."""
    outputs = [leaf for leaf in jax.tree.leaves(model(*inputs)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum(jnp.square(leaf.astype(jnp.float32)).mean() for leaf in outputs)
