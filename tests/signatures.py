"""The shapes and dtypes in the signatures of ``jaxnn.functional``, and strict promotion, on the recording's cases.

python -m tests.signatures [--cases 1]

jaxtyping's import hook has to be there before the package is imported, and error inputs must not meet it: so it is a
process of its own, which traces (nothing is compiled), and prints each call that a signature does not describe, or that
mixes dtypes without saying so: a user may have JAX's strict promotion on.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pkgutil
import sys
import warnings
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException
from jaxtyping import install_import_hook

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float too


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its arguments and results checked, where beartype knows its annotations."""
    try:
        return _check(function)
    except BeartypeDecorHintException:  # np.ndarray[Any, Any], of private helpers
        return function


def wrong(count: int) -> tuple[int, dict[str, str]]:
    """How many of the recording's cases (`count` of each name) were traced, and by id what a signature said of one."""
    importlib.import_module("tests.signatures")  # the hook looks for `checked` there
    with install_import_hook("jaxnn.functional", "tests.signatures.checked"):
        import jaxnn.functional as F

        for entry in pkgutil.walk_packages(F.__path__, f"{F.__name__}."):
            importlib.import_module(entry.name)
    import jax

    jax.config.update("jax_numpy_dtype_promotion", "strict")

    from parity import golden, ours
    from parity.cli import RECORDING
    from parity.run import Options

    found: dict[str, str] = {}
    cases = golden.chosen(str(RECORDING), Options(), count)
    for case in cases:
        with warnings.catch_warnings(), jax.enable_x64(True) if ours.is_wide(case) else contextlib.nullcontext():
            warnings.simplefilter("ignore")
            program, args = ours.program_of(case, "float32")
            try:
                jax.eval_shape(program, *args)
            except Exception as error:  # a call that the signature or strict promotion refuses
                found[case.id] = f"{type(error).__name__}: {error}"
    return len(cases), found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1, help="of each source and name; 0 is all")
    count, found = wrong(parser.parse_args().cases)
    for name, text in found.items():
        print(f"{name}: {text}\n")
    print(f"{count} cases, {len(found)} that a signature does not describe")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
