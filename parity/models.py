"""``python -m parity compare``: two models by name, or a recording and a model."""

from __future__ import annotations

import argparse
import importlib
import pathlib
import sys
from typing import Any

from jaxnn.testing import Trace, compare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", help="package.module:function giving the PyTorch model, or a recording (.pt)")
    parser.add_argument("model", help="package.module:function giving the jaxnn model")
    parser.add_argument("--inputs", help="package.module:function giving one input or a tuple; a recording has its own")
    parser.add_argument("--copy-weights", action="store_true", help="first load the PyTorch model's weights into ours")
    parser.add_argument("--no-gradients", action="store_true", help="outputs and state only")
    parser.add_argument("--html", type=pathlib.Path, help="also write one self-contained page")


def made(name: str) -> Any:
    """What the function behind "package.module:function" returns; modules are found from the working directory too.

    Raises:
        SystemExit: no such module or function.
    """
    module, _, function = name.partition(":")
    if not function:
        raise SystemExit(f"parity: {name!r}: expected package.module:function")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise SystemExit(f"parity: {name!r}: {error}") from error


def main(arguments: argparse.Namespace) -> int:
    """Print the table; 0 when the models agree."""
    model = made(arguments.model)
    inputs: tuple[Any, ...] = ()
    if ":" in arguments.reference:
        reference = made(arguments.reference)
        if not arguments.inputs:
            raise SystemExit("parity: compare: two live models need --inputs package.module:function")
        given = made(arguments.inputs)
        inputs = tuple(given) if isinstance(given, (tuple, list)) else (given,)
        if arguments.copy_weights:
            from jaxnn.porting import from_torch_state_dict

            model.load_state_dict(from_torch_state_dict(reference.state_dict()))
    else:
        reference = Trace.load(arguments.reference)
    found = compare(reference, model, *inputs, gradients=not arguments.no_gradients)
    found.show()
    if arguments.html:
        found.save_html(arguments.html)
    return 0 if found.agrees else 1
