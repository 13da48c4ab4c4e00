"""`emulate`: a function on the CPU with the products of a TPU or GPU, to see what error its user gets.

A TPU multiplies bfloat16 matrices, and a GPU's tensor cores multiply TF32. A product of float32 is there a sum of
products of parts: each operand is split into numbers of few bits, and the largest of the parts' products are added in
float32. That is done here to every product and convolution of a program, forward and backward alike, by evaluating its
jaxpr with other rules for them. All else is float32 as on the CPU: exp and tanh of the device are not emulated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnn import _compat
from jaxnn.base.checks import fail
from jaxnn.core.lift import Call
from jaxnn.lowering.evaluating import Evaluation, holds
from jaxnn.transforms.signature import wraps

P = ParamSpec("P")
R = TypeVar("R")


class Passes(NamedTuple):
    """How a product of float32 is computed: the operands' parts, of `bits` of mantissa each, and which are multiplied."""

    bits: int
    products: tuple[tuple[int, int], ...]

    @property
    def parts(self) -> int:
        return 1 + max(left for left, _ in self.products)


# The smallest are added first. Parts beyond these products are below the last bit of float32.
_ONE = ((0, 0),)
_THREE = ((1, 0), (0, 1), (0, 0))
_SIX = ((2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0))
_BFLOAT16, _TF32 = 7, 10
_HIGHEST, _HIGH, _DEFAULT = lax.Precision.HIGHEST, lax.Precision.HIGH, lax.Precision.DEFAULT

# By platform and the precision that a product asks for; None is float32 itself.
_PLATFORMS: dict[str, dict[Any, Passes | None]] = {
    "tpu": {_HIGHEST: Passes(_BFLOAT16, _SIX), _HIGH: Passes(_BFLOAT16, _THREE), _DEFAULT: Passes(_BFLOAT16, _ONE)},
    "cuda": {_HIGHEST: None, _HIGH: Passes(_TF32, _ONE), _DEFAULT: Passes(_TF32, _ONE)},
    "cuda-3xtf32": {_HIGHEST: None, _HIGH: Passes(_TF32, _THREE), _DEFAULT: Passes(_TF32, _ONE)},
}
EMULATED = tuple(_PLATFORMS)

_SPLIT = (np.dtype("float32"), np.dtype("complex64"))


def emulate(fun: Callable[P, R], platform: str) -> Callable[P, R]:
    """`fun` with every float32 product and convolution computed as `platform` computes it, on any machine.

    The precision is what each product asks for, ``nn.set_float32_matmul_precision`` for all of jaxnn's: on a TPU
    "highest" is six products of bfloat16, "high" three, "medium" one; on a GPU "highest" is float32, and the others are TF32.
    Operations with programs of their own for that platform take these. What `fun` changes in its modules is kept.

    It is slow: for tests and for choosing a precision. Gradients are to be taken inside `fun`; ``nn.jit`` goes around it.

    Args:
        fun: a function of arrays and modules: a forward pass, or a whole training step.
        platform: "tpu", "cuda", or "cuda-3xtf32", where "high" is three products of TF32. (XLA has those by
            ``jax.lax.DotAlgorithmPreset``; no setting of jaxnn asks for them.)

    Raises:
        ValueError: another platform.
        RuntimeError: the result is differentiated; the derivative of what is rounded is not what the device computes.
        NotImplementedError: a program with products inside an operation that cannot be opened, such as ``shard_map``.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> nn.set_float32_matmul_precision("medium")
        >>> third = nn.testing.emulate(jnp.dot, "tpu")(jnp.float32(1 / 3), jnp.float32(1.0))
        >>> nn.set_float32_matmul_precision("highest")
        >>> print(third)
        0.33398438
    """
    if platform not in _PLATFORMS:
        fail(ValueError, "nn.testing.emulate", "platform", f"one of {', '.join(EMULATED)}", repr(platform))

    @wraps(fun)
    def emulated(*args: Any, **kwargs: Any) -> Any:
        if _compat.transform_around()[0] == "grad":
            raise RuntimeError(
                "nn.testing.emulate: the derivative of an emulated function is not what the device computes. Take the "
                "gradient inside: nn.testing.emulate(nn.value_and_grad(loss_fn), platform)"
            )
        call = Call(args, kwargs)
        with call.claim, call:
            leaves, treedef = jax.tree.flatten(call.rest)
            traced = [at for at, leaf in enumerate(leaves) if isinstance(leaf, (jax.Array, np.ndarray))]

            def pure(arrays: list[Any], given: Any, key: Any) -> Any:
                whole = list(leaves)
                for at, value in zip(traced, given):
                    whole[at] = value
                return call.run(fun, arrays, key, jax.tree.unflatten(treedef, whole))

            given = [leaves[at] for at in traced]
            out, changes = evaluate(pure, platform)(list(call.leaves), given, call.key)
            return call.finish(out, changes)

    return emulated


def evaluate(fun: Callable[..., Any], platform: str) -> Callable[..., Any]:
    """As `emulate`, for a function of pytrees of arrays that changes nothing."""
    rules = dict.fromkeys(_PRODUCTS, functools.partial(_product, platform=platform))
    return Evaluation(platform.partition("-")[0], rules, _is_product, "nn.testing.emulate")(fun)


def has_products(jaxpr: Any) -> bool:
    """Whether a program multiplies matrices or convolves, at any depth."""
    return holds(jaxpr, _is_product)


_PRODUCTS: tuple[str, ...] = ("dot_general", "conv_general_dilated", "ragged_dot_general")
_OURS = ("jaxnn_convolution", "jaxnn_wide_dot")


def _is_product(equation: Any) -> bool:
    return equation.primitive.name in _PRODUCTS or equation.primitive.name.startswith(_OURS)


def _passes(precision: Any, platform: str) -> Passes | None:
    """How a product of that precision is computed: that of one operand or the other, whichever asks for more."""
    asked = precision if isinstance(precision, tuple) else (precision,)
    if not all(isinstance(one, lax.Precision) or one is None for one in asked):
        return _presets().get(str(asked[0]).rpartition(".")[2])
    table = _PLATFORMS[platform]
    return next((table[one] for one in (_HIGHEST, _HIGH) if one in asked), table[_DEFAULT])


@functools.cache
def _presets() -> dict[str, Passes]:
    """What ``jax.lax.DotAlgorithmPreset`` asks for by name; all others keep float32."""
    counts = {"": _ONE, "_X3": _THREE, "_X6": _SIX}
    kinds = {"BF16_BF16_F32": _BFLOAT16, "TF32_TF32_F32": _TF32}
    return {kind + count: Passes(bits, products) for kind, bits in kinds.items() for count, products in counts.items()}


def _split(operand: Any, passes: Passes) -> list[Any]:
    """`operand` as parts that add up to it, each rounded to nearest even; an infinity is the first alone."""
    if operand.dtype == np.dtype("complex64"):
        both = zip(_split(lax.real(operand), passes), _split(lax.imag(operand), passes))
        return [lax.complex(real, imaginary) for real, imaginary in both]
    parts, rest = [], operand
    for _ in range(passes.parts):
        part = lax.reduce_precision(rest, 8, passes.bits)
        parts.append(part)
        rest = jnp.where(jnp.isfinite(part), rest - part, jnp.zeros_like(rest))
    return parts


def _product(equation: Any, operands: list[Any], *, platform: str) -> Any:
    """A bilinear operation, the sum of its passes. What follows the two operands (the sizes of groups) goes to each."""
    left, right, *others = operands
    params, bind = equation.params, equation.primitive.bind
    passes = _passes(params["precision"], platform)
    if passes is None or left.dtype not in _SPLIT or right.dtype not in _SPLIT:
        return bind(*operands, **params)
    ragged = equation.primitive.name == "ragged_dot_general"
    params = params | {"precision": _HIGHEST if ragged else (_HIGHEST, _HIGHEST)}
    lefts, rights = _split(left, passes), _split(right, passes)
    *small, first = [bind(lefts[i], rights[j], *others, **params) for i, j in passes.products]
    if not small:
        return first
    rest = functools.reduce(lax.add, small)
    return first + jnp.where(jnp.isnan(rest), 0, rest)  # an infinity times a part that is 0; XLA does the same
