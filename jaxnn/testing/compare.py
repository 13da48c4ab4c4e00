"""Where two models part: the first submodule whose output, gradient or state is not the other's."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxnn.testing.causes import Pair, likely_cause
from jaxnn.testing.trace import Arrays, Call, Trace, check_model, is_torch, record

GATE = 8.0  # times the reference's own float32 error
FLOOR = 2e-5  # or so much, relative to the largest value


@dataclass
class Row:
    """One call beside the other: the largest error relative to the largest true value, ours and the reference's."""

    path: str
    kind: str
    error: float
    own: float
    gradient: float
    own_gradient: float
    note: str = ""

    @property
    def parts(self) -> bool:
        return self.error > max(GATE * self.own, FLOOR) or self.note != ""

    @property
    def gradient_parts(self) -> bool:
        return self.gradient > max(GATE * self.own_gradient, 10 * FLOOR)


@dataclass
class Comparison:
    """What `compare` found.

    Attributes:
        rows: every call, in the order in which calls ended.
        first: the path of the first submodule that parts, None where all agree.
        what: "output", "gradient", "parameter gradient", "state" or "structure".
        error: its error relative to PyTorch in float64.
        cause: the likely cause, one sentence.
        inputs: what the submodule was given.
        reference: the library of the first model, "PyTorch" or "jaxnn".
        has_own: whether the reference's own error is known: of a live PyTorch model, which runs in float64 too.
    """

    rows: list[Row]
    first: str | None = None
    what: str = ""
    error: float = 0.0
    cause: str = ""
    inputs: Arrays | None = None
    reference: str = "PyTorch"
    has_own: bool = True

    @property
    def agrees(self) -> bool:
        return self.first is None

    def __bool__(self) -> bool:
        return self.agrees

    def summary(self) -> str:
        """One or two lines: where the models part, by how much, and why."""
        if self.agrees:
            worst = max((row.error for row in self.rows), default=0.0)
            return f"The models agree in {len(self.rows)} calls; the largest error is {worst:.1e}."
        where = self.first or "(the model)"
        row = next((row for row in self.rows if row.note and row.path == where), None)
        error = row.note if row is not None and math.isinf(self.error) else f"error {self.error:.1e}"
        return f"The models part at {where}: {self.what}, {error}.\n{self.cause}"

    def __str__(self) -> str:
        from jaxnn.testing.report import as_text

        return as_text(self)

    def show(self) -> None:
        """Print the table (through rich where it is installed)."""
        from jaxnn.testing.report import show

        show(self)

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write one self-contained page: the table, and a plot of the error along the depth of the model."""
        from jaxnn.testing.report import as_html

        with open(path, "w", encoding="utf-8") as file:
            file.write(as_html(self))


def compare(reference: Any, model: Any, *inputs: Any, gradients: bool = True, **kwargs: Any) -> Comparison:
    """Run two models on the same input and name the first submodule at which they part.

    Outputs of all submodules are compared in the order of the calls, then gradients, then what the call left in the
    state. Truth is the reference in float64 where it is a PyTorch model; our error is judged against the error of
    PyTorch's own float32: it parts above 8 times that, or 2e-5 of the largest value.

    Args:
        reference: a torch.nn.Module, a jaxnn Module (before a refactor), or a `Trace` of either, whose inputs are used.
        model: the jaxnn Module. Weights are not copied: load them first.
        inputs: arrays or tensors.
        gradients: compare gradients too.
        kwargs: further inputs by name.

    Raises:
        TypeError: what is no model, arguments in the other order, or inputs beside a `Trace`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> from jaxnn.testing import compare
        >>> before, after = nn.GELU(), nn.GELU(approximate="tanh")
        >>> print(compare(before, after, jnp.linspace(-2, 2, 9)).cause.split(":")[0])
        gelu
    """
    if isinstance(reference, (str, os.PathLike)):
        raise TypeError(
            "compare: reference: expected a model or a Trace, got a path: write compare(Trace.load(path), model)"
        )
    if isinstance(model, Trace):
        raise TypeError("compare: model: expected a jaxnn Module, got a Trace: the reference comes first")
    check_model(model)
    if isinstance(reference, Trace) and inputs:
        raise TypeError("compare: inputs: a Trace holds its own: write compare(trace, model)")
    if isinstance(reference, Trace):
        own, truth, inputs = reference, reference, tuple(reference.inputs)
    else:
        own = record(reference, *inputs, gradients=gradients, **kwargs)
        truth = own
        if is_torch(reference):
            truth = record(reference, *inputs, float64=True, gradients=gradients, **kwargs)
    ours = record(model, *inputs, gradients=gradients, **kwargs)
    return compare_traces(truth, own, ours)


def compare_traces(truth: Trace, own: Trace, ours: Trace) -> Comparison:
    """`compare` for runs that are there already; `own` is the reference in its own precision."""
    triples, unmatched = _aligned(truth, own, ours)
    rows = [_row(*triple) for triple in triples]
    result = Comparison(rows, reference=truth.library, has_own=own is not truth)

    def part(at: int, what: str, error: float) -> Comparison:
        reference, _, mine = triples[at]
        result.first, result.what, result.error, result.inputs = mine.path, what, error, mine.inputs
        result.cause = likely_cause(Pair(reference, mine, truth, ours))
        return result

    at = next((at for at, row in enumerate(rows) if row.parts), None)
    if at is not None:
        return part(at, "output", rows[at].error)  # calls end inside out: no part of it parts before it
    if unmatched:
        result.first, result.what = unmatched[0].path, "structure"
        lonely = Pair(unmatched[0], unmatched[0], truth, ours)
        where = lonely.there if any(call is unmatched[0] for call in truth.calls) else "here"
        result.cause = f"structure: {unmatched[0].name} ({unmatched[0].kind}) is called only {where}"
        return result
    # Backwards, the last call is the first to get a gradient.
    at = next((at for at in reversed(range(len(rows))) if rows[at].gradient_parts), None)
    if at is not None:
        return part(at, "gradient", rows[at].gradient)
    # Some gradients are zero but for rounding (a bias before BatchNorm): those are judged by the size of the others.
    floor = 1e-2 * max((float(np.abs(value).max(initial=0)) for value in truth.gradients.values()), default=0.0)
    for name in truth.gradients.keys() & ours.gradients.keys():
        error = relative_error(ours.gradients[name], truth.gradients[name], floor)
        own_error = relative_error(own.gradients[name], truth.gradients[name], floor)
        if error > max(GATE * own_error, 10 * FLOOR):
            return part(_owner(name, triples), f"parameter gradient of {name}", error)
    for name, value in truth.after.items():
        mine = ours.after.get(name)
        if mine is not None and relative_error(mine, value) > 10 * FLOOR:
            return part(_owner(name, triples), f"state after the call: {name}", relative_error(mine, value))
    return result


def _aligned(truth: Trace, own: Trace, ours: Trace) -> tuple[list[tuple[Call, Call, Call]], list[Call]]:
    """Calls of the same path, the n-th with the n-th, in the reference's order; and those that have no partner."""

    def by_place(run: Trace) -> dict[tuple[str, int], Call]:
        seen: dict[str, int] = defaultdict(int)
        places = {}
        for call in run.calls:
            places[call.path, seen[call.path]] = call
            seen[call.path] += 1
        return places

    reference, mine = by_place(truth), by_place(ours)
    own_calls = by_place(own)
    triples = [(call, own_calls[place], mine[place]) for place, call in reference.items() if place in mine]
    lonely = [call for place, call in reference.items() if place not in mine]
    return triples, lonely + [call for place, call in mine.items() if place not in reference]


def _row(truth: Call, own: Call, ours: Call) -> Row:
    note = ""
    errors, owns = [0.0], [0.0]
    for key, value in truth.outputs.items():
        mine = ours.outputs.get(key)
        if mine is None or mine.shape != value.shape:
            note = f"no output {key}" if mine is None else f"shape {mine.shape}, not {value.shape}"
            errors.append(math.inf)
            continue
        errors.append(relative_error(mine, value))
        owns.append(relative_error(own.outputs[key], value))
    gradients, own_gradients = [0.0], [0.0]
    for key in truth.gradients.keys() & ours.gradients.keys() & own.gradients.keys():
        if truth.gradients[key].shape == ours.gradients[key].shape:
            gradients.append(relative_error(ours.gradients[key], truth.gradients[key]))
            own_gradients.append(relative_error(own.gradients[key], truth.gradients[key]))
    return Row(ours.name, ours.kind, max(errors), max(owns), max(gradients), max(own_gradients), note)


def relative_error(value: Any, truth: Any, floor: float = 1e-30) -> float:
    """The largest difference, divided by the largest true value (or `floor`); infinite where just one is NaN."""
    if value.shape != truth.shape:
        return math.inf
    if not truth.size:
        return 0.0
    value, truth = np.asarray(value, np.complex128), np.asarray(truth, np.complex128)
    same = (value == truth) | (np.isnan(value) & np.isnan(truth))
    if np.any(np.isnan(value) != np.isnan(truth)):
        return math.inf
    difference = np.max(np.abs(np.where(same, 0, value - truth)))
    finite = np.abs(truth[np.isfinite(truth)])
    return float(difference / max(float(finite.max(initial=0)), floor, 1e-30)) if difference else 0.0


def _owner(name: str, triples: list[tuple[Call, Call, Call]]) -> int:
    """The call of the submodule that a parameter or buffer belongs to."""
    path = name.rpartition(".")[0]
    return next((at for at, (_, _, ours) in enumerate(triples) if ours.path == path), len(triples) - 1)
