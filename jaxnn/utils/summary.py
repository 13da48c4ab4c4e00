"""`summary`: a table of a model's layers from abstract evaluation alone; nothing is computed."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import jax

from jaxnn.base.dtypes import describe
from jaxnn.boxes.parameter import Parameter
from jaxnn.core import random, tree
from jaxnn.core.module import Module
from jaxnn.lowering.by_platform import default_program
from jaxnn.lowering.compiling import speed_of_float32
from jaxnn.lowering.define import multiply_adds


@dataclass
class Row:
    """One module: its path and class, its output, and the parameters in it and below it."""

    path: str
    kind: str
    depth: int
    output: str = ""
    parameters: int = 0
    trainable: int = 0
    nbytes: int = 0
    multiply_adds: int = 0


@dataclass
class Summary:
    """A model's layers. ``print`` it for a terminal; a notebook shows it as a table, `to_svg` draws it."""

    name: str
    rows: list[Row] = field(default_factory=list)
    exact_float32: int = 0  # multiply-adds of float32 at "highest"

    @property
    def note(self) -> str:
        """On a GPU or TPU, what the products of float32 cost there; "" where they are few, or nothing is faster."""
        speed = speed_of_float32()
        if not speed or self.exact_float32 < max(_FEW, 0.1 * self.total.multiply_adds):
            return ""
        return (
            f'{self.exact_float32:,} of the multiply-adds are float32 at "highest", here {speed}: see '
            "nn.set_float32_matmul_precision and nn.autocast"
        )

    @property
    def total(self) -> Row:
        """The whole model: its first row."""
        return self.rows[0]

    def _cells(self) -> list[list[str]]:
        return [
            ["  " * row.depth + (row.path.rpartition(".")[2] or self.name), row.kind, row.output, f"{row.parameters:,}",
             _bytes(row.nbytes), f"{row.multiply_adds:,}"]
            for row in self.rows
        ]  # fmt: skip

    def _totals(self) -> str:
        total = self.total
        text = (
            f"{total.parameters:,} parameters ({total.trainable:,} trainable), {_bytes(total.nbytes)}, "
            f"{total.multiply_adds:,} multiply-adds"
        )
        return f"{text}\n{self.note}" if self.note else text

    def __str__(self) -> str:
        cells = [list(_HEADINGS), *self._cells()]
        widths = [max(len(row[i]) for row in cells) for i in range(len(_HEADINGS))]
        lines = [
            "  ".join(
                cell.rjust(width) if i > 2 else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths))
            )
            for row in cells
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:], rule, self._totals()])

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=self.name, caption=self._totals())
        for number, heading in enumerate(_HEADINGS):
            table.add_column(heading, justify="right" if number > 2 else "left")
        for row in self._cells():
            table.add_row(*row)
        return table

    def to_svg(self) -> str:
        """A picture: boxes in boxes, with classes, output shapes and parameters; blocks that are alike are drawn once.

        Example:
            >>> import jax, jax.numpy as jnp, jaxnn as nn
            >>> s = nn.summary(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), jax.ShapeDtypeStruct((2, 8), jnp.float32))
            >>> s.to_svg()[:4]
            '<svg'
        """
        from jaxnn.utils.drawing import draw

        return draw(self.rows, self.name)

    def _repr_html_(self) -> str:
        def row(tag: str, cells: list[str]) -> str:
            sides = ["right" if i > 2 else "left" for i in range(len(cells))]
            style = "white-space:pre;padding:2px 10px;text-align:"
            return "".join(
                f'<{tag} style="{style}{side}">{html.escape(cell)}</{tag}>' for side, cell in zip(sides, cells)
            )

        body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in self._cells())
        head = row("th", list(_HEADINGS))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{html.escape(self._totals())}</p>"


_FEW = 10**8  # a model of fewer multiply-adds waits for other things
_HEADINGS = ("layer", "class", "output", "parameters", "bytes", "multiply-adds")


def summary(model: Module, *inputs: Any, **kwargs: Any) -> Summary:
    """The layers of `model`: output shapes, parameters, bytes, and multiply-adds of its products and convolutions.

    The call is evaluated abstractly: nothing is computed, no state changes, and inputs may be ``jax.ShapeDtypeStruct``.
    Without inputs, shapes and multiply-adds are left out.

    Args:
        model: the module.
        inputs, kwargs: what it is called with.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> s = nn.summary(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), jax.ShapeDtypeStruct((2, 8), jnp.float32))
        >>> s.total.parameters, s.total.multiply_adds
        (36, 64)
    """
    rows = {path: _row(path, module) for path, module in model.named_modules(remove_duplicate=True)}
    exact = _evaluate(model, inputs, kwargs, rows) if inputs or kwargs else 0
    return Summary(type(model).__name__, list(rows.values()), exact)


def _row(path: str, module: Module) -> Row:
    boxes = [box for box in (*module.parameters(), *module.buffers()) if not getattr(box, "is_lazy", False)]
    parameters = [box for box in boxes if isinstance(box, Parameter)]
    return Row(
        path,
        type(module).__name__,
        depth=path.count(".") + 1 if path else 0,
        parameters=sum(box.numel() for box in parameters),
        trainable=sum(box.numel() for box in parameters if box.requires_grad),
        nbytes=sum(box.nbytes for box in boxes),
    )


def _evaluate(model: Module, inputs: tuple[Any, ...], kwargs: dict[str, Any], rows: dict[str, Row]) -> int:
    """Fill in outputs and multiply-adds by tracing one call of a copy; how many of those are float32 at "highest"."""
    leaves, structure = tree.flatten(model)
    dynamic, treedef = jax.tree.flatten((inputs, kwargs))
    arrays = [leaf for leaf in dynamic if hasattr(leaf, "shape")]

    def call(leaves: Any, arrays: Any, key: Any) -> Any:
        copy = tree.unflatten(structure, leaves)
        paths = {id(module): path for path, module in copy.named_modules()}

        def record(module: Any, args: Any, output: Any) -> None:
            rows[paths[id(module)]].output = _describe_output(output)

        for module in list(copy.modules()):
            module.register_forward_hook(record)
            module.__dict__["_scope"] = f"<{paths[id(module)]}>"
        feed = iter(arrays)
        args, options = jax.tree.unflatten(
            treedef, [next(feed) if hasattr(leaf, "shape") else leaf for leaf in dynamic]
        )
        try:
            with random.use(random.Generator(key=key)):
                out = copy(*args, **options)
            for path, module in copy.named_modules():  # a lazy layer has its parameters only now
                rows[path] = replace(_row(path, module), output=rows[path].output)
            return out
        finally:
            tree.flatten(copy)

    jaxpr = jax.make_jaxpr(call)(list(leaves), arrays, jax.random.key(0))
    for path, count in _multiply_adds(jaxpr.jaxpr).items():
        while True:
            if path in rows:
                rows[path].multiply_adds += count
            if not path:
                break
            path = path.rpartition(".")[0]
    return sum(_multiply_adds(jaxpr.jaxpr, wanted=_is_exact_float32).values())


def _is_exact_float32(equation: Any) -> bool:
    """Whether a product's operands are float32, and it asks for all of their digits."""
    params = equation.params
    asked = params["geometry"].precision if "geometry" in params else params.get("precision")
    highest = jax.lax.Precision.HIGHEST
    return asked in (highest, (highest, highest)) and all(x.aval.dtype == "float32" for x in equation.invars[:2])


def _describe_output(output: Any) -> str:
    return ", ".join(describe(leaf) for leaf in jax.tree.leaves(output))


def _multiply_adds(
    jaxpr: Any, scope: str = "", repeats: int = 1, wanted: Callable[[Any], bool] = lambda equation: True
) -> dict[str, int]:
    """Module path -> multiply-adds of the products and convolutions traced inside it, loops counted by their length."""
    counts: dict[str, int] = {}
    for equation in jaxpr.eqns:
        stack = str(equation.source_info.name_stack)
        path = stack.rpartition("<")[2].partition(">")[0] if "<" in stack else scope
        name, params = equation.primitive.name, equation.params
        count = multiply_adds(equation)
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            count = prod(equation.outvars[0].aval.shape) * prod(left[i] for i in contracted)
        elif name == "conv_general_dilated":
            numbers = params["dimension_numbers"]
            kernel = equation.invars[1].aval.shape
            count = prod(equation.outvars[0].aval.shape) * prod(kernel) // kernel[numbers.rhs_spec[0]]
        if count and wanted(equation):
            counts[path] = counts.get(path, 0) + count * repeats
        inner_repeats = repeats * params["length"] if name == "scan" else repeats
        values = [*params.values(), default_program(equation)]
        for value in jax.tree.leaves(values, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                for inner_path, inner_count in _multiply_adds(inner, path, inner_repeats, wanted).items():
                    counts[inner_path] = counts.get(inner_path, 0) + inner_count
    return counts


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
