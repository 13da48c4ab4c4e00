"""``jaxnn``, or ``python -m jaxnn``: tools for checkpoints, for porting PyTorch source, and for machines that are not here."""

from __future__ import annotations

import argparse
import sys

from jaxnn.port import command
from jaxnn.targets import command as planning


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="jaxnn", description="Tools for checkpoints, porting and planning.")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect", help="names, shapes, dtypes and totals of a checkpoint; runs none of its code"
    )
    inspect.add_argument(
        "file", help=".pt, .pth, .ckpt, .bin, .safetensors, .gguf, or the .index.json of a sharded one"
    )
    command.add(commands)
    planning.add(commands)
    options = parser.parse_args(arguments)
    if options.command in ("port", "plan"):
        return options.run(options)
    from jaxnn.io.inspect import show

    try:
        show(options.file)
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
