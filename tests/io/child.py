"""Runs Python in a process of its own, with limits of time and memory: what may hang or die is tested there."""

import resource
import subprocess
import sys
import textwrap


def run(code, *arguments, seconds=60, memory=None, check=True, **options):
    """The finished process; `memory` bounds the address space that it may add to what its imports take, in bytes."""
    head = "import sys, numpy as np, jaxnn as nn\nimport jaxnn.io.torch_files, jaxnn.io.safetensors_files\n"
    if memory is not None:
        head += f"from tests.io.child import limit_memory\nlimit_memory({memory})\n"
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        **options,
    )
    assert not check or done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def limit_memory(more):
    """Bound the address space to what it is now and `more`."""
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))
