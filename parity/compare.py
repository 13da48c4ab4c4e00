"""The error measure and the gate: one definition for live runs, recordings and unit tests.

**Error.** For one tensor, with `truth` PyTorch's float64 result::

    error(result) = max |result - truth| / max |truth|

over the finite elements, where a `truth` that is all zeros is divided by 1. Elements that are infinite or NaN in
`truth` must be so (with the sign) in `result`, and no others; a mismatch is an infinite error. Integer and
boolean results are compared the same way, so one wrong index shows as a large error. A gradient that is zero in
theory (attention's key bias) is pure rounding noise in truth too: the denominator is never below `NOISE` times
the largest number of the tensors of the same kind (outputs, gradients, second derivatives) in the case.

**Gate.** A tensor holds when its error is at most `RATIO` times that of PyTorch's own run at the same precision,
or at most the precision's `FLOOR`. Where PyTorch's own run shows the same infinities and NaNs as ours but not
truth's (float32 overflows, float64 does not), the finite elements are judged.

**Ratio.** For one case: the largest error of ours over its tensors, divided by the largest error of PyTorch's
own, both taken as no smaller than the unit roundoff of the precision (an exact result is as good as one
rounding).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

RATIO = 8.0
NOISE = 1e-7
# Below these an error passes whatever torch's own is: 2e-5 for float32; some four roundings for the short ones.
FLOOR = {
    "float64": 1e-13,
    "float32": 2e-5,
    "bfloat16": 2.0**-6,
    "float16": 2.0**-9,
    # float32 with XLA's "high" and "medium" products: TF32 or three bfloat16 passes, one bfloat16 pass.
    "float32-high": 4e-3,
    "float32-medium": 3e-2,
}
ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "bfloat16": 2.0**-9,
    "float16": 2.0**-12,
    "float32-high": 2.0**-24,
    "float32-medium": 2.0**-24,
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The figures of one tensor of one case.

    Attributes:
        where: what it is: "output 0", "gradient of weight", "second derivative of input", "state running_mean".
        ours: our error, by the measure above; infinite for a wrong shape, dtype or pattern of infinities.
        theirs: PyTorch's own error at the same precision; None where it has no such run.
        held: whether the gate holds.
        note: what is wrong, where it is not a number.
    """

    where: str
    ours: float
    theirs: float | None
    held: bool
    note: str = ""


def widen(array: object) -> np.ndarray:
    """Any array as float64 (complex128 for complex): exact for every dtype of 53 bits or less."""
    array = np.asarray(array)
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def scale_of(truth: Sequence[np.ndarray]) -> float:
    """The largest finite magnitude among `truth`, zero for none."""
    largest = 0.0
    for array in truth:
        magnitude = np.abs(widen(array))
        magnitude = magnitude[np.isfinite(magnitude)]
        if magnitude.size:
            largest = max(largest, float(magnitude.max()))
    return largest


def error(result: object, truth: object, noise: float = 0.0) -> float:
    """The error of `result`, as the module's docstring defines it.

    Args:
        result: an array of `truth`'s shape.
        truth: PyTorch's float64 result.
        noise: the least denominator, `NOISE` times the largest number of the case's tensors of the same kind.
    """
    result, truth = widen(result), widen(truth)
    if result.shape != truth.shape:
        return math.inf
    if truth.size == 0:
        return 0.0
    finite = np.isfinite(truth)
    if not np.array_equal(finite, np.isfinite(result)) or not _same(result[~finite], truth[~finite]):
        return math.inf
    result, truth = result[finite], truth[finite]
    if truth.size == 0:
        return 0.0
    scale = max(float(np.abs(truth).max()), noise) or 1.0
    return float(np.abs(result - truth).max()) / scale


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b, equal_nan=True))


def judge(
    where: str, ours: object, truth: object, theirs: np.ndarray | float | None, precision: str, noise: float = 0.0
) -> Tensor:
    """Judge one tensor.

    Args:
        where: what the tensor is, for the report.
        ours: our result.
        truth: PyTorch's float64 result.
        theirs: PyTorch's own result at `precision`, or its error where only that was recorded, or None.
        precision: a key of `FLOOR`.
        noise: as in `error`.
    """
    ours, truth = np.asarray(ours), np.asarray(truth)
    if ours.shape != truth.shape:
        return Tensor(where, math.inf, None, False, f"shape {ours.shape}, torch's is {truth.shape}")
    own = error(theirs, truth, noise) if isinstance(theirs, np.ndarray) else theirs
    mine = error(ours, truth, noise)
    if math.isinf(mine) and isinstance(theirs, np.ndarray) and _same(_pattern(ours), _pattern(theirs)):
        keep = np.isfinite(widen(ours)) & np.isfinite(widen(truth))
        mine, own = error(ours[keep], truth[keep], noise), error(theirs[keep], truth[keep], noise)
    allowed = max(FLOOR[precision], RATIO * own if own is not None and math.isfinite(own) else 0.0)
    note = "" if math.isfinite(mine) else "infinities or NaNs where torch has numbers, or numbers where it has them"
    return Tensor(where, mine, own, mine <= allowed, note)


def _pattern(array: object) -> np.ndarray:
    wide = widen(array)
    return np.where(np.isfinite(wide), 0.0, wide)


def ratio(tensors: Sequence[Tensor], precision: str) -> float | None:
    """The case's ratio, as the module's docstring defines it; None where PyTorch has no run of its own."""
    pairs = [(t.ours, t.theirs) for t in tensors if t.theirs is not None]
    if not pairs:
        return None
    unit = ROUNDOFF[precision]
    mine, own = max(max(a for a, _ in pairs), unit), max(max(b for _, b in pairs), unit)
    return math.inf if math.isinf(mine) else mine / own
