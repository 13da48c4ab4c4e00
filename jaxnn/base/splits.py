"""Over which axes of a mesh the batch and attention's heads are split, where the program's types do not say it.

XLA lays arrays out over a mesh's Auto axes when it compiles. A kernel that XLA cannot divide has to know it earlier, when
the program is lowered: whoever lays out a model says it here. A wrong word costs exchanges between devices, no digits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxnn._ambient import Ambient, Block


class Split(NamedTuple):
    """A ``jax.sharding.AbstractMesh``, and those of its axes that batch entries and heads are split over."""

    mesh: Any
    batch: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()


_split = Ambient("split", None)


def current_split() -> Split | None:
    """What holds here; None where nothing was said."""
    return _split.value


def splitting(mesh: Any, batch: tuple[str, ...] | None = None, heads: tuple[str, ...] | None = None) -> Block:
    """A context in which it is said; what is None stays as it is outside, where that is of the same mesh.

    Args:
        mesh: a ``jax.sharding.Mesh``.
        batch, heads: names of its axes.
    """
    around = _split.value
    own = Split(mesh.abstract_mesh)
    own = around if around is not None and around.mesh == own.mesh else own
    rows = own.batch if batch is None else batch
    others = [axis for axis in (own.heads if heads is None else heads) if axis not in rows]
    return _split(Split(own.mesh, rows, tuple(others)))
