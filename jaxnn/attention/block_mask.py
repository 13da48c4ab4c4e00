"""Block-sparse attention masks: which blocks of queries see which blocks of keys, and the rule inside a block."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn.attention.masks import MaskMod, create_mask, noop_mask, positional_arguments, sliced_mask
from jaxnn.base.checks import concrete
from jaxnn.base.dtypes import describe
from jaxnn.boxes.parameter import as_sharding

_BLOCK = 128


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def to_dense(num_blocks: jax.Array, indices: jax.Array, columns: int) -> jax.Array:
    """The blocks (..., rows, columns) as 0 and 1, from how many each row has and which they are."""
    listed = lax.broadcasted_iota(jnp.int32, indices.shape, indices.ndim - 1) < num_blocks[..., None]
    column = jnp.arange(columns, dtype=jnp.int32)
    hits = listed[..., None] & (indices[..., None] == column.reshape((1,) * indices.ndim + (columns,)))
    return hits.any(axis=-2).astype(jnp.int32)


def to_ordered(dense: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each row's number of blocks, and their columns: first those that count, in order, then the rest."""
    dense = dense.astype(jnp.int32)
    # dtype: without it a sum of int32 is int64 under jax_enable_x64.
    return dense.sum(axis=-1, dtype=jnp.int32), jnp.argsort(1 - dense, axis=-1, stable=True).astype(jnp.int32)


def _transposed(num_blocks: Any, indices: Any) -> tuple[Any, Any]:
    return to_ordered(jnp.swapaxes(to_dense(num_blocks, indices, indices.shape[-1]), -2, -1))


def _cropped(num_blocks: Any, indices: Any, rows: int, columns: int) -> tuple[Any, Any]:
    # torch: crops the ordered lists, which for rules other than the causal one counts other blocks.
    return to_ordered(to_dense(num_blocks, indices, indices.shape[-1])[..., :rows, :columns])


def write_order(mask: BlockMask, descending: bool | None) -> tuple[jax.Array, jax.Array | None]:
    """For each column and row that attends to it: the column's rank among the row's columns.

    Raises:
        ValueError: the BlockMask was made without the blocks by column.
    """
    if mask.q_indices is None:
        raise ValueError("BlockMask: q_indices: expected an array to compute dq_write_order from, got None")
    columns = mask.q_indices.shape[-2]
    dense = to_dense(mask.kv_num_blocks, mask.kv_indices, columns)
    if mask.full_kv_indices is not None:
        dense = jnp.minimum(dense + to_dense(mask.full_kv_num_blocks, mask.full_kv_indices, columns), 1)
    counts = jnp.cumsum(dense, axis=-1)
    rank = counts - dense
    by_column = jnp.swapaxes(counts[..., -1:] - 1 - rank if descending else rank, -2, -1)

    def gather(rows: Any) -> Any:
        return None if rows is None else jnp.take_along_axis(by_column, rows, axis=-1).astype(jnp.int32)

    return gather(mask.q_indices), gather(mask.full_q_indices)


@jax.tree_util.register_pytree_with_keys_class
class BlockMask:
    """A block-sparse mask: for each block of queries the blocks of keys it sees, and a rule inside them.

    Blocks listed in ``kv_indices`` (the first ``kv_num_blocks`` of each row) are masked by ``mask_mod``; those in
    ``full_kv_indices`` are seen whole; all others not at all. Made by ``create_block_mask``; a pytree, whose rule
    is compared by identity.

    Args:
        seq_lengths: numbers of queries and keys.
        kv_num_blocks: (B, H, rows), how many partly masked blocks each block of queries sees.
        kv_indices: (B, H, rows, columns), which.
        full_kv_num_blocks: how many blocks it sees whole, or None.
        full_kv_indices: which, or None.
        q_num_blocks: the same by column, for the backward pass of kernels, or None.
        q_indices: the same by column, or None.
        full_q_num_blocks: the same by column, or None.
        full_q_indices: the same by column, or None.
        BLOCK_SIZE: queries and keys in a block, (128, 128) by default.
        mask_mod: the rule, `noop_mask` by default.
        dq_write_order: kept for kernels; nothing here uses it.
        dq_write_order_full: as `dq_write_order`.
        dq_kv_order: as `dq_write_order`.
        dq_kv_order_spt: as `dq_write_order`.

    Raises:
        RuntimeError: `kv_indices` with fewer than 2 dimensions.
        AssertionError: only one of a pair of arrays.

    Example:
        >>> from jaxnn.attention.flex_attention import create_block_mask
        >>> mask = create_block_mask(lambda b, h, q, kv: q >= kv, 1, 1, 256, 256)
        >>> mask.shape, mask.sparsity()
        ((1, 1, 256, 256), 25.0)

    Follows ``torch.nn.attention.flex_attention.BlockMask``.
    """

    _TENSOR_ATTRS = (
        "kv_num_blocks",
        "kv_indices",
        "full_kv_num_blocks",
        "full_kv_indices",
        "q_num_blocks",
        "q_indices",
        "full_q_num_blocks",
        "full_q_indices",
        "dq_write_order",
        "dq_write_order_full",
        "dq_kv_order",
    )
    _CONTEXT_ATTRS = ("seq_lengths", "BLOCK_SIZE", "mask_mod", "dq_kv_order_spt")

    def __init__(
        self,
        seq_lengths: tuple[int, int],
        kv_num_blocks: Any,
        kv_indices: Any,
        full_kv_num_blocks: Any,
        full_kv_indices: Any,
        q_num_blocks: Any,
        q_indices: Any,
        full_q_num_blocks: Any,
        full_q_indices: Any,
        BLOCK_SIZE: tuple[int, int] = (_BLOCK, _BLOCK),
        mask_mod: MaskMod = noop_mask,
        *,
        dq_write_order: Any = None,
        dq_write_order_full: Any = None,
        dq_kv_order: Any = None,
        dq_kv_order_spt: bool | None = None,
    ) -> None:
        if kv_indices.ndim < 2:
            raise RuntimeError("BlockMask: kv_indices: expected at least 2 dimensions, got " + describe(kv_indices))
        for name, first, second in (
            ("full_kv_num_blocks", full_kv_num_blocks, full_kv_indices),
            ("full_q_num_blocks", full_q_num_blocks, full_q_indices),
        ):
            if (first is None) != (second is None):
                raise AssertionError(
                    f"BlockMask: {name}: expected the number of blocks and their indices, got only one"
                )
        if dq_write_order_full is not None and dq_write_order is None:
            raise ValueError("BlockMask: dq_write_order_full: expected None without dq_write_order, got an array")
        self.seq_lengths = seq_lengths
        self.kv_num_blocks, self.kv_indices = kv_num_blocks, kv_indices
        self.full_kv_num_blocks, self.full_kv_indices = full_kv_num_blocks, full_kv_indices
        self.q_num_blocks, self.q_indices = q_num_blocks, q_indices
        self.full_q_num_blocks, self.full_q_indices = full_q_num_blocks, full_q_indices
        self.dq_write_order, self.dq_write_order_full = dq_write_order, dq_write_order_full
        self.dq_kv_order, self.dq_kv_order_spt = dq_kv_order, dq_kv_order_spt
        self.BLOCK_SIZE = BLOCK_SIZE
        self.mask_mod = mask_mod

    @classmethod
    def from_kv_blocks(
        cls,
        kv_num_blocks: Any,
        kv_indices: Any,
        full_kv_num_blocks: Any = None,
        full_kv_indices: Any = None,
        BLOCK_SIZE: int | tuple[int, int] = _BLOCK,
        mask_mod: MaskMod | None = None,
        seq_lengths: tuple[int, int] | None = None,
        compute_q_blocks: bool = True,
        *,
        dq_write_order: Any = None,
        dq_write_order_full: Any = None,
        dq_kv_order: Any = None,
    ) -> BlockMask:
        """A BlockMask from the blocks of keys that each block of queries sees; arguments as the class's.

        Args:
            kv_num_blocks: as of the class.
            kv_indices: as of the class.
            full_kv_num_blocks: as of the class.
            full_kv_indices: as of the class.
            BLOCK_SIZE: one number or two (queries, keys), 128 by default.
            mask_mod: the rule; None lets everything in the listed blocks through.
            seq_lengths: numbers of queries and keys; None is what the blocks cover.
            compute_q_blocks: whether to list the blocks by column too, True by default.
            dq_write_order: as of the class.
            dq_write_order_full: as of the class.
            dq_kv_order: an array, a bool or None.
        """
        if kv_indices.ndim < 2:
            raise RuntimeError("BlockMask: kv_indices: expected at least 2 dimensions, got " + describe(kv_indices))
        if (full_kv_num_blocks is None) != (full_kv_indices is None):
            raise AssertionError("BlockMask: full_kv_num_blocks and full_kv_indices: expected both or neither, got one")
        by_column: list[Any] = [None, None, None, None]
        if compute_q_blocks:
            by_column[:2] = _transposed(kv_num_blocks, kv_indices)
            if full_kv_indices is not None:
                by_column[2:] = _transposed(full_kv_num_blocks, full_kv_indices)
        sizes = _pair(BLOCK_SIZE)
        if seq_lengths is None:
            seq_lengths = (kv_indices.shape[-2] * sizes[0], kv_indices.shape[-1] * sizes[1])
        if not (dq_kv_order is None or isinstance(dq_kv_order, (bool, jax.Array, np.ndarray))):
            raise ValueError(f"BlockMask: dq_kv_order: expected a bool, an array or None, got {describe(dq_kv_order)}")
        order_is_flag = isinstance(dq_kv_order, bool)
        return cls(
            seq_lengths,
            kv_num_blocks,
            kv_indices,
            full_kv_num_blocks,
            full_kv_indices,
            *by_column,
            BLOCK_SIZE=sizes,
            mask_mod=noop_mask if mask_mod is None else mask_mod,
            dq_write_order=dq_write_order,
            dq_write_order_full=dq_write_order_full,
            dq_kv_order=None if order_is_flag else dq_kv_order,
            dq_kv_order_spt=dq_kv_order if order_is_flag else None,
        )

    def as_tuple(self, flatten: bool = True) -> tuple[Any, ...]:
        """The attributes in the constructor's order; `flatten` spreads lengths and block sizes."""
        lengths = self.seq_lengths if flatten else (self.seq_lengths,)
        sizes = self.BLOCK_SIZE if flatten else (self.BLOCK_SIZE,)
        arrays = (getattr(self, name) for name in self._TENSOR_ATTRS)
        return (*lengths, *arrays, self.dq_kv_order_spt, *sizes, self.mask_mod)

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, H, queries, keys)."""
        return (*self.kv_indices.shape[:-2], *self.seq_lengths)

    def numel(self) -> int:
        """How many entries the mask has, masked or not."""
        return math.prod(self.shape)

    def sparsity(self) -> float:
        """The percentage of entries in blocks that nobody attends to."""
        computed = int(np.sum(self.kv_num_blocks))
        if self.full_kv_num_blocks is not None:
            computed += int(np.sum(self.full_kv_num_blocks))
        return 100 * (1 - computed * self.BLOCK_SIZE[0] * self.BLOCK_SIZE[1] / self.numel())

    def to_dense(self) -> jax.Array:
        """Which blocks are seen, partly or whole: int32 (B, H, rows, columns) of 0 and 1."""
        dense = to_dense(self.kv_num_blocks, self.kv_indices, self.kv_indices.shape[-1])
        if self.full_kv_indices is None:
            return dense
        return dense | to_dense(self.full_kv_num_blocks, self.full_kv_indices, self.full_kv_indices.shape[-1])

    def _new(self, blocks: tuple[Any, ...], mask_mod: MaskMod, seq_lengths: tuple[int, int]) -> BlockMask:
        mask = BlockMask.from_kv_blocks(
            *blocks,
            BLOCK_SIZE=self.BLOCK_SIZE,
            mask_mod=mask_mod,
            seq_lengths=seq_lengths,
            compute_q_blocks=self.q_indices is not None,
        )
        mask.dq_kv_order_spt = self.dq_kv_order_spt
        if self.dq_write_order is not None:
            mask.dq_write_order, mask.dq_write_order_full = write_order(mask, mask.dq_kv_order_spt)
        return mask

    def _refuse_order(self) -> None:
        if self.dq_kv_order is not None:
            raise NotImplementedError(
                "BlockMask: dq_kv_order: expected None or a bool to slice or adjust, got an array. Make a new BlockMask"
            )

    def __getitem__(self, index: Any) -> BlockMask:
        """The mask of some batch entries, heads and blocks of queries. Dimensions are kept; set `mask_mod` anew."""
        self._refuse_order()
        index = index if isinstance(index, tuple) else (index,)
        padded = (*index, slice(None), slice(None), slice(None))[:3]
        kept: list[Any] = []
        for i, n in zip(padded, self.kv_num_blocks.shape[:3]):
            if isinstance(i, int):  # a slice of one, so that the dimension stays
                i = slice(i + n, i + n + 1) if -n <= i < 0 else slice(i, i + 1)
            kept.append(i)
        arrays = (self.kv_num_blocks, self.kv_indices, self.full_kv_num_blocks, self.full_kv_indices)
        blocks = tuple(None if array is None else array[tuple(kept)] for array in arrays)
        return self._new(blocks, sliced_mask, self.seq_lengths)

    def _adjust(self, new_q_len: int, new_kv_len: int) -> BlockMask:
        self._refuse_order()
        rows, columns = -(-new_q_len // self.BLOCK_SIZE[0]), -(-new_kv_len // self.BLOCK_SIZE[1])
        blocks = _cropped(self.kv_num_blocks, self.kv_indices, rows, columns)
        full = (None, None)
        if self.full_kv_indices is not None:
            full = _cropped(self.full_kv_num_blocks, self.full_kv_indices, rows, columns)
        return self._new((*blocks, *full), self.mask_mod, (new_q_len, new_kv_len))

    def to(self, device: Any) -> BlockMask:
        """The mask with its arrays on `device` (a jax device, a sharding or a platform's name)."""
        return jax.tree.map(lambda array: jax.device_put(array, as_sharding(device)), self)

    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """A picture of the blocks of each batch entry and head, at most `limit` of them.

        Args:
            grid_size: most rows and columns of the picture; -1 for all.
            limit: how many batch entries and heads to draw.
        """
        dense = np.asarray(self.to_dense())
        *batch, rows, columns = dense.shape
        most = (rows, columns) if grid_size == -1 else (grid_size,) * 2 if isinstance(grid_size, int) else grid_size
        row_step, column_step = (max(1, -(-n // m)) for n, m in zip((rows, columns), most))

        def character(section: Any) -> str:
            share = section.mean()
            return "█" if share == 1 else " " if share == 0 else "░"

        pictures = []
        for count, entry in enumerate(itertools.product(*map(range, batch))):
            if count == limit:
                pictures += ["...", "More with to_string(limit=N); BlockMask[batch, head] picks one"]
                break
            lines = [str(entry)]
            for r in range(0, rows, row_step):
                cells = (dense[entry][r : r + row_step, c : c + column_step] for c in range(0, columns, column_step))
                lines.append("".join(character(cell) * 2 for cell in cells))
            pictures.append("\n".join(lines) + "\n")
        return "\n".join(pictures)

    def __str__(self) -> str:
        return f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%, \n{self.to_string().strip()}\n)"

    def __repr__(self) -> str:
        shapes = {name: getattr(self, name) for name in self._TENSOR_ATTRS[:8]}
        lines = [f"{name}={None if array is None else array.shape}" for name, array in shapes.items()]
        rule = getattr(self.mask_mod, "__name__", self.mask_mod)
        lines += [f"BLOCK_SIZE={self.BLOCK_SIZE}", f"shape={self.shape}", f"sparsity={self.sparsity():.2f}%"]
        return "BlockMask(\n    " + ",\n    ".join([*lines, f"mask_mod={rule}"]) + "\n)"

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        """The arrays, and everything else as static structure."""
        leaves = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in self._TENSOR_ATTRS]
        return leaves, tuple(getattr(self, name) for name in self._CONTEXT_ATTRS)

    @classmethod
    def tree_unflatten(cls, context: tuple[Any, ...], leaves: Any) -> BlockMask:
        """A BlockMask around any leaves, unchecked."""
        mask = object.__new__(cls)
        for name, value in (*zip(cls._CONTEXT_ATTRS, context), *zip(cls._TENSOR_ATTRS, leaves)):
            setattr(mask, name, value)
        return mask


def is_causal(mask: BlockMask) -> bool:
    """Whether a mask is the causal one, as far as that shows: by its rule's program, and by blocks that are known."""
    known = [concrete(array) for array in (mask.kv_num_blocks, mask.kv_indices)]
    whole = [concrete(array) for array in (mask.full_kv_num_blocks, mask.full_kv_indices) if array is not None]
    if any(array is None for array in (*known, *whole)) or not _compares_queries_with_keys(mask.mask_mod):
        return False
    rows, columns = (-(-length // size) for length, size in zip(mask.seq_lengths, mask.BLOCK_SIZE))
    first, last = (
        np.arange(rows) * mask.BLOCK_SIZE[0],
        np.minimum(np.arange(1, rows + 1) * mask.BLOCK_SIZE[0], mask.seq_lengths[0]),
    )
    starts = np.arange(columns) * mask.BLOCK_SIZE[1]
    seen = last[:, None] > starts
    seen_whole = first[:, None] >= np.minimum(starts + mask.BLOCK_SIZE[1], mask.seq_lengths[1]) - 1
    full = _listed(whole[0], whole[1], columns) if whole else np.zeros_like(seen)
    return bool(np.all(_listed(known[0], known[1], columns) | full | ~seen) and np.all(~full | seen_whole))


def _listed(num_blocks: Any, indices: Any, columns: int) -> Any:
    """`to_dense` of arrays whose values are known."""
    counted = np.arange(indices.shape[-1]) < num_blocks[..., None]
    return (counted[..., None] & (indices[..., None] == np.arange(columns))).any(-2)


def _compares_queries_with_keys(rule: MaskMod) -> bool:
    """Whether a rule is ``q_idx >= kv_idx`` and nothing else."""
    index = jax.ShapeDtypeStruct((), jnp.int32)
    jaxpr = jax.make_jaxpr(rule)(index, index, index, index).jaxpr
    if len(jaxpr.eqns) != 1 or jaxpr.outvars != jaxpr.eqns[0].outvars:
        return False
    name, operands = jaxpr.eqns[0].primitive.name, jaxpr.eqns[0].invars
    query, key = jaxpr.invars[2:]
    return (name == "ge" and operands == [query, key]) or (name == "le" and operands == [key, query])


def create_block_mask(
    mask_mod: MaskMod,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: Any = None,
    BLOCK_SIZE: int | tuple[int, int] = _BLOCK,
    _compile: bool = False,
    separate_full_blocks: bool = True,
    compute_dq_write_order: bool = False,
    dq_kv_order: bool = True,
) -> BlockMask:
    """The BlockMask of a rule.

    Args:
        mask_mod: a function of scalars (b, h, q_idx, kv_idx), True where the key takes part.
        B: batch size; None is 1, for a rule that does not look at it.
        H: number of query heads; None is 1.
        Q_LEN: number of queries.
        KV_LEN: number of keys.
        device: None, a jax device or a sharding.
        BLOCK_SIZE: one number or two (queries, keys), 128 by default.
        separate_full_blocks: list blocks that are seen whole apart, so that the rule need not run there.
        compute_dq_write_order: also compute the metadata of that name, which nothing here uses.
        dq_kv_order: the order it is computed in.

    Raises:
        AssertionError: `mask_mod` does not take 4 arguments.

    Example:
        >>> from jaxnn.attention.flex_attention import create_block_mask
        >>> create_block_mask(lambda b, h, q, kv: q >= kv, None, None, 512, 512).kv_indices.shape
        (1, 1, 4, 4)

    Follows ``torch.nn.attention.flex_attention.create_block_mask``.
    """
    if positional_arguments(mask_mod) != 4:
        raise AssertionError(f"create_block_mask: mask_mod: expected a function of 4 arguments, got {mask_mod}")
    if _compile:
        warnings.warn("_compile is deprecated: use jax.jit", DeprecationWarning, stacklevel=2)
    if not isinstance(dq_kv_order, bool):
        raise ValueError(f"create_block_mask: dq_kv_order: expected a bool, got {describe(dq_kv_order)}")
    sizes = _pair(BLOCK_SIZE)
    mask = create_mask(mask_mod, B, H, Q_LEN, KV_LEN, device)
    fill = [(0, -n % size) for n, size in zip((Q_LEN, KV_LEN), sizes)]
    mask = jnp.pad(mask, [(0, 0), (0, 0), *fill])
    batch, heads, queries, keys = mask.shape
    blocks = mask.reshape(batch, heads, queries // sizes[0], sizes[0], keys // sizes[1], sizes[1])
    seen, whole = blocks.any(axis=(3, 5)), blocks.all(axis=(3, 5))
    full = to_ordered(whole) if separate_full_blocks else (None, None)
    partial = to_ordered(seen & ~whole if separate_full_blocks else seen)
    result = BlockMask.from_kv_blocks(*partial, *full, BLOCK_SIZE=sizes, mask_mod=mask_mod, seq_lengths=(Q_LEN, KV_LEN))
    if compute_dq_write_order:
        result.dq_write_order, result.dq_write_order_full = write_order(result, dq_kv_order)
        result.dq_kv_order_spt = dq_kv_order
    return result
