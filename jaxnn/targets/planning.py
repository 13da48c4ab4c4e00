"""`plan`: does a training step fit a machine that is not here, laid out how, and how fast can it be."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnn.base.autocast import autocast
from jaxnn.base.checks import as_int, fail
from jaxnn.base.dtypes import check_dtype, describe
from jaxnn.core.module import Module
from jaxnn.modules.container import ModuleList, Sequential
from jaxnn.targets.compiling import compile
from jaxnn.targets.pages import Table, bars, page, scaled, seconds
from jaxnn.targets.reporting import Report, report_of
from jaxnn.targets.target import Target, get
from jaxnn.transforms.checkpoint import checkpoint
from jaxnn.transforms.gradients import value_and_grad
from jaxnn.transforms.jit import jit

AXES = ("data", "fsdp")
_NEEDED = re.compile(r"([\d.]+[KMGT]?)B? exceeds|[Uu]sed ([\d.]+[KMGT]?)i?B? of|allocate ([\d.]+ ?[KMGT]?i?B)")


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to lay a training step out.

    Attributes:
        data: devices along which batches are split and weights are whole; `fsdp`: along which both are split.
        remat: whether blocks compute their forward pass again in the backward pass, and hold nothing in between.
    """

    data: int
    fsdp: int
    remat: bool = False

    def __post_init__(self) -> None:
        for name in ("data", "fsdp"):
            if as_int("targets.Layout", name, getattr(self, name)) < 1:
                fail(ValueError, "targets.Layout", name, "at least 1 device", getattr(self, name))

    def __str__(self) -> str:
        return f"data {self.data} x fsdp {self.fsdp}{', remat' if self.remat else ''}"


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
) -> Plans:
    """Whether a model trains on a machine that is not here: layouts of its weights are tried until some fit.

    The model is never made: shapes are enough. Each layout's training step is compiled by the target's own compiler.

    Args:
        build: makes the model.
        loss: ``loss(model, *batch)``, a number.
        batch: arrays or ``jax.ShapeDtypeStruct`` of the whole batch, of all chips together; split along their first
            dimension.
        optimizer: makes the optimizer of a model, ``lambda m: nn.optim.AdamW(m, lr=3e-4)``.
        target: as in `compile`.
        layouts: to be tried, in this order. Default: all ways to split the chips into "data" and "fsdp", those first that
            send least, without and with remat; what has no room for weights and optimizer alone is not compiled.
        dtype: of autocast; None for none.
        tokens: as in `report`.
        tries: compile so many layouts at most.

    Returns:
        What was tried, with the best: print it, or write a page with ``save_html``.

    Raises:
        ImportError, ValueError: as `compile`; a batch that no layout divides.
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
    model, made = jax.eval_shape(lambda: (lambda model: (model, optimizer(model)))(build()))
    devices = len(target.devices())
    first = min(row[0] for row in rows)
    if wanted is None:
        wanted = [layout for layout in _layouts(devices) if first % (layout.data * layout.fsdp) == 0]
    if not wanted:
        fail(ValueError, "targets.plan", "batch", f"a first size that {devices} devices divide", first)
    room = target.chip.memory / target.chip.cores
    attempts: list[Attempt] = []
    compiled = 0
    for layout in wanted:
        if compiled >= tries or any(a.fits and not a.layout.remat for a in attempts) and layout.remat:
            continue
        alone = _weights(model, made, layout)
        if alone > room:
            said = f"weights and optimizer alone take {scaled(alone, 'B', 1024)} of {scaled(room, 'B', 1024)}"
            attempts.append(Attempt(layout, None, said))
            continue
        compiled += 1
        attempts.append(_attempt(layout, model, made, loss, batch, target, dtype, tokens))
    return Plans(target, attempts)


def _layouts(devices: int) -> list[Layout]:
    splits = [(devices // fsdp, fsdp) for fsdp in range(1, devices + 1) if devices % fsdp == 0]
    return [Layout(data, fsdp, remat) for remat in (False, True) for data, fsdp in splits]


def _spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """The first dimension that divides is split, as `fully_shard` does; what has none is whole."""
    for dim, size in enumerate(shape):
        if fsdp > 1 and size % fsdp == 0:
            return PartitionSpec(*(None,) * dim, "fsdp")
    return PartitionSpec()


def _weights(model: Any, optimizer: Any, layout: Layout) -> int:
    """Bytes of a device that model and optimizer take."""
    total = 0
    for leaf in jax.tree.leaves((model, optimizer)):
        split = layout.fsdp if len(_spec(leaf.shape, layout.fsdp)) else 1
        size = leaf.dtype.itemsize if hasattr(leaf.dtype, "itemsize") else 4
        total += math.prod(leaf.shape) * size // split
    return total


def _attempt(
    layout: Layout, model: Any, optimizer: Any, loss: Any, batch: Any, target: Target, dtype: Any, tokens: int | None
) -> Attempt:
    count = layout.data * layout.fsdp
    mesh = target.mesh((layout.data, layout.fsdp), AXES) if count > 1 else None

    def placed(leaf: Any, spec: PartitionSpec) -> Any:
        if mesh is None:
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    weights = functools.partial(jax.tree.map, lambda leaf: placed(leaf, _spec(leaf.shape, layout.fsdp)))
    arguments = (
        weights(_prepared(model, mesh, layout.remat)),
        weights(optimizer),
        tuple(jax.tree.map(lambda leaf: placed(leaf, PartitionSpec(AXES)), batch)),
    )
    try:
        compiled = compile(_step(loss, target, dtype), *arguments, target=target)
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


def _prepared(model: Module, mesh: Mesh | None, remat: bool) -> Module:
    """A copy of the model whose blocks keep the batch split between them, and compute twice where they are to."""
    copy = jax.tree.map(lambda leaf: leaf, model)
    for block in _blocks(copy):
        if remat:
            block.__class__ = _twice(type(block))
        if mesh is not None:
            block.register_forward_hook(functools.partial(_keep_split, NamedSharding(mesh, PartitionSpec(AXES))))
    return copy


def _blocks(model: Module) -> list[Module]:
    """The members of the model's outermost lists of modules; where it has none, its children that have children."""
    found: list[Module] = []
    lists: list[str] = []
    for path, module in model.named_modules():
        inner = any(path.startswith(f"{outer}.") for outer in lists)
        if path and not inner and isinstance(module, (ModuleList, Sequential)):
            children = [child for child in module.children() if any(True for _ in child.children())]
            if len(children) > 1:
                lists.append(path)
                found += children
    return found or [child for child in model.children() if any(True for _ in child.children())]


@functools.cache
def _twice(kind: type) -> type:
    """A class of modules that compute their forward pass again in the backward pass."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        places = [at for at, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

        def run(module: Any, *arrays: Any) -> Any:
            given = dict(zip(places, arrays))  # what is no array, as a flag, stays out of the trace
            args, kwargs = tree.unflatten([given.get(at, leaf) for at, leaf in enumerate(leaves)])
            return kind.forward(module, *args, **kwargs)

        return checkpoint(run)(self, *(leaves[at] for at in places))

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _keep_split(sharding: NamedSharding, module: Any, inputs: Any, output: Any) -> Any:
    first = next((leaf.shape[0] for leaf in jax.tree.leaves(output) if getattr(leaf, "ndim", 0)), None)

    def keep(leaf: Any) -> Any:
        if getattr(leaf, "ndim", 0) < 2 or leaf.shape[0] != first or leaf.shape[0] % sharding.mesh.size:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, sharding)

    return jax.tree.map(keep, output)


def next_token_loss(model: Module, tokens: Any) -> Any:
    """Cross entropy of each token's successor: the loss of a language model, for arrays of integers."""
    from jaxnn.functional.loss_classification import cross_entropy

    logits = model(tokens)[:, :-1]
    return cross_entropy(logits.astype(jnp.float32).swapaxes(1, 2), tokens[:, 1:])


def squared_loss(model: Module, *inputs: Any) -> Any:
    """The mean of the outputs' squares: a stand-in for the losses of other models."""
    outputs = [leaf for leaf in jax.tree.leaves(model(*inputs)) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum(jnp.square(leaf.astype(jnp.float32)).mean() for leaf in outputs)
