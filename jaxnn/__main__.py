"""``jaxnn``, or ``python -m jaxnn``: tools for checkpoints, for porting PyTorch source, and for machines that are not here."""

from __future__ import annotations

import argparse
import os
import sys

import jaxnn
from jaxnn.port import command
from jaxnn.targets import command as planning


def main(arguments: list[str] | None = None) -> int:
    if jaxnn.__file__ is None:  # a folder of this name, such as a clone, where Python looks first
        hides = os.path.abspath(next(iter(jaxnn.__path__)))
        print(f"error: the folder {hides} hides the installed jaxnn; run it in another folder", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog="jaxnn", description="Tools for checkpoints, porting and planning.")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect", help="names, shapes, dtypes and totals of a checkpoint; runs none of its code"
    )
    inspect.add_argument(
        "file",
        help=".pt, .pth, .ckpt, .bin, .safetensors, .gguf, or the .index.json of a sharded one; .jaxnn of nn.export.save",
    )
    inspect.add_argument(
        "--depth",
        type=_depth,
        help="sum up names of more parts: 1 shows what each top-level entry holds (default: all names)",
    )
    compare = commands.add_parser(
        "compare", help="where two checkpoints differ, of any two formats; 0: nowhere, 1: somewhere, 2: not readable"
    )
    compare.add_argument("file", help="a checkpoint, as inspect takes it")
    compare.add_argument("other", help="the one to compare it with")
    compare.add_argument("--rtol", type=_tolerance, default=0.0, help="relative to the other's numbers (default: 0)")
    compare.add_argument("--atol", type=_tolerance, default=0.0, help="absolute (default: 0, the same numbers)")
    command.add(commands)
    planning.add(commands)
    options = parser.parse_args(arguments)
    try:
        code = _run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has seen enough; what Python flushes at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(options: argparse.Namespace) -> int:
    if options.command in ("port", "plan"):
        return options.run(options)
    from jaxnn.export import files as exported
    from jaxnn.io import comparing, inspect

    comparison = options.command == "compare"
    try:
        if comparison:
            return 0 if comparing.show(options.file, options.other, options.rtol, options.atol) else 1
        if exported.is_program(options.file):
            inspect.show_described(inspect.describe(exported.contents(options.file), options.depth))
        else:
            inspect.show(options.file, options.depth)
    except BrokenPipeError:
        raise
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if comparison else 1
    return 0


def _depth(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"takes a number of at least 1, not {text}")
    return value


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"takes a number of at least 0, not {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
