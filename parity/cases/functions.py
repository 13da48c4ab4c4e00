"""Cases from ``common_methods_invocations.op_db``: every ``nn.functional.*`` and its variants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from parity.case import Case
from parity.cases.modules import _seeded
from parity.convert import Taker, noting_calls

SOURCE = "OpInfo"
# In torch.nn.functional too, but under torch's name in the database; counted as our own cases.
ALSO = ("softmax", "log_softmax", "tanh", "sigmoid")


def _database() -> dict[str, Any]:
    from torch.testing._internal.common_methods_invocations import op_db

    found = {}
    for info in op_db:
        if info.name.startswith("nn.functional.") or info.name in ALSO:
            variant = f".{info.variant_test_name}" if info.variant_test_name else ""
            found[info.name.removeprefix("nn.functional.") + variant] = info
    return found


def units() -> list[str]:
    """The names of the functions, with the variant after a dot."""
    return [unit for unit in _database() if unit.split(".")[0] not in ALSO]


def own_units() -> list[str]:
    """Those of `units` that the database does not file under nn.functional."""
    return [unit for unit in _database() if unit.split(".")[0] in ALSO]


def generate(unit: str) -> Iterator[Case]:
    """The cases of one function, then its error inputs."""
    info = _database()[unit]
    source = "own" if info.name in ALSO else SOURCE
    with _seeded(unit):
        takes = info.dtypes | info.dtypesIfCUDA  # a variant of one kernel may name the dtypes of CUDA only
        dtype = next(d for d in (torch.float32, torch.complex64, torch.int64) if d in takes)
        for index, sample in enumerate(info.sample_inputs("cpu", dtype, requires_grad=False)):
            case = case_of(source, unit, f"{index:04d}", info.op, (sample.input, *sample.args), sample.kwargs)
            case.second = info.supports_gradgrad
            yield case
    if info.error_inputs_func is None:
        return
    with _seeded(f"{unit}error"):
        for index, error in enumerate(info.error_inputs("cpu")):
            sample = error.sample_input
            case = case_of(
                source, unit, f"error-{index:03d}", info.op, (sample.input, *sample.args), sample.kwargs, exact=True
            )
            types = error.error_type if isinstance(error.error_type, tuple) else (error.error_type,)
            case.error = tuple(kind.__name__ for kind in types)
            yield case


def case_of(
    source: str,
    unit: str,
    label: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    exact: bool = False,
) -> Case:
    """The case of ``function(*args, **kwargs)``, told as the call of ``torch.nn.functional`` that it makes."""
    name, args, kwargs = underlying_call(function, unit.split(".")[0], args, kwargs)
    take = Taker(exact)
    variant = unit.partition(".")[2]
    label = f"{variant}/{label}" if variant else label
    return Case(source, name, label, None, take(args), take(kwargs), take.arrays)


def underlying_call(
    function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The one call of ``torch.nn.functional`` that `function`, itself or a wrapper around one, makes."""
    if getattr(torch.nn.functional, name, None) is function or name in ALSO:
        return name, tuple(args), dict(kwargs)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    with noting_calls(calls), torch.no_grad():
        try:
            function(*args, **kwargs)
        except Exception:  # an error input: the call was noted before it failed
            if not calls:
                raise
    return calls[0] if calls else (name, tuple(args), dict(kwargs))
