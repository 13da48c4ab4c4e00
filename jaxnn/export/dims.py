"""`Dim`: a dimension whose size is left open, and what ``dynamic_shapes`` makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import export as jax_export

from jaxnn.base.checks import as_int, fail


class Dim:
    """A dimension that may have any size from `min` to `max`. Dimensions of one `Dim` are equal; ``2 * dim + 1`` is one too.

    ``Dim.DYNAMIC`` and ``Dim.AUTO`` stand for a dimension of its own; ``Dim.STATIC``, like None, for the size of the example.
    torch: AUTO finds out whether dimensions have to be equal; here, name them.

    Args:
        name: an identifier.
        min, max: the least and the largest size; None leaves it at 1, and open.

    Raises:
        AssertionError: a name that is no identifier, or sizes in the wrong order.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> batch = nn.export.Dim("batch", max=64)
        >>> program = nn.export.export(nn.Linear(3, 2), (jnp.ones((4, 3)),), dynamic_shapes=({0: batch},))
        >>> program(jnp.ones((7, 3))).shape
        (7, 2)

    Follows ``torch.export.Dim``.
    """

    AUTO: Dim
    DYNAMIC: Dim
    STATIC: Dim

    def __init__(self, name: str, *, min: int | None = None, max: int | None = None) -> None:
        assert isinstance(name, str) and name.isidentifier(), f"Dim name must be a valid identifier, got {name}"
        for which, size in (("min", min), ("max", max)):
            if size is not None and as_int("nn.export.Dim", which, size) < 0:
                fail(ValueError, "nn.export.Dim", which, "a size of at least 0", size)
        assert min is None or max is None or min < max, f"Cannot create Dim with inconsistent min={min}, max={max}"
        self.__name__, self.min, self.max = name, min, max
        self.factor, self.offset = 1, 0
        self.root = self

    @property
    def text(self) -> str:
        """As jax writes it."""
        scaled = self.__name__ if self.factor == 1 else f"{self.factor}*{self.__name__}"
        return scaled if not self.offset else f"{scaled} {'+' if self.offset > 0 else '-'} {abs(self.offset)}"

    def _derived(self, factor: int, offset: int) -> Dim:
        dim = Dim(self.__name__)
        dim.factor, dim.offset, dim.root = factor, offset, self.root
        return dim

    def __add__(self, other: int) -> Dim:
        return self._derived(self.factor, self.offset + int(other))

    def __sub__(self, other: int) -> Dim:
        return self._derived(self.factor, self.offset - int(other))

    def __mul__(self, other: int) -> Dim:
        return self._derived(self.factor * int(other), self.offset * int(other))

    __radd__, __rmul__ = __add__, __mul__

    def __repr__(self) -> str:
        return f"Dim({self.text!r})"

    def constraints(self) -> list[str]:
        """What jax is told of its size."""
        least = [] if self.min is None or self.min < 2 else [f"{self.text} >= {self.min}"]
        return least + ([] if self.max is None else [f"{self.text} <= {self.max}"])


Dim.AUTO, Dim.DYNAMIC, Dim.STATIC = (Dim(name) for name in ("AUTO", "DYNAMIC", "STATIC"))
_OWN = (Dim.AUTO, Dim.DYNAMIC)


class Shapes:
    """Reads ``dynamic_shapes``: first all of it for its constraints, then argument by argument."""

    def __init__(self, dynamic_shapes: Any) -> None:
        roots: dict[str, Dim] = {}
        for dim in jax.tree.leaves(dynamic_shapes, is_leaf=lambda leaf: isinstance(leaf, Dim)):
            if isinstance(dim, Dim) and dim not in (*_OWN, Dim.STATIC):
                known = roots.setdefault(dim.__name__, dim.root)
                if known is not dim.root and (known.min, known.max) != (dim.root.min, dim.root.max):
                    given = f"two of the name {dim.__name__!r} with other limits"
                    fail(ValueError, "nn.export.export", "dynamic_shapes", "one Dim for one name", given)
        self.limits = {name: [dim.min, dim.max] for name, dim in roots.items() if (dim.min, dim.max) != (None, None)}
        constraints = [text for root in roots.values() for text in root.constraints()]
        self._scope = jax_export.SymbolicScope(constraints)

    def of(self, value: Any, spec: Any, where: str) -> Any:
        """`value`, an argument or a container, as types: its arrays' shapes and dtypes, with symbols for open sizes."""
        if isinstance(value, Mapping):
            given = spec or {}
            if not isinstance(given, Mapping) or not given.keys() <= value.keys():
                self._refuse(where, f"None, or a dict with keys among {list(value)}", spec)
            return {key: self.of(item, given.get(key), f"{where}[{key!r}]") for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            given = [None] * len(value) if spec is None else spec
            if not isinstance(given, (list, tuple)) or len(given) != len(value):
                self._refuse(where, f"None, or one entry for each of its {len(value)} items", spec)
            items = [self.of(item, part, f"{where}[{at}]") for at, (item, part) in enumerate(zip(value, given))]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if value is None:
            return None
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            remedy = "Make it an array, or export a function that gives it: lambda x: model(x, 3)"
            fail(TypeError, "nn.export.export", where, "an array, or containers of arrays", value, remedy)
        return jax.ShapeDtypeStruct(self._shape(tuple(value.shape), spec, where), value.dtype)

    def _shape(self, shape: tuple[Any, ...], spec: Any, where: str) -> tuple[Any, ...]:
        if spec is None:
            return shape
        if isinstance(spec, Mapping):
            if not all(isinstance(at, int) and -len(shape) <= at < len(shape) for at in spec):
                self._refuse(where, f"numbers of the {len(shape)} dimensions", spec)
            spec = {at % len(shape): dim for at, dim in spec.items()}
            dims: Sequence[Any] = [spec.get(at) for at in range(len(shape))]
        elif isinstance(spec, (list, tuple)) and len(spec) == len(shape):
            dims = spec
        else:
            self._refuse(where, f"a dict of dimensions, or one entry for each of the {len(shape)} dimensions", spec)
        return tuple(self._size(size, dim, f"{where}_{at}") for at, (size, dim) in enumerate(zip(shape, dims)))

    def _size(self, size: Any, dim: Any, where: str) -> Any:
        if dim is None or dim is Dim.STATIC or (isinstance(dim, int) and dim == size):
            return size
        if isinstance(dim, (Dim, str)):
            own = "".join(letter if letter.isalnum() else "_" for letter in where).strip("_")
            text = dim if isinstance(dim, str) else own if dim in _OWN else dim.text
            return jax_export.symbolic_shape(text, scope=self._scope)[0]
        self._refuse(where, f"a Dim, its name, or None (or {size}, the example's size)", dim)

    def _refuse(self, where: str, wanted: str, got: Any) -> Any:
        fail(ValueError, "nn.export.export", f"dynamic_shapes: {where}", wanted, repr(got))
