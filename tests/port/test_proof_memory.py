"""The proof of a large model takes a small multiple of its memory, in either process."""

import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("torch", reason="the original runs under torch")
pytest.importorskip("resource", reason="asks the system for the peak of a process")

# The model, its copy in float64 (2), the gradients of that (2), and what the allocator leaves unused.
TIMES = 8
WIDTH, DEPTH = 2048, 4

MODEL = """
import torch
import torch.nn as nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(width, width) for _ in range(DEPTH)])

    def forward(self, x):
        return self.layers(x)


def make(width):
    return Net(width), (torch.randn(1, width),)


def small():
    return make(8)


def large():
    return make(WIDTH)
"""

# The peak of the processes that a process has waited for; a fresh process, since it never falls.
PROVING = """
import resource
from pathlib import Path
from jaxnn.port import port_source
from jaxnn.port.proving import prove

port = lambda text: port_source(text).text
Path("ported.py").write_text(port(Path("model.py").read_text()))
for function in ("small", "large"):
    proof = prove("model.py", "ported.py", f"make.py:{function}", port)
    assert proof.held, proof.text()
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit there")
def test_a_proof_takes_a_small_multiple_of_the_model(tmp_path):
    (tmp_path / "model.py").write_text(MODEL.replace("WIDTH", str(WIDTH)).replace("DEPTH", str(DEPTH)))
    (tmp_path / "make.py").write_text("from model import large, small\n")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROVING)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert not done.returncode, done.stderr
    small, large = (1024 * int(line) for line in done.stdout.split())
    assert large - small < TIMES * 4 * DEPTH * WIDTH**2
