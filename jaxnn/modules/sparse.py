"""Tables of learned vectors: Embedding and EmbeddingBag."""

from __future__ import annotations

from typing import Any

import jax

from jaxnn import init
from jaxnn.base.checks import as_int, as_ints, fail
from jaxnn.base.dtypes import describe
from jaxnn.base.meta import MetaArray
from jaxnn.base.types import Device, DType
from jaxnn.boxes.parameter import Parameter, empty
from jaxnn.core.module import Module
from jaxnn.functional.embedding_bag import embedding_bag
from jaxnn.functional.sparse import embedding


class _Table(Module):
    """What both tables share: the weight, its initialisation, and the row for padding."""

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    weight: jax.Array

    def _padding_row(self, padding_idx: int | None) -> int | None:
        """`padding_idx` counted from the front (AssertionError out of range)."""
        if padding_idx is None:
            return None
        name, rows = type(self).__name__, self.num_embeddings
        padding_idx = as_int(name, "padding_idx", padding_idx)
        if padding_idx == 0:  # also of a table without rows
            return 0
        if not -rows <= padding_idx < rows:
            expected = f"a row from {-rows} to {rows - 1}"
            fail(AssertionError, name, "padding_idx", expected, str(padding_idx))
        return padding_idx % rows

    def _make_weight(self, weight: Any, freeze: bool, device: Device | None, dtype: DType | None) -> None:
        shape = (self.num_embeddings, self.embedding_dim)
        if weight is None:
            self.weight = Parameter(empty(shape, dtype=dtype, device=device), requires_grad=not freeze)
            self.reset_parameters()
            return
        if tuple(weight.shape) != shape:
            fail(AssertionError, type(self).__name__, "_weight", f"shape {shape}", describe(weight))
        self.weight = Parameter(weight, requires_grad=not freeze)

    def reset_parameters(self) -> None:
        """Draw the table anew from N(0, 1); the padding row is zero."""
        init.normal_(self.weight)
        self._fill_padding_idx_with_zero()

    def _fill_padding_idx_with_zero(self) -> None:
        if self.padding_idx is not None and not isinstance(self.weight, MetaArray):
            self.weight = self.weight.at[self.padding_idx].set(0)


def _check_pretrained(name: str, embeddings: Any) -> tuple[int, int]:
    if len(embeddings.shape) != 2:
        fail(AssertionError, name, "embeddings", "a 2D array", describe(embeddings))
    return embeddings.shape


class Embedding(_Table):
    """A table of `num_embeddings` vectors, looked up by index.

    ``weight`` (num_embeddings, embedding_dim) is drawn from N(0, 1).

    Args:
        num_embeddings: number of rows.
        embedding_dim: size of each row.
        padding_idx: a row that starts at zero and gets no gradient; negative counts from the end.
        max_norm: scale the rows used down to this norm at each call, in the parameter itself.
        norm_type: the p of that norm; 2 by default.
        scale_grad_by_freq: divide each index's gradient by how often it occurs in the call.
        sparse: accepted; gradients are dense arrays.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: its dtype; float32 by default.

    Shape:
        int indices (*) to (*, embedding_dim).

    Raises:
        IndexError: an index out of range, when called in eager mode; inside a transform its row is NaN.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Embedding(10, 3)(jnp.array([[1, 2, 4, 5], [4, 3, 2, 9]])).shape)
        (2, 4, 3)

    Follows ``torch.nn.Embedding``; the maths is ``functional.embedding``.
    """

    __constants__ = [
        "num_embeddings",
        "embedding_dim",
        "padding_idx",
        "max_norm",
        "norm_type",
        "scale_grad_by_freq",
        "sparse",
    ]

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Any = None,
        _freeze: bool = False,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = as_ints(
            type(self).__name__, num_embeddings=num_embeddings, embedding_dim=embedding_dim
        )
        self.padding_idx = self._padding_row(padding_idx)
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self._make_weight(_weight, _freeze, device, dtype)
        self.sparse = sparse

    def forward(self, input: jax.Array) -> jax.Array:
        return embedding(
            input,
            self.weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq is not False:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq}"
        return text + (", sparse=True" if self.sparse is not False else "")

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Embedding:
        """A layer over a given table (num_embeddings, embedding_dim), not trained unless ``freeze=False``."""
        rows, columns = _check_pretrained("Embedding.from_pretrained", embeddings)
        return cls(
            num_embeddings=rows,
            embedding_dim=columns,
            _weight=embeddings,
            _freeze=freeze,
            padding_idx=padding_idx,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            sparse=sparse,
        )


class EmbeddingBag(_Table):
    """The sum, mean or maximum of the rows that each bag of indices names.

    ``weight`` (num_embeddings, embedding_dim) is drawn from N(0, 1).

    Args:
        num_embeddings: number of rows.
        embedding_dim: size of each row.
        max_norm: scale the rows used down to this norm at each call, in the parameter itself.
        norm_type: the p of that norm; 2 by default.
        scale_grad_by_freq: divide each index's gradient by how often it occurs; not for "max".
        mode: "mean" (default), "sum" or "max".
        sparse: accepted; gradients are dense arrays.
        include_last_offset: `offsets` has one number more, the end of the last bag.
        padding_idx: a row that counts for nothing in its bag; negative counts from the end.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: its dtype; float32 by default.

    Shape:
        int indices (B, N), or (L) with offsets (B), to (B, embedding_dim).

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> layer = nn.EmbeddingBag(10, 3, mode="sum")
        >>> print(layer(jnp.array([1, 2, 4, 5, 4]), jnp.array([0, 3])).shape)
        (2, 3)

    Follows ``torch.nn.EmbeddingBag``; the maths is ``functional.embedding_bag``.
    """

    __constants__ = [
        "num_embeddings",
        "embedding_dim",
        "max_norm",
        "norm_type",
        "scale_grad_by_freq",
        "mode",
        "sparse",
        "include_last_offset",
        "padding_idx",
    ]

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Any = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Device | None = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = as_ints(
            type(self).__name__, num_embeddings=num_embeddings, embedding_dim=embedding_dim
        )
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.padding_idx = self._padding_row(padding_idx)
        self._make_weight(_weight, False, device, dtype)
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset

    def forward(
        self, input: jax.Array, offsets: jax.Array | None = None, per_sample_weights: jax.Array | None = None
    ) -> jax.Array:
        return embedding_bag(
            input,
            self.weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq is not False:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq}"
        text += f", mode={self.mode!r}"
        return text + (f", padding_idx={self.padding_idx}" if self.padding_idx is not None else "")

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Any,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """A layer over a given table (num_embeddings, embedding_dim), not trained unless ``freeze=False``."""
        rows, columns = _check_pretrained("EmbeddingBag.from_pretrained", embeddings)
        layer = cls(
            num_embeddings=rows,
            embedding_dim=columns,
            _weight=embeddings,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            mode=mode,
            sparse=sparse,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
        )
        for parameter in layer.parameters():
            parameter.requires_grad = not freeze
        return layer
