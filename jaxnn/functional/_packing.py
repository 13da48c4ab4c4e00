"""Between packed and padded layout: where each row lies, as host index arrays, and one gather.

Packed data holds, step after step, the rows of the sequences that still run; longer sequences come first.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn import _compat
from jaxnn.functional._checks import check_array, fail
from jaxnn.functional._op import op


def host_integers(function: str, argument: str, value: Any, remedy: str) -> np.ndarray[Any, Any]:
    """`value` (list, NumPy or jax array) as int64 numbers on the host.

    Raises:
        TypeError: a traced array, whose numbers shapes would depend on.
    """
    if any(isinstance(item, _compat.Tracer) for item in (value if isinstance(value, (list, tuple)) else (value,))):
        fail(TypeError, function, argument, "numbers known outside the trace", "a traced array", remedy)
    return np.asarray(value).astype(np.int64)


class Layout:
    """Where the rows of a packed batch lie.

    Args:
        function: to name in messages.
        batch_sizes: sequences that run at each step; none may grow.
    """

    def __init__(self, function: str, batch_sizes: Any) -> None:
        remedy = "Pass a NumPy array or a list: the shapes of the results depend on it"
        sizes = host_integers(function, "batch_sizes", batch_sizes, remedy)
        if sizes.ndim != 1 or not sizes.size or sizes[-1] < 1 or (np.diff(sizes) > 0).any():
            fail(RuntimeError, function, "batch_sizes", "positive numbers, none above the one before", str(sizes))
        self.function, self.sizes = function, sizes
        self.steps, self.batch, self.total = len(sizes), int(sizes[0]), int(sizes.sum())
        self.lengths = (sizes[:, None] > np.arange(self.batch)).sum(0)

    @classmethod
    def of_lengths(cls, function: str, lengths: np.ndarray[Any, Any]) -> Layout:
        """The layout of sequences of these lengths, decreasing and positive."""
        return cls(function, (lengths[None, :] > np.arange(lengths[0])[:, None]).sum(1))

    def lengths_if_ragged(self) -> Any:
        """The lengths, or None where all are the same."""
        return None if self.sizes[-1] == self.batch else jnp.asarray(self.lengths.astype(np.int32))

    def packed_index(self, strides: tuple[int, int] | None = None, order: Any = None) -> np.ndarray[Any, Any]:
        """For each packed row, its place in padded layout flattened to rows.

        Args:
            strides: rows from one step to the next and from one sequence to the next; time-major by default.
            order: the place in the batch of each sequence in packed order.
        """
        time_stride, batch_stride = (self.batch, 1) if strides is None else strides
        times = np.repeat(np.arange(self.steps), self.sizes)
        places = np.concatenate([np.arange(size) for size in self.sizes])
        places = places if order is None else np.asarray(order)[places]
        return times * time_stride + places * batch_stride

    def padded_index(self, rows: int, steps: int | None = None, order: Any = None) -> np.ndarray[Any, Any]:
        """For each place (step, sequence) of padded layout its packed row, and beyond `rows` where there is none.

        Args:
            rows: how many packed rows there are.
            steps: padded length; that of the longest sequence by default.
            order: the sequence, in packed order, of each place in the batch.
        """
        if rows < self.total:
            fail(RuntimeError, self.function, "data", f"{self.total} rows, the sum of batch_sizes", f"{rows}")
        steps = self.steps if steps is None else steps
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1], np.zeros(steps - self.steps, np.int64)])
        index = starts[:, None] + np.arange(self.batch)
        empty = np.arange(steps)[:, None] >= self.lengths
        # No index twice, not even those of nothing: then the gradient's scatter needs no atomic additions.
        index = np.where(empty, rows + np.arange(index.size).reshape(index.shape), index)
        return index if order is None else index[:, np.asarray(order)]


def _check_rows(data: Any, index: Any, padding: Any = 0) -> None:
    check_array("take_rows", data=data)


@op(check=_check_rows)
def take_rows(data: jax.Array, index: jax.Array, padding: Any = 0) -> jax.Array:
    """``data[index]`` for distinct indices; `padding` where an index is past the end."""
    rows = data.at[index].get(mode="fill", fill_value=0, unique_indices=True)
    if isinstance(padding, (bool, int, float)) and padding == 0:
        return rows
    there = (index < data.shape[0]).reshape(index.shape + (1,) * (data.ndim - 1))
    return jnp.where(jnp.broadcast_to(there, rows.shape), rows, jnp.asarray(padding).astype(data.dtype))
