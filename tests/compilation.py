"""How the processes that tests start compile: as conftest.py says for this one."""

import os

from parity import ours


def flags() -> str:
    """XLA_FLAGS of a process whose test is not about what XLA makes of a program."""
    return "" if os.environ.get("JAXNN_COMPILATION") == "full" else ours.quick_flags()
