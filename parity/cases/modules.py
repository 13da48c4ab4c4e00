"""Cases from ``torch.testing._internal.common_modules.module_db``: every input in train and in eval."""

from __future__ import annotations

import copy
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.modules.lazy import LazyModuleMixin

from parity.case import Case, Make
from parity.convert import Taker, noting_construction, to_numpy

SOURCE = "ModuleInfo"


def _database() -> list[Any]:
    from torch.testing._internal.common_modules import module_db

    return list(module_db)


def units() -> list[str]:
    """The names of the classes."""
    return [info.name.removeprefix("nn.") for info in _database()]


def generate(unit: str) -> Iterator[Case]:
    """The cases of one class, then its error inputs."""
    info = next(info for info in _database() if info.name == f"nn.{unit}")
    for training in (True, False):
        mode = "train" if training else "eval"
        with _seeded(f"{unit}{training}"), noting_construction():
            inputs = list(
                info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=training)
            )
            for index, sample in enumerate(inputs):
                case = _case(unit, f"{index:04d}/{mode}", sample, training)
                case.second = info.supports_gradgrad
                case.mode_matters = info.train_and_eval_differ
                yield case
        if info.module_error_inputs_func is None:
            continue
        with _seeded(f"{unit}{training}error"), noting_construction():
            errors = list(
                info.module_error_inputs_func(
                    info, device="cpu", dtype=torch.float32, requires_grad=False, training=training
                )
            )
            for index, error in enumerate(errors):
                yield _error_case(unit, f"error-{index:03d}/{mode}", error, training)


class _seeded:
    """Seeds the databases' own draws from a name, and silences their warnings."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        import random

        seed = zlib.crc32(self._name.encode())
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *exc_info: Any) -> None:
        self._warnings.__exit__(*exc_info)


def _case(unit: str, label: str, sample: Any, training: bool) -> Case:
    take = Taker()
    constructor, call = sample.constructor_input, sample.forward_input
    make = Make(unit, take(constructor.args), take(constructor.kwargs))
    module = getattr(torch.nn, unit)(*constructor.args, **constructor.kwargs)
    args, kwargs = (take(call.args), take(call.kwargs)) if call is not None else ((), {})
    if is_lazy(module) and call is not None:
        with torch.no_grad():
            copy.deepcopy(module)
            module(*call.args, **call.kwargs)
    case = Case(SOURCE, unit, label, make, args, kwargs, take.arrays, training=training)
    case.state = varied_state(module, case)
    return case


def is_lazy(module: torch.nn.Module) -> bool:
    """Whether the module takes its shapes from its first call."""
    return isinstance(module, LazyModuleMixin)


def varied_state(module: torch.nn.Module, case: Case) -> dict[str, np.ndarray]:
    """The module's state, in float32, constant tensors (ones, zeros) made random.

    A layer that ignored a weight of ones or a bias of zeros would pass otherwise. Variances stay positive.
    """
    state = {}
    constant = {name for name, p in module.named_parameters() if p.numel() and bool((p == p.flatten()[0]).all())}
    for name, tensor in module.state_dict().items():
        array = to_numpy(tensor)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        if name in constant or name.rpartition(".")[2] in ("running_mean", "running_var"):
            noise = case.generator(f"state {name}").uniform(0.5, 1.5, array.shape)
            array = (noise if array.min(initial=0) > 0 or array.max(initial=0) > 0 else noise - 1.0).astype(np.float32)
        state[name] = array
    return state


def _error_case(unit: str, label: str, error: Any, training: bool) -> Case:
    from torch.testing._internal.common_modules import ModuleErrorEnum

    take = Taker(exact=True)
    sample = error.module_error_input
    constructor, call = sample.constructor_input, sample.forward_input
    make = Make(unit, take(constructor.args), take(constructor.kwargs))
    args, kwargs = (take(call.args), take(call.kwargs)) if call is not None else ((), {})
    stage = "construction" if error.error_on is ModuleErrorEnum.CONSTRUCTION_ERROR else "call"
    return Case(
        SOURCE,
        unit,
        label,
        make,
        args,
        kwargs,
        take.arrays,
        training=training,
        error=(error.error_type.__name__,),
        error_on=stage,
    )
