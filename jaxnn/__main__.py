"""``jaxnn``, or ``python -m jaxnn``: tools for checkpoints, and for porting PyTorch source."""

from __future__ import annotations

import argparse
import sys

from jaxnn.port import command


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="jaxnn", description="Tools for checkpoints and for porting.")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser(
        "inspect", help="names, shapes, dtypes and totals of a checkpoint; runs none of its code"
    )
    inspect.add_argument(
        "file", help=".pt, .pth, .ckpt, .bin, .safetensors, .gguf, or the .index.json of a sharded one"
    )
    command.add(commands)
    options = parser.parse_args(arguments)
    if options.command == "port":
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
