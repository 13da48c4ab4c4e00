"""Cases from ``torch.testing._internal.common_nn``: module tests (old and new) and criterion tests."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

from parity.case import Case
from parity.cases.functions import underlying_call
from parity.cases.modules import _seeded, varied_state
from parity.convert import Taker, noting_construction

SOURCE = "common_nn"


def _database() -> dict[str, list[tuple[str, dict[str, Any], bool]]]:
    """Name -> its tests as (label, parameters, whether a criterion)."""
    from torch.testing._internal import common_nn

    found: dict[str, list[tuple[str, dict[str, Any], bool]]] = {}
    with _seeded(SOURCE):
        tests = [(test, False) for test in [*common_nn.module_tests, *common_nn.get_new_module_tests()]]
        tests += [(test, True) for test in common_nn.criterion_tests]
    for index, (test, criterion) in enumerate(tests):
        name = test.get("module_name") or test.get("fullname", "").split("_")[0] or "functional"
        found.setdefault(name, []).append((f"{index:03d}", test, criterion))
    return found


def units() -> list[str]:
    """The names under which the tests stand."""
    return list(_database())


def generate(unit: str) -> Iterator[Case]:
    """The cases of one name."""
    for label, test, criterion in _database()[unit]:
        with _seeded(f"{unit}{label}"), noting_construction():
            yield _case(label, dict(test), criterion)


def _case(label: str, test: dict[str, Any], criterion: bool) -> Case:
    from torch.testing._internal import common_nn
    from torch.testing._internal.common_utils import set_default_dtype

    if "constructor" not in test:
        test["constructor"] = getattr(torch.nn, test.pop("module_name"))
    else:
        test.pop("module_name", None)
    kind = common_nn.CriterionTest if criterion else common_nn.NewModuleTest
    with set_default_dtype(test.get("default_dtype") or torch.float32):
        case = kind(**test)
        module = case.constructor(*case.constructor_args)
        given = case._get_input()
        args = given if isinstance(given, tuple) else (given,)
        if criterion:
            args = (*args, case._get_target(), *case.extra_args)
    args = tuple(_narrow(value) for value in args)
    label = f"{label}-{test['desc']}" if test.get("desc") else label
    take = Taker()
    if type(module).__name__ == "FunctionalModule":
        name, args, kwargs = _functional(module, args)
        result = Case(SOURCE, name, label, None, take(args), take(kwargs), take.arrays)
    else:
        made = take.make(module)
        result = Case(SOURCE, made.name, label, made, take(args), {}, take.arrays)
        result.state = varied_state(copy.deepcopy(module), result)
    result.second = bool(test.get("check_gradgrad", True))
    return result


def _narrow(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        narrower = {torch.float64: torch.float32, torch.complex128: torch.complex64}
        return value.to(narrower.get(value.dtype, value.dtype))
    if isinstance(value, (tuple, list)):
        return type(value)(_narrow(item) for item in value)
    return value


def _functional(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The call that a test made by ``wrap_functional(fn, **kwargs)`` stands for."""
    cells = dict(zip(type(module).forward.__code__.co_freevars, type(module).forward.__closure__ or ()))
    function, kwargs = cells["fn"].cell_contents, cells["kwargs"].cell_contents
    if getattr(torch.nn.functional, function.__name__, None) is function:
        return function.__name__, args, dict(kwargs)
    return underlying_call(function, "", args, kwargs)
