"""What a case is: names, numbers and flags, with no torch and no jax in it.

A case is built from PyTorch's databases (``parity.cases``), given its expected values by PyTorch
(``parity.truth``), run by jaxnn (``parity.ours``), and can be written to a file between the two
(``parity.record``). Every tensor of a call is a `Slot`, the index of an array in ``Case.arrays``, so that one
tensor passed twice stays one.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from parity.families import family_of

DRAWS = 48


@dataclasses.dataclass(frozen=True)
class Slot:
    """Stands for the array ``Case.arrays[index]``."""

    index: int


@dataclasses.dataclass(frozen=True)
class Dtype:
    """Stands for ``torch.<name>`` and ``jnp.<name>``."""

    name: str


@dataclasses.dataclass(frozen=True)
class Name:
    """Stands for a function or class, ``functional.relu`` or ``BatchNorm1d``, of torch.nn and of jaxnn."""

    path: str


@dataclasses.dataclass
class Make:
    """Stands for a module made by calling the class of this name."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Packed:
    """Stands for a ``PackedSequence`` of these fields."""

    data: Any
    batch_sizes: Any
    sorted_indices: Any = None
    unsorted_indices: Any = None


@dataclasses.dataclass
class Expected:
    """One expected tensor: PyTorch's float64 `truth`, its `own` result at the precision, and the dtype of that.

    In a recording `own` is the error of that result, not the result.
    """

    truth: np.ndarray
    own: Any
    dtype: str


@dataclasses.dataclass
class Case:
    """One call of one name.

    Attributes:
        source: "ModuleInfo", "OpInfo", "common_nn" or "own".
        name: the class in torch.nn or the function in torch.nn.functional.
        label: tells the cases of one name apart.
        make: how the module is made; None for a function.
        args, kwargs: of the call, tensors as `Slot`.
        arrays: the tensors' numbers; floating ones in float32 until `rounded`.
        state: the module's parameters and buffers before the call.
        training: train() or eval().
        mode_matters: False where torch says that the class does the same in both.
        wrt: indices of the arrays to differentiate by.
        parameters: names in `state` to differentiate by.
        second: whether second derivatives are compared.
        error: for error inputs, the names of the acceptable exception classes; `args` then hold the dtypes as
            given, not float32.
        error_on: "construction" or "call".
        random: set where PyTorch's own result differs from one seed to another.
        draws: where random, the moments of torch's outputs over many draws (``parity.case.moments``).
        refused: the exception with which torch refuses the call at the precision, "" where it does not; jaxnn may then
            refuse it with the same one.
        expected: filled by ``parity.truth``: "output 0", "gradient of weight" and so on.
    """

    source: str
    name: str
    label: str
    make: Make | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    arrays: list[np.ndarray]
    state: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    training: bool = True
    mode_matters: bool = True
    wrt: list[int] = dataclasses.field(default_factory=list)
    parameters: list[str] = dataclasses.field(default_factory=list)
    second: bool = True
    error: tuple[str, ...] | None = None
    error_on: str = "call"
    random: bool = False
    draws: list[tuple[np.ndarray, ...]] = dataclasses.field(default_factory=list)
    expected: dict[str, Expected] = dataclasses.field(default_factory=dict)
    refused: str = ""

    @property
    def id(self) -> str:
        """Unique: ``ModuleInfo/Linear/3/train``."""
        return f"{self.source}/{self.name}/{self.label}"

    @property
    def family(self) -> str:
        """The family that the report files it under."""
        return family_of(self.name)

    @property
    def structure(self) -> str:
        """What the case's program hangs on: everything but the numbers in its arrays, and its mode."""
        shapes = [(array.shape, array.dtype.name) for array in self.arrays]
        return repr((self.name, self.make, self.args, self.kwargs, shapes))

    @property
    def layout(self) -> str:
        """`structure` in one spelling: 2 also where it says (2, 2)."""
        return re.sub(r"[(\[](\d+)(?:, \1)*,?[)\]]", r"\1", self.structure)

    @property
    def _lot(self) -> int:
        """A number that is the same for all cases of one structure, to draw from."""
        return zlib.crc32(self.structure.encode())

    @property
    def checks_zeros(self) -> bool:
        """Whether second derivatives that are all zero in torch are compared: of one structure in eight.

        Half of the databases' cases are of piecewise linear functions, and compiling such a derivative is half the
        work of a case.
        """
        return self._lot % 8 == 0

    @property
    def forward_over_reverse(self) -> bool:
        """Whether second derivatives are taken forward over reverse: of every other structure, whatever else it is in."""
        return self._lot // 8 % 2 == 0

    def generator(self, purpose: str) -> np.random.Generator:
        """A random generator of this case's own: the same numbers here, in a recording and in its replay."""
        return np.random.default_rng(zlib.crc32(f"{self.id}:{purpose}".encode()))

    def weight(self, where: str, shape: tuple[int, ...], precision: str) -> np.ndarray:
        """The random cotangent (or, for second derivatives, direction) of one tensor, at `precision`."""
        return round_to(self.generator(where).standard_normal(shape), precision)


def moments(draws: list[list[np.ndarray]]) -> list[tuple[np.ndarray, ...]]:
    """For each output: mean and variance over the draws of its elements, and of their squares."""
    found = []
    for outputs in zip(*draws):
        stack = np.stack([output.astype(np.float64) for output in outputs])
        found.append((stack.mean(0), stack.var(0), (stack**2).mean(0), (stack**2).var(0)))
    return found


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype of this name, bfloat16 too."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def is_floating(array: np.ndarray) -> bool:
    """Whether the array's dtype is a real floating one, bfloat16 too."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def round_to(array: np.ndarray, precision: str) -> np.ndarray:
    """Floating arrays at `precision` ("float32-high" is float32); others as they are."""
    array = np.asarray(array)
    return array.astype(numpy_dtype(precision.split("-")[0])) if is_floating(array) else array


def fill(tree: Any, convert: Callable[[Any], Any]) -> Any:
    """`tree` with each of this file's stand-ins replaced by ``convert(stand_in)``; containers are kept.

    `convert` sees a `Make` or `Packed` whose own contents are already converted.
    """
    if isinstance(tree, (tuple, list)):
        return type(tree)(fill(item, convert) for item in tree)
    if isinstance(tree, dict):
        return {key: fill(item, convert) for key, item in tree.items()}
    if isinstance(tree, Make):
        return convert(Make(tree.name, fill(tree.args, convert), fill(tree.kwargs, convert)))
    if isinstance(tree, Packed):
        return convert(Packed(*(fill(getattr(tree, f.name), convert) for f in dataclasses.fields(tree))))
    if isinstance(tree, (Slot, Dtype, Name)):
        return convert(tree)
    return tree


def slots(tree: Any) -> Iterator[int]:
    """The indices of the slots in `tree`, in order, each once."""
    found: dict[int, None] = {}

    def note(item: Any) -> Any:
        if isinstance(item, Slot):
            found[item.index] = None
        return item

    fill(tree, note)
    return iter(found)


def rounded(case: Case, precision: str) -> Case:
    """The case with its floating arrays and state at `precision`; error inputs are left as they are."""
    if case.error is not None:
        return case
    return dataclasses.replace(
        case,
        arrays=[round_to(array, precision) for array in case.arrays],
        state={name: round_to(array, precision) for name, array in case.state.items()},
        wrt=list(case.wrt),
        parameters=list(case.parameters),
        expected={},
    )
