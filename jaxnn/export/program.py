"""What `export` gives and `load` reads: a compiled program's source, and the arrays that it was exported with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxnn.base.checks import fail
from jaxnn.boxes.parameter import Buffer, Parameter
from jaxnn.core.module import Module
from jaxnn.lowering.compiling import Jitted


@dataclasses.dataclass
class Array:
    """One of the program's own arrays.

    Attributes:
        value: the array.
        kind: "parameter", "buffer", or "attribute" (an array that a plain attribute held).
        requires_grad: of a parameter.
        saved: whether it stands in the state_dict.
        int64: whether it stands there as int64, as PyTorch keeps its integers.
        ties: other names of it.
    """

    value: Any
    kind: str
    requires_grad: bool = False
    saved: bool = False
    int64: bool = False
    ties: list[str] = dataclasses.field(default_factory=list)

    @property
    def outside(self) -> Any:
        """The array as a state_dict has it."""
        return np.asarray(self.value).astype(np.int64) if self.int64 else self.value


class ExportedProgram:
    """A program with its arrays. Called, it does what the module did; `module` makes it one again.

    Attributes:
        exported: the ``jax.export.Exported`` behind it: a function of (arrays by name, args, kwargs) that gives (result,
            changed arrays by name).
        about: versions and settings that it was made with.
        limits: the least and the largest size of each open dimension that has one.
    """

    def __init__(
        self, exported: Any, arrays: dict[str, Array], about: dict[str, Any], limits: Mapping[str, Any]
    ) -> None:
        self.exported, self.arrays, self.about, self.limits = exported, arrays, about, dict(limits)
        self._run = Jitted(exported.call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result for these arguments. What the call changes (running statistics) is kept in the program.

        Raises:
            TypeError: arguments of another form than it was exported with.
            ValueError: shapes or dtypes that do not fit.
        """
        out, changed = self.run({name: array.value for name, array in self.arrays.items()}, args, kwargs)
        for name, value in changed.items():
            self.arrays[name].value = value
        return out

    def run(self, arrays: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The result, and the changed arrays by name, with other arrays; the program itself stays as it is."""
        given = jax.tree.structure((dict(arrays), tuple(args), dict(kwargs)))
        if given != jax.tree.structure(self._types()):
            raise TypeError(
                f"{self.about['name']}: expected the arguments {self.signature()}, got others in number or form"
            )
        self._check_sizes((args, dict(kwargs)))
        return self._run(dict(arrays), tuple(args), dict(kwargs))

    def _check_sizes(self, given: Any) -> None:
        """JAX finds a size beyond its limits while it compiles, and does not say which."""
        if not self.limits:
            return
        for value, kind in zip(jax.tree.leaves(given), jax.tree.leaves(self._types()[1:])):
            for size, dim in zip(np.shape(value), kind.shape):
                least, most = self.limits.get(str(dim), (None, None))
                if isinstance(size, int) and not (least or 0) <= size <= (size if most is None else most):
                    wanted = f"a size from {least or 1} to {'any' if most is None else most}"
                    fail(ValueError, self.about["name"], str(dim), wanted, size)

    def _types(self) -> Any:
        (arrays, args, kwargs), _ = jax.tree.unflatten(self.exported.in_tree, self.exported.in_avals)
        return arrays, args, kwargs

    def signature(self) -> str:
        """The arguments by shape and dtype: ``(float32[batch, 3], mask=bool[batch])``."""
        _, args, kwargs = self._types()
        shown = [*map(_shown, args), *(f"{name}={_shown(value)}" for name, value in kwargs.items())]
        return f"({', '.join(shown)})"

    @property
    def platforms(self) -> tuple[str, ...]:
        """Where it runs."""
        return tuple(self.exported.platforms)

    @property
    def state_dict(self) -> dict[str, Any]:
        """The arrays by the names that the module's ``state_dict()`` had."""
        saved = [(name, array) for name, array in self.arrays.items() if array.saved]
        return {known: array.outside for name, array in saved for known in (name, *array.ties)}

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """The parameters' names and arrays."""
        yield from ((name, array.value) for name, array in self.arrays.items() if array.kind == "parameter")

    def named_buffers(self) -> Iterator[tuple[str, Any]]:
        """The buffers' names and arrays."""
        yield from ((name, array.value) for name, array in self.arrays.items() if array.kind == "buffer")

    def mlir_module(self) -> str:
        """The program as StableHLO's text, for tools that take it."""
        return self.exported.mlir_module()

    def module(self) -> ExportedModule:
        """A module that runs the program on parameters and buffers of its own, by their names.

        It takes ``load_state_dict``, and is trained further where the program came from a file saved with ``vjp_order=1``.
        """
        return ExportedModule(self)

    def __repr__(self) -> str:
        return f"ExportedProgram {self.about['name']}{self.signature()} for {', '.join(self.platforms)}"


def _shown(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"{np.dtype(value.dtype).name}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_shown(item)}" for key, item in value.items()) + "}"
    return f"({', '.join(map(_shown, value))})" if isinstance(value, (list, tuple)) else repr(value)


class ExportedModule(Module):
    """The module that `ExportedProgram.module` makes: the names and arrays of the exported one, and its program."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self._program = _Held(program)
        for name, array in program.arrays.items():
            box: Parameter | Buffer = Buffer(array.outside)
            if array.kind == "parameter":
                box = Parameter(array.value, array.requires_grad)
            for known in (name, *array.ties):
                *path, last = known.split(".")
                holder: Module = self
                for part in path:
                    if part not in holder._modules:
                        holder.add_module(part, Module())
                    holder = holder._modules[part]
                if isinstance(box, Parameter):
                    holder.register_parameter(last, box)
                else:
                    holder.register_buffer(last, box, array.saved)
        super().train(program.about["training"])

    def train(self, mode: bool = True) -> Any:
        """The program was traced in one mode, which stays."""
        if mode != self.training:
            fail(
                NotImplementedError, "ExportedModule.train", "mode", "what it was exported in", mode,
                "Export the model again in the other mode",
            )  # fmt: skip
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The program's result; changed arrays go into the boxes."""
        program = self._program.program
        boxes = dict(self.named_parameters()) | dict(self.named_buffers())
        leaves = {name: boxes[name].value.astype(array.value.dtype) for name, array in program.arrays.items()}
        out, changed = program.run(leaves, args, kwargs)
        for name, value in changed.items():
            boxes[name].value = value
        return out


class _Held:
    """A program in a module's configuration: compared by identity."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
