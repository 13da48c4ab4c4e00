"""A function compiled for a machine that is not here, and what its compiler says of it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxnn.base.checks import fail
from jaxnn.targets import collectives as talk
from jaxnn.targets import costs as reading
from jaxnn.targets import hlo
from jaxnn.targets.collectives import Collective
from jaxnn.targets.costs import Cost
from jaxnn.targets.target import Target, get, target_of
from jaxnn.transforms.jit import jit


@dataclasses.dataclass(frozen=True, eq=False)
class Compiled:
    """A program for a target. Figures are of one device; loops count with their turns.

    Attributes:
        target: what it was compiled for; `mesh` is the mesh that its arguments lie on, None on a single device.
        compiled: JAX's own object.
        seconds_to_compile: what XLA took.
        messages: what XLA warned of, as arrays that it moves because their shardings do not fit together.
        argument_bytes, output_bytes, alias_bytes, temporary_bytes, program_bytes: memory, as XLA has laid it out.
            `alias_bytes` are those of outputs that take the place of (donated) arguments.
    """

    target: Target
    mesh: Mesh | None
    compiled: Any
    seconds_to_compile: float
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temporary_bytes: int
    program_bytes: int
    messages: tuple[str, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """What a device has to have room for: arguments, outputs with room of their own, temporaries, and the program."""
        own = self.output_bytes - self.alias_bytes
        return self.argument_bytes + own + self.temporary_bytes + self.program_bytes

    @functools.cached_property
    def text(self) -> str:
        """XLA's optimised program."""
        return self.compiled.as_text() or ""

    @functools.cached_property
    def program(self) -> hlo.Program:
        """`text`, parsed."""
        return hlo.parse(self.text)

    @functools.cached_property
    def costs(self) -> list[Cost]:
        """What each instruction costs."""
        return reading.costs(self.program)

    @functools.cached_property
    def cycles(self) -> int | None:
        """The TPU compiler's estimate for the whole program, without what it makes none for (see `custom_calls`)."""
        if self.target.platform != "tpu":
            return None
        return sum(cost.cycles or 0 for cost in self.costs)

    @functools.cached_property
    def uncounted_bytes(self) -> int:
        """Bytes that instructions move of which a TPU's compiler estimates no cycles: gathers, scatters, kernels of one's own."""
        return sum(cost.bytes for cost in self.costs if cost.cycles is None and not reading.is_beside(cost))

    @property
    def seconds(self) -> float | None:
        """`cycles` by the chip's clock."""
        return None if self.cycles is None else self.cycles / self.target.chip.clock

    @functools.cached_property
    def flops(self) -> dict[str, int]:
        """Multiplications and additions of products and convolutions, by the dtype of their operands.

        Keys are XLA's dtypes, "bf16" or "f32*bf16" where the operands differ, with the precision that was asked for:
        "f32 highest".
        """
        found: collections.Counter[str] = collections.Counter()
        for cost in self.costs:
            found.update(cost.flops)
        return dict(found.most_common())

    @functools.cached_property
    def bytes_accessed(self) -> int:
        """Bytes that instructions read and write, in any memory of the chip."""
        return sum(cost.bytes for cost in self.costs)

    @functools.cached_property
    def hbm_bytes(self) -> int:
        """Those of them in the chip's large memory."""
        return sum(cost.hbm for cost in self.costs)

    @functools.cached_property
    def collectives(self) -> list[Collective]:
        """What the devices exchange, by kind, axis and dtype; the largest first."""
        return talk.collectives(self.program, self.mesh)

    @functools.cached_property
    def custom_calls(self) -> dict[str, int]:
        """Calls of programs that XLA knows nothing of, as Pallas kernels and libraries, by name."""
        return reading.custom_calls(self.program)

    @property
    def unknown_loops(self) -> list[str]:
        """Loops whose turns hang on data. They count once."""
        _ = self.costs
        return self.program.unknown_loops


def compile(fn: Callable[..., Any], *args: Any, target: str | Target | None = None, **kwargs: Any) -> Compiled:
    """Compile ``fn(*args, **kwargs)`` for a machine that is not here, with that machine's own compiler.

    Nothing is run, and no array is moved: shapes, dtypes and shardings are all that is looked at.

    Args:
        fn: what ``nn.jit`` or ``jax.jit`` gave, with its options (donation, shardings); any other function is given to
            ``nn.jit`` first.
        args, kwargs: modules, optimizers, arrays, ``jax.ShapeDtypeStruct``. What lies on a mesh of any devices (also
            `Target.mesh`) lies on the same mesh of the target's; what lies on no mesh is held whole by each device.
        target: its name (see `get`), or what `get` gave. Default: the one on whose mesh the arguments lie.

    Returns:
        The program, with its cycles, products, bytes, memory and collectives.

    Raises:
        ImportError: the compiler is not installed; the message names the extra.
        ValueError: no such target; a mesh of other size than the target; arguments on several meshes.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> from jaxnn import targets
        >>> model = nn.Linear(256, 256)
        >>> if targets.is_installed("tpu"):
        ...     found = targets.compile(lambda m, x: m(x), model, jax.ShapeDtypeStruct((128, 256), jnp.float32), target="v5e")
        ...     assert found.flops == {"f32 highest": 2 * 128 * 256 * 256}
    """
    lowered, chosen, mesh = lower(fn, *args, target=target, **kwargs)
    start = time.perf_counter()
    messages: list[str] = []
    with _listening(messages) if mesh is not None else contextlib.nullcontext():
        compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()

    def of(kind: str) -> int:
        return int(getattr(memory, f"{kind}_in_bytes", 0) or 0)

    return Compiled(
        chosen,
        mesh,
        compiled,
        seconds,
        of("argument_size"),
        of("output_size"),
        of("alias_size"),
        of("temp_size"),
        of("generated_code_size"),
        tuple(dict.fromkeys(messages)),
    )


_TOLD = re.compile(r"Involuntary full rematerialization[^\n]*")
_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def _listening(messages: list[str]) -> Iterator[None]:
    """Also keep what XLA writes to the process's standard error about shardings; it has no other way to say it."""
    with _one_at_a_time, tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        try:
            os.dup2(file.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said = file.read().decode(errors="replace")
            sys.stderr.write(said)
            messages += _TOLD.findall(said)


def lower(fn: Callable[..., Any], *args: Any, target: str | Target | None = None, **kwargs: Any) -> Any:
    """`compile` without the compiling: JAX's lowered program, the target, and the mesh that the arguments lie on."""
    meshes = {
        leaf.sharding.mesh: None
        for leaf in jax.tree.leaves((args, kwargs))
        if isinstance(getattr(leaf, "sharding", None), NamedSharding) and leaf.sharding.mesh.size > 1
    }
    if len(meshes) > 1:
        fail(ValueError, "targets.compile", "args", "arrays on one mesh", f"{len(meshes)} meshes")
    mesh = next(iter(meshes), None)
    chosen = _target(target, mesh)
    if mesh is not None and target_of(mesh.devices.flat[0]) is None:
        mesh = chosen.mesh(mesh.devices.shape, mesh.axis_names)
    place = functools.partial(_placed, mesh=mesh, device=chosen.devices()[0])
    args, kwargs = jax.tree.map(place, (args, kwargs))
    function: Any = fn if hasattr(fn, "lower") else jit(fn)
    return function.lower(*args, **kwargs), chosen, mesh


def _target(target: str | Target | None, mesh: Mesh | None) -> Target:
    if target is not None:
        return get(target)
    found = target_of(mesh.devices.flat[0]) if mesh is not None else None
    if found is None:
        fail(ValueError, "targets.compile", "target", "a name, as 'v5e' or 'h100'", None)
    return found


def _placed(leaf: Any, mesh: Mesh | None, device: Any) -> Any:
    """An array's type, on the target."""
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
        return leaf
    if mesh is None:
        sharding: Any = SingleDeviceSharding(device)
    else:
        old = getattr(leaf, "sharding", None)
        sharding = NamedSharding(mesh, old.spec if isinstance(old, NamedSharding) else PartitionSpec())
    dtype = (
        leaf.dtype if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)) else jax.dtypes.canonicalize_dtype(leaf.dtype)
    )
    weak = bool(getattr(leaf, "weak_type", False))
    return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=sharding, weak_type=weak)
