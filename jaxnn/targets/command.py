"""``python -m jaxnn plan``: does this model's training step fit that machine, and how fast can it be."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnn.base.dtypes import describe
from jaxnn.targets.laying_out import Layout
from jaxnn.targets.planning import next_token_loss, plan, squared_loss


def add(commands: Any) -> None:
    """Add the command to those of a parser."""
    parser = commands.add_parser(
        "plan",
        help="does a training step fit a TPU or GPU that is not here, and how fast can it be; needs its compiler",
        description="Compiles the training step with the target's own compiler, laid out in several ways. No device is used.",
    )
    parser.add_argument(
        "model", help="what makes the model: FILE.py:NAME or package.module:NAME, called without arguments"
    )
    parser.add_argument("--target", required=True, help="v5e, v5e:4x4, v6e:16x16, v5p:8x8x8, h100, h100x8 ...")
    parser.add_argument(
        "--input", action="append", required=True, metavar="SIZES:DTYPE", help="of the whole batch: 256x1024:int32"
    )
    parser.add_argument("--loss", default="", help="FILE.py:NAME of a function of (model, *inputs); default: see below")
    parser.add_argument("--optimizer", default="AdamW", help="a class of nn.optim")
    parser.add_argument(
        "--layout", action="append", default=[], metavar="DATAxFSDP[xTP][+remat]", help="try these alone"
    )
    parser.add_argument(
        "--tensor-plan", default="", help="FILE.py:NAME of styles by names of submodules, or of a function of the model"
    )
    parser.add_argument("--float32", action="store_true", help="without autocast to bfloat16")
    parser.add_argument("--tries", type=int, default=6, help="compile so many layouts at most")
    parser.add_argument("--html", default="", metavar="FILE", help="write a page with pictures")
    parser.epilog = "The default loss is the cross entropy of the next token for integers, else the mean of squares."
    parser.set_defaults(run=run)


def described(text: str) -> jax.ShapeDtypeStruct:
    """An array of the command line: ``256x1024:int32``.

    Raises:
        ValueError: it is not written so.
    """
    sizes, _, dtype = text.partition(":")
    try:
        return jax.ShapeDtypeStruct(tuple(int(size) for size in sizes.split("x")), jnp.dtype(dtype or "float32"))
    except (TypeError, ValueError):
        raise ValueError(f"jaxnn plan: --input: expected sizes and a dtype, as 256x1024:int32, got {text}") from None


def loaded(place: str, others: tuple[type, ...] = ()) -> Any:
    """What ``FILE.py:NAME`` or ``package.module:NAME`` names: a function, a class, or one of `others`.

    Raises:
        ValueError: there is none.
    """
    path, _, name = place.rpartition(":")
    if not path:
        raise ValueError(f"jaxnn plan: model: expected FILE.py:NAME or package.module:NAME, got {place}")
    if path.endswith(".py"):
        spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
        if spec is None or spec.loader is None or not os.path.exists(path):
            raise ValueError(f"jaxnn plan: {path}: no such file")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(spec.name, module)
        sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(path)
    if not hasattr(module, name):
        known = ", ".join(
            itertools.islice((n for n in vars(module) if callable(getattr(module, n)) and n[0] != "_"), 12)
        )
        raise ValueError(f"jaxnn plan: {path} has no {name}; it has {known}")
    found = getattr(module, name)
    if not callable(found) and not isinstance(found, others):
        raise ValueError(f"jaxnn plan: {place}: expected a function or a class, got {describe(found)}")
    return found


def run(arguments: argparse.Namespace) -> int:
    """``python -m jaxnn plan``; 0 where some layout fits."""
    try:
        return _run(arguments)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    from jaxnn import optim

    build = loaded(arguments.model)
    batch = [described(text) for text in arguments.input]
    integers = jnp.issubdtype(batch[0].dtype, jnp.integer)
    loss = loaded(arguments.loss) if arguments.loss else next_token_loss if integers else squared_loss
    make = getattr(optim, arguments.optimizer, None)
    if not isinstance(make, type):
        raise ValueError(f"jaxnn plan: --optimizer: expected a class of nn.optim, as AdamW, got {arguments.optimizer}")
    found = plan(
        build,
        loss,
        batch,
        optimizer=lambda model: make(model, lr=1e-3),  # the rate is a number in the step
        target=arguments.target,
        layouts=[_layout(text) for text in arguments.layout] or None,
        dtype=None if arguments.float32 else jnp.bfloat16,
        tries=arguments.tries,
        tensor_plan=loaded(arguments.tensor_plan, (Mapping,)) if arguments.tensor_plan else None,
    )
    print(found)
    if arguments.html:
        found.save_html(arguments.html)
    return 0 if found.best else 1


def _layout(text: str) -> Layout:
    found = re.fullmatch(r"(\d+)x(\d+)(?:x(\d+))?(\+remat)?", text)
    if not found:
        raise ValueError(f"jaxnn plan: --layout: expected DATAxFSDP or DATAxFSDPxTP, as 2x8 or 2x4x2+remat, got {text}")
    return Layout(int(found[1]), int(found[2]), bool(found[4]), int(found[3] or 1))
