"""Matrix products in the precision that `nn.set_float32_matmul_precision` asks for."""

from __future__ import annotations

from typing import Any

from jax import lax

from jaxnn.base import modes


def dot_general(left: Any, right: Any, dimension_numbers: Any, preferred: Any = None, precision: Any = None) -> Any:
    """``lax.dot_general``. Every matrix product of jaxnn.

    `preferred`: the dtype of the sums and of the result; None for the operands'.
    `precision`: None for that of `nn.set_float32_matmul_precision`.
    """
    precision = modes.matmul_precision() if precision is None else precision
    return lax.dot_general(left, right, dimension_numbers, precision, preferred)
