"""PyTorch's side of a run: gives each case its expected values, in float64 and at the precision under test."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import torch

from parity import compare
from parity.case import DRAWS, Case, Expected, is_floating, moments, round_to, rounded
from parity.convert import rebuild, to_numpy, to_torch
from parity.known import known

# Names whose results may be random: these are run under two seeds to see whether they are.
_MAY_DRAW = ("drop", "rrelu", "gumbel", "fractional", "transformer", "attention", "multihead", "rnn", "lstm", "gru")


class NoSuchRun(Exception):
    """PyTorch has no such kernel at this precision."""


def with_truth(case: Case, precision: str = "float32") -> Case:
    """The case rounded to `precision`, with PyTorch's expected values.

    `wrt`, `parameters` and `second` are narrowed to what PyTorch itself can differentiate.

    Raises:
        NoSuchRun: PyTorch fails on the case at float64.
    """
    case = rounded(case, precision)
    case.second = case.second and known("second", case) is None
    if not case.wrt:
        case.wrt = [i for i, array in enumerate(case.arrays) if is_floating(array) and i in _call_slots(case)]
    if case.make is not None and not case.parameters:
        case.parameters = _trainable(case)
    low = getattr(torch, precision.split("-")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.random = _is_random(case, low)
        truth = _narrowing_run(case, precision)
        try:
            own = _run(case, low, precision)
        except (RuntimeError, NotImplementedError):
            own = {}
            case.refused = _refusal(case, low)
    for key, value in truth.items():
        mine = own.get(key)
        array = None if mine is None else to_numpy(mine)
        # Where PyTorch has no kernel at this precision, what it would give.
        dtype = mine.dtype if mine is not None else low if value.is_floating_point() else value.dtype
        case.expected[key] = Expected(to_numpy(value), array, str(dtype).removeprefix("torch."))
    return case


def neighbours(case: Case, precision: str, count: int = 16) -> list[dict[str, Any]]:
    """PyTorch's own results at `precision` for numbers that are each moved by up to a unit in their last place."""
    rng = np.random.default_rng(0)
    unit = 2 * compare.ROUNDOFF[precision]

    def moved(array: np.ndarray) -> np.ndarray:
        wide = array.astype(np.float64) * (1 + rng.uniform(-unit, unit, array.shape))
        return round_to(wide.astype(np.float32), precision) if is_floating(array) else array

    found = []
    for _ in range(count):
        state = {name: moved(array) for name, array in case.state.items()}
        near = dataclasses.replace(case, arrays=[moved(array) for array in case.arrays], state=state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(
                {key: to_numpy(value) for key, value in _run(near, getattr(torch, precision), precision).items()}
            )
    return found


def _refusal(case: Case, low: torch.dtype) -> str:
    """The exception of the call itself at this dtype; "" where only its derivatives fail."""
    try:
        _forward(case, low, grad=False)
    except (RuntimeError, NotImplementedError) as problem:
        return type(problem).__name__
    return ""


def with_draws(case: Case) -> Case:
    """The case with the moments of torch's outputs over `DRAWS` float32 runs under different seeds."""
    draws = []
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for seed in range(DRAWS):
            torch.manual_seed(seed)
            outputs, _, _, _ = _forward(case, torch.float32, False)
            draws.append([to_numpy(output) for output in outputs])
    case.draws = moments(draws)
    return case


def raises(case: Case) -> Exception | None:
    """What PyTorch raises on an error input."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _forward(case, None, False)
        except Exception as problem:  # whatever it is, is the answer
            return problem
    return None


def _call_slots(case: Case) -> set[int]:
    from parity.case import slots

    return set(slots((case.args, case.kwargs)))


def _trainable(case: Case) -> list[str]:
    module = _module(case, [to_torch(a, None) for a in case.arrays], None)
    return [name for name, p in module.named_parameters() if p.requires_grad and p.is_floating_point()]


def _module(case: Case, tensors: list[torch.Tensor], dtype: torch.dtype | None) -> torch.nn.Module:
    module = rebuild(case.make, tensors)
    if dtype is not None:
        module = module.to(dtype)
    if case.state:
        module.load_state_dict({name: to_torch(array, dtype) for name, array in case.state.items()})
    if dtype is not None:
        module = module.to(dtype)
    return module.train(case.training)


def flatten(result: Any) -> list[torch.Tensor]:
    """The tensors in a result, in order; a PackedSequence is its data and its batch sizes."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, dict):
        return [leaf for key in result for leaf in flatten(result[key])]
    if isinstance(result, (tuple, list)):
        return [leaf for item in result for leaf in flatten(item)]
    return []


def _forward(case: Case, dtype: torch.dtype | None, grad: bool) -> Any:
    tensors = [to_torch(array, dtype) for array in case.arrays]
    leaves = {i: tensors[i].requires_grad_(True) for i in case.wrt} if grad else {}
    # In-place options are refused on leaves, and must not change the next run's inputs.
    feed = [tensor.clone() if i in leaves else tensor for i, tensor in enumerate(tensors)]
    args, kwargs = rebuild(case.args, feed), rebuild(case.kwargs, feed)
    module = None
    if case.make is not None:
        module = _module(case, feed, dtype)
        result = module(*args, **kwargs)
    else:
        result = getattr(torch.nn.functional, case.name)(*args, **kwargs)
    return flatten(result), leaves, module, feed


def _is_random(case: Case, low: torch.dtype) -> bool:
    if not any(word in case.name.lower() for word in _MAY_DRAW):
        return False
    first: list[torch.Tensor] = []
    # Another seed often places the few windows of a fractional pooling the same way; dropout never comes out the same.
    for seed in range(24 if "fractional" in case.name.lower() else 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            try:
                outputs = _forward(case, torch.float32, False)[0]
            except (RuntimeError, NotImplementedError):
                return False
        first = first or outputs
        if any(not torch.equal(a, b) for a, b in zip(first, outputs) if not a.isnan().any()):
            return True
    return False


def _narrowing_run(case: Case, precision: str) -> dict[str, torch.Tensor]:
    """The float64 run, giving up in turn second derivatives, all inputs but the first, and gradients."""
    attempts = [
        (case.wrt, case.parameters, case.second),
        (case.wrt, case.parameters, False),
        (case.wrt[:1], case.parameters, case.second),
        (case.wrt[:1], case.parameters, False),
        ([], case.parameters, False),
        ([], [], False),
    ]
    problem: Exception | None = None
    for case.wrt, case.parameters, case.second in attempts:
        try:
            return _run(case, torch.float64, precision, narrow=True)
        except (RuntimeError, NotImplementedError) as failure:
            problem = problem or failure
    raise NoSuchRun(f"{type(problem).__name__}: {problem}")


def _run(case: Case, dtype: torch.dtype, precision: str, narrow: bool = False) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    wanted = bool(case.wrt or case.parameters)
    outputs, leaves, module, _ = _forward(case, dtype, wanted)
    found = {f"output {i}": output for i, output in enumerate(outputs)}
    if module is not None:
        found |= _changed_state(case, module, dtype)
    live = {key: output for key, output in found.items() if key.startswith("output") and output.requires_grad}
    if not wanted or not live or case.random:
        if narrow:
            case.wrt, case.parameters, case.second = [], [], False
        return found
    named = dict(module.named_parameters()) if module is not None else {}
    points = {f"input {i}": leaf for i, leaf in leaves.items()}
    points |= {name: named[name] for name in case.parameters}
    weights = [_weight(case, key, output, precision) for key, output in live.items()]
    first = torch.autograd.grad(
        list(live.values()), list(points.values()), weights, create_graph=case.second, allow_unused=True
    )
    gradients = {name: g.to_dense() if g.is_sparse else g for name, g in zip(points, first) if g is not None}
    if narrow:
        case.wrt = [i for i in case.wrt if f"input {i}" in gradients]
        case.parameters = [name for name in case.parameters if name in gradients]
    found |= {f"gradient of {name}": g for name, g in gradients.items()}
    if case.second:
        inputs = {name: points[name] for name in gradients}
        sources = {name: g for name, g in gradients.items() if g.requires_grad}
        along = [_weight(case, f"direction of {name}", g, precision) for name, g in sources.items()]
        result: tuple[Any, ...] = (None,) * len(inputs)
        if sources:
            result = torch.autograd.grad(list(sources.values()), list(inputs.values()), along, allow_unused=True)
        seconds = [torch.zeros_like(point) if h is None else h for point, h in zip(inputs.values(), result)]
        if narrow and not any(map(torch.any, seconds)) and not case.checks_zeros:
            case.second = False
            return found
        found |= {f"second derivative of {name}": h for name, h in zip(inputs, seconds)}
    return found


def _weight(case: Case, where: str, like: torch.Tensor, precision: str) -> torch.Tensor:
    return to_torch(case.weight(where, tuple(like.shape), precision), None).to(like.dtype)


def _changed_state(case: Case, module: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    changed = {}
    for name, value in module.state_dict().items():
        before = case.state.get(name)
        if before is not None and not torch.equal(value, to_torch(before, dtype)):
            changed[f"state {name}"] = value
    return changed
