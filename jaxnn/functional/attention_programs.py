"""Which program computes attention, by platform, dtype, shape and mask: one table, read where a call is traced.

The first row of a platform that fits is taken, and of those that ``sdpa_kernel`` allows where it is used. Which platform
it is turns out when the program is lowered.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnn.base import modes
from jaxnn.base.dtypes import compute_dtype
from jaxnn.base.splits import Split
from jaxnn.functional import attention_blocks as blocks
from jaxnn.functional import attention_kernels as kernels
from jaxnn.functional import attention_scores as scores
from jaxnn.functional.attention_backends import SDPBackend, allowed_backends
from jaxnn.functional.attention_on_meshes import by_split, layout_of, on_mesh
from jaxnn.functional.attention_scores import Scoring
from jaxnn.lowering.by_platform import WithGradient, by_platform

_NAME = "scaled_dot_product_attention"

PLATFORMS = ("cpu", "tpu", "cuda", "rocm")
_ACCELERATORS = PLATFORMS[1:]
_HALF = ("bfloat16", "float16")
# From so many queries on a program is worth its while that does not hold all scores: on the CPU in linear memory and up
# to three times as fast (``python -m benchmarks.lowerings --only attention``).
LONG = 1024
# So many bytes of float32 scores are kept for the gradient where no kernel takes the case: blocks, which compute them again,
# take 1.2 to 1.6 of the cycles.
KEPT = 64 * 2**20
# One block of the kernels.
_SHORTEST = 128


class Case(NamedTuple):
    """What the choice depends on.

    Attributes:
        dtype: of query, key and value.
        queries: how many there are; None where that is not known yet.
        sizes: number of queries, keys, and the widths of keys and values; None where any size is not known yet.
        groups: query heads for each head of keys.
        same_heads: keys and values have equally many.
        scores: bytes that all of them take in the dtype they are computed in; None where any size is not known yet.
        masks: "keys" for a boolean mask that is the same for all heads and queries, "boolean" and "added" for others.
        causal: query `l` sees the keys up to `l + causal`; None for no such mask.
        dropout: whether weights are dropped.
        plain: scale, offset and rows without keys are as everywhere: numbers, and zeros.
        portable: the program goes into a file, and so may call only what JAX promises to keep the form of.
    """

    dtype: str
    queries: int | None
    sizes: tuple[int, int, int, int] | None
    groups: int
    same_heads: bool
    scores: int | None
    masks: frozenset[str]
    causal: int | None
    dropout: bool
    plain: bool
    portable: bool = False


# -- The programs: functions of query, key, value, the scoring's arrays and the rest of it (see `_scoring`) --------------


def _scoring(arrays: Any, tree: Any, static: tuple[Any, ...]) -> Scoring:
    feed = iter(arrays)
    return jax.tree.unflatten(tree, [next(feed) if leaf is None else leaf for leaf in static])


def _run(function: Callable[..., Any], *args: Any) -> Any:
    query, key, value, *arrays, tree, static, precision = args
    with modes.float32_matmul_precision(precision):
        return function(query, key, value, _scoring(arrays, tree, static))


def _at_once(*args: Any) -> tuple[Any]:
    return (_run(scores.attend_at_once, *args)[0],)


def _twice(*args: Any) -> tuple[Any]:
    """A product with a single row XLA makes a sum of products, which leaves the TPU's matrix unit idle; not of two rows."""

    def run(query: Any, key: Any, value: Any, scoring: Scoring) -> Any:
        both = jnp.concatenate([query, query], axis=-2)
        return scores.attend_at_once(both, key, value, scoring)[0][..., :1, :]

    return (_run(run, *args),)


def _by_query_blocks(*args: Any) -> tuple[Any]:
    return (_run(scores.attend_by_query_blocks, *args),)


@dataclasses.dataclass(frozen=True)
class _Gradient:
    """What `WithGradient` asks for, of a function that gives the cotangents of query, key, value and of `wanted` masks."""

    function: Callable[..., Any]

    def __call__(
        self, operands: Any, results: Any, saved: Any, cotangents: Any, wanted: Any, *options: Any
    ) -> tuple[Any, ...]:
        def gradient(query: Any, key: Any, value: Any, scoring: Scoring) -> Any:
            of_masks = tuple(wanted[3 : 3 + len(scoring.masks)])
            return self.function(query, key, value, scoring, results[0], saved[0], cotangents[0], of_masks)

        made = _run(gradient, *operands, *options)
        return tuple(x for x, want in zip(made, wanted) if want)


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Blocks on the way forward (`gradient` False) and on the way back."""

    cut: blocks.Cut
    gradient: bool = False
    saving: bool = False

    def __call__(self, *args: Any) -> Any:
        if self.gradient:
            query, key, value, scoring, _, total, cotangent, wanted = args
            return blocks.gradient_by_blocks(query, key, value, scoring, total, cotangent, wanted, self.cut)
        return _run(lambda *four: blocks.attend_by_blocks(*four, cut=self.cut, saving=self.saving), *args)


def _by_blocks(cut: blocks.Cut, divided: WithGradient | None = None) -> WithGradient:
    run = _Blocks(cut)
    return WithGradient(run, _Blocks(cut, saving=True), _Gradient(_Blocks(cut, gradient=True)), run, divided=divided)


def _splash(*args: Any) -> tuple[Any]:
    return (_run(kernels.splash_output, *args),)


def _splash_saving(*args: Any) -> tuple[Any, Any]:
    return _run(kernels.splash, *args)


def _splash_gradient(*args: Any) -> tuple[Any, ...]:
    *operands, wanted = args
    return (*kernels.splash_gradient(*operands), *[None] * len(wanted))


def _cudnn(*args: Any) -> tuple[Any]:
    return (_run(kernels.cudnn, *args)[0],)


def _cudnn_saving(*args: Any) -> tuple[Any, Any]:
    return _run(kernels.cudnn, *args)


WHOLE = _by_blocks("nothing")
BLOCKS_OF_QUERIES = _by_blocks("queries")
BLOCKS = _by_blocks("all", BLOCKS_OF_QUERIES)
SPLASH = WithGradient(_splash, _splash_saving, _Gradient(_splash_gradient), BLOCKS.run, divided=BLOCKS_OF_QUERIES)
CUDNN = WithGradient(_cudnn, _cudnn_saving, _Gradient(kernels.cudnn_gradient), BLOCKS.run, divided=BLOCKS_OF_QUERIES)


@dataclasses.dataclass(frozen=True)
class _Refused:
    """In place of a program on a platform where none of those that ``sdpa_kernel`` allows can run."""

    why: str

    def __call__(self, *_: Any) -> Any:
        raise RuntimeError(f"{_NAME}: sdpa_kernel: {self.why}")


# -- The table -----------------------------------------------------------------------------------------------------------


def _short(case: Case) -> str:
    return "" if case.queries is None or case.queries < LONG else f"it takes fewer than {LONG:,} queries"


def _one_over_many(case: Case) -> str:
    if case.sizes is None or not case.plain or case.dropout:
        return "it takes known sizes, a scale that is a number and no dropout"
    if case.sizes[0] * case.groups > 1 or case.sizes[1] < LONG:
        return f"it takes one query for each head of {LONG:,} keys and more"
    return ""


def _narrow_or_short(case: Case) -> str:
    if case.sizes is None or not case.plain:
        return ""
    if case.dtype in _HALF and case.sizes[0] >= _SHORTEST:
        few = case.scores is not None and case.scores <= KEPT
        return (
            _short(case)
            if few
            else f"with 16 bit it takes fewer than {_SHORTEST} queries, or scores of {KEPT >> 20} MiB in all"
        )
    return _short(case)


def _fits_kernels(case: Case) -> str:
    """What both kernels ask for."""
    if case.sizes is None:
        return "it takes sizes that are known when it is traced"
    if not case.plain:
        return "it takes a scale that is a number"
    if case.dropout:
        return "it has no dropout of weights (cuDNN's, through JAX, would drop the same ones in every step)"
    if not case.same_heads:
        return "it takes as many heads of values as of keys"
    if min(case.sizes[:2]) < _SHORTEST:
        return f"it takes {_SHORTEST} queries and keys at least"
    return ""


def _fits_splash(case: Case) -> str:
    if case.dtype not in ("bfloat16", "float32"):
        return "it takes bfloat16 and float32"
    if why := _fits_kernels(case):
        return why
    if case.masks - {"keys"}:
        return "it takes a causal mask and boolean masks of keys"
    if case.sizes and max(case.sizes[2:]) > 256:
        return "it takes widths up to 256, whose blocks fit the chip's own memory"
    if case.dtype == "float32" and _short(case) == "":
        return f"it takes float32 from {LONG:,} queries on"
    return ""


def _fits_cudnn(case: Case) -> str:
    if case.portable:
        return "is no part of a file: JAX does not promise to keep the form of its call"
    if case.dtype not in _HALF:
        return "it takes bfloat16 and float16"
    if (why := _fits_kernels(case)) or case.sizes is None:
        return why
    queries, keys, width, value_width = case.sizes
    if width != value_width or width > 128 or width % 8:
        return "it takes equal widths of keys and values, multiples of 8 up to 128"
    if (case.masks or case.causal) and (queries % 2 or keys % 2):
        return "with a mask it takes even numbers of queries and keys"
    return ""


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        platforms: where.
        backends: the names that ``sdpa_kernel`` knows it by.
        title: what users call it.
        program: a function or `WithGradient`, for ``by_platform``.
        refuses: why it does not take a case, "" where it does.
        when: what it takes, in words.
        why: the reason for it.
    """

    platforms: tuple[str, ...]
    backends: tuple[SDPBackend, ...]
    title: str
    program: Any
    refuses: Callable[[Case], str]
    when: str
    why: str


_MATH, _FLASH = SDPBackend.MATH, SDPBackend.FLASH_ATTENTION
_EFFICIENT, _CUDNN = SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION

TABLE = (
    Row(
        ("cpu",),
        (_MATH,),
        "all scores at once",
        _at_once,
        _short,
        f"fewer than {LONG:,} queries, or a number of them that is not known yet",
        "the scores fit the caches, and nothing is computed twice",
    ),
    Row(
        ("cpu",),
        (_FLASH, _EFFICIENT),
        "blocks of 256 queries",
        _by_query_blocks,
        lambda case: "it takes a number of queries that is known when it is traced" if case.queries is None else "",
        f"{LONG:,} queries and more",
        "linear memory, and up to three times as fast; scores are computed anew for the gradient",
    ),
    Row(
        ("tpu",),
        (_FLASH,),
        "splash attention (Pallas)",
        SPLASH,
        _fits_splash,
        f"bfloat16, and float32 from {LONG:,} queries on; {_SHORTEST} queries and keys at least; widths up to 256; causal masks "
        "and boolean masks of keys; grouped heads; no dropout; one device, inside `shard_map`, or a known split",
        "scores never leave the chip's own memory, and blocks that a causal mask hides are left out",
    ),
    Row(
        ("tpu",),
        (_MATH,),
        "all scores at once, each query twice",
        _twice,
        _one_over_many,
        f"one query for each head of {LONG:,} keys and more: decoding with a long cache",
        "the matrix unit takes two rows and more; under half the cycles",
    ),
    Row(
        ("cuda",),
        (_FLASH, _CUDNN),
        "cuDNN's flash attention",
        CUDNN,
        _fits_cudnn,
        f"bfloat16 and float16; {_SHORTEST} queries and keys at least; widths in multiples of 8 up to 128; any mask; "
        "grouped heads; no dropout; one device, inside `shard_map`, or a known split",
        "scores never leave the chip's own memory; float32 has no such kernel",
    ),
    Row(
        _ACCELERATORS,
        (_MATH,),
        "all scores at once",
        _at_once,
        _narrow_or_short,
        f"fewer than {LONG:,} queries; of 16 bit also fewer than {_SHORTEST}, or scores that take at most {KEPT >> 20} MiB in "
        "float32; one query over a long cache; a scale that is an array; sizes not known yet",
        "the scores are small, or nothing else takes the case",
    ),
    Row(
        _ACCELERATORS,
        (_EFFICIENT,),
        "blocks of heads and queries",
        BLOCKS,
        lambda case: (
            "" if case.sizes is not None and case.plain else "it takes known sizes and a scale that is a number"
        ),
        "everything else: added masks, masks of queries, dropout, float32 on a GPU, programs that XLA divides among "
        "devices by a split that is not known",
        f"{blocks.BUDGET // 2**20} MiB of scores at a time; products on the way back take the operands' dtype",
    ),
)


def choose(platform: str, case: Case, allowed: tuple[SDPBackend, ...] | None) -> Any:
    """The program for a platform; `allowed`: in the order of preference that ``sdpa_kernel`` was given, or None."""
    rows = [row for row in TABLE if platform in row.platforms]
    if allowed is None:
        return next(row.program for row in rows if not row.refuses(case))
    reasons = []
    for backend in allowed:
        for row in rows:
            if backend in row.backends and not row.refuses(case):
                return row.program
        if backend == _MATH:
            return WHOLE if platform != "cpu" and case.dtype in _HALF and case.plain and case.sizes else _at_once
        reasons.append(f"{backend.name} {_reason(rows, backend, platform, case)}")
    return _Refused(f"expected a backend that can run, {'; '.join(reasons)}. Allow another, such as MATH")


def _program(platform: str, case: Case, allowed: tuple[SDPBackend, ...] | None) -> Any:
    """As `choose`, and what stands in where the program goes into a file."""
    program = choose(platform, case, allowed)
    if program is not CUDNN:
        return program
    return dataclasses.replace(CUDNN, portable=choose(platform, case._replace(portable=True), allowed))


def _divided(program: Any, layout: Any) -> Any:
    """A program, with itself on each device's part in place of what XLA can divide among devices."""
    if not isinstance(program, WithGradient) or program.divided is None:
        return program
    portable = program.portable and _divided(program.portable, layout)
    return dataclasses.replace(program, divided=on_mesh(program, layout), portable=portable)


def _reason(rows: list[Row], backend: SDPBackend, platform: str, case: Case) -> str:
    named = [row for row in rows if backend in row.backends]
    if not named:
        return f"has no program on {platform}"
    return f"({named[0].title}) cannot run here: {named[0].refuses(case)}"


def case_of(query: Any, key: Any, value: Any, scoring: Scoring) -> Case:
    """What the table is asked."""
    sizes = query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1]
    shapes = (*query.shape, *key.shape, *value.shape)
    known = all(isinstance(size, int) and size > 0 for size in shapes)
    masks = frozenset(
        "keys" if kernels.masks_keys(mask) else "boolean" if mask.dtype == jnp.bool_ else "added"
        for mask in scoring.masks
    )
    numbers = not isinstance(scoring.scale, jax.Array) and (scoring.causal is None or isinstance(scoring.causal, int))
    return Case(
        str(query.dtype),
        query.shape[-2] if isinstance(query.shape[-2], int) else None,
        sizes if known else None,
        query.shape[-3] // key.shape[-3] if known and query.ndim > 2 else 1,
        key.shape[:-2] == value.shape[:-2],
        math.prod(query.shape[:-1]) * sizes[1] * compute_dtype(query.dtype).itemsize if known else None,
        masks,
        scoring.causal,
        scoring.dropout_p > 0,
        numbers and scoring.zero_empty_rows,
    )


def attend(query: Any, key: Any, value: Any, scoring: Scoring) -> Any:
    """The attended values, by the table's programs. Batch dimensions are equal, or heads a multiple (grouped).

    Args:
        query: (..., H, L, E), or (..., L, E).
        key: (..., H or a divisor, S, E).
        value: (..., H or a divisor, S, Ev).
        scoring: the masks, scale and dropout.
    """
    case, allowed = case_of(query, key, value, scoring), allowed_backends()
    programs = {platform: _program(platform, case, allowed) for platform in PLATFORMS}
    if all(program is _at_once for program in programs.values()):
        return scores.attend_at_once(query, key, value, scoring)[0]
    leaves, tree = jax.tree.flatten(scoring)
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    static = tuple(None if isinstance(leaf, jax.Array) else leaf for leaf in leaves)
    options = tree, static, modes.get_float32_matmul_precision()
    default = BLOCKS if any(isinstance(program, WithGradient) for program in programs.values()) else _at_once

    def run(split: Split | None, *operands: Any) -> Any:
        layout = None if case.dropout else layout_of(split, *operands[:3])
        divided = {name: _divided(program, layout) if layout else program for name, program in programs.items()}
        return by_platform(*operands, default=default, options=options, **divided)[0]

    return by_split(run, query, key, value, *arrays)


def as_markdown() -> str:
    """The table for the documentation."""
    lines = ["| on | program | `sdpa_kernel` | takes | because |", "|---|---|---|---|---|"]
    for row in TABLE:
        names = ", ".join(f"`{backend.name}`" for backend in row.backends)
        lines.append(f"| {', '.join(row.platforms)} | {row.title} | {names} | {row.when} | {row.why} |")
    return "\n".join(lines)
