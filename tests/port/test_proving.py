"""``--check``: a right port holds, each kind of injected fault is caught, and what dies or hangs is reported."""

import json
import textwrap

import numpy as np
import pytest

from jaxnn.__main__ import main
from jaxnn.port import port_source, proving
from jaxnn.port.proving import prove
from jaxnn.port.proving.check import check
from jaxnn.port.proving.reference import reference
from jaxnn.port.proving.values import FORWARD, expect, expected, judge

torch = pytest.importorskip("torch", reason="the original runs under torch")

ORIGINAL = """
import torch
import torch.nn as nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.conv = nn.Conv1d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm1d(width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 4)
        self.scale = nn.Parameter(torch.ones(width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("places", torch.arange(5.0), persistent=False)
        nn.init.normal_(self.head.weight, std=0.02)
        for p in self.conv.parameters():
            p.requires_grad = False

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        if self.training:
            self.steps += 1
        x = (x + self.places).transpose(1, 2)
        attention = torch.softmax(x @ x.transpose(1, 2), dim=-1)
        x = self.norm(attention @ x) * self.scale
        x = self.drop(F.gelu(x))
        return self.head(x.max(dim=1)[0]), attention


def make():
    return Net(), (torch.randn(2, 3, 5),)
"""

PORT = """
import importlib.util

import jax
import jax.numpy as jnp
import jaxnn as nn
import jaxnn.functional as F
from jaxnn import tensor as T


class Net(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.conv = nn.Conv1d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm1d(width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 4)
        self.scale = nn.Parameter(jnp.ones(width))
        self.register_buffer("steps", jnp.zeros((), dtype=jnp.int32))
        self.register_buffer("places", jnp.arange(5.0), persistent=False)
        nn.init.normal_(self.head.weight, std=0.02)
        for p in self.conv.parameters():
            p.requires_grad = False

    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
        if self.training:
            self.steps = self.steps + 1
        x = jnp.swapaxes(x + self.places, 1, 2)
        attention = F.softmax(x @ jnp.swapaxes(x, 1, 2), dim=-1)
        x = self.norm(attention @ x) * self.scale
        x = self.drop(F.gelu(x))
        return self.head(x.max(1)), attention


def make():
    return Net(), (nn.randn(2, 3, 5),)
"""

# What is injected: (a text of the port, what is written there, the parts of the contract that must catch it).
_BUFFERS = (
    'self.register_buffer("steps", jnp.zeros((), dtype=jnp.int32))\n        '
    'self.register_buffer("places", jnp.arange(5.0), persistent=False)'
)
_STEP = "self.steps = self.steps + 1"
_BATCH_NORM = "F.batch_norm(self.conv(x), None, None, self.bn.weight, self.bn.bias, True)"
_STOPPED = "self.norm(jax.lax.stop_gradient(attention) @ x)"
FAULTS = {
    "another kernel size": ("width, 3, padding=1", "width, 5, padding=2", {"keys"}),
    "another option": ("eps=1e-6", "eps=1e-5", {"options"}),
    "another name of a buffer": (_BUFFERS, _BUFFERS.replace("steps", "count"), {"keys"}),
    "a buffer in the state_dict": ("persistent=False", "persistent=True", {"keys"}),
    "another dtype": ("jnp.zeros((), dtype=jnp.int32)", "jnp.zeros(())", {"keys"}),
    "a frozen parameter is trained": ("p.requires_grad = False", "pass", {"keys"}),
    "another initialiser": ("std=0.02", "std=0.03", {"weights"}),
    "an initialiser that is lost": (
        "nn.init.normal_(self.head.weight, std=0.02)",
        "T.filled(nn.init.normal_, (4, width))",
        {"weights"},
    ),
    "an extra draw of random numbers": ("self.norm =", "nn.rand(1)\n        self.norm =", {"weights"}),
    "another buffer that is not stored": ("jnp.arange(5.0)", "jnp.arange(1.0, 6.0)", {"weights", "forward"}),
    "another axis": (
        "x.max(1)",
        "x.max(-1, keepdims=True).repeat(6, 2)[:, 0]",
        {"forward", "gradients", "training"},
    ),
    "another axis of a softmax": ("dim=-1)", "dim=1)", {"forward"}),
    "another gelu": ("F.gelu(x)", 'F.gelu(x, approximate="tanh")', {"forward"}),
    "a transpose that is left out": ("x @ jnp.swapaxes(x, 1, 2)", "x @ x[:, :, :5]", {"forward"}),
    "a gradient that is stopped": ("self.norm(attention @ x)", _STOPPED, {"gradients"}),
    "a result that is left out": (", attention\n\n", ", attention[:1]\n\n", {"forward"}),
    "a write that is lost": (_STEP, "steps = self.steps + 1", {"state", "jit state"}),
    "a write of another number": (_STEP, _STEP + " + (1 - self.training) + 1", {"state"}),
    "training and eval swapped": ("if self.training:", "if not self.training:", {"state"}),
    "batch statistics in eval mode": ("self.bn(self.conv(x))", _BATCH_NORM, {"forward", "state"}),
    "code that cannot be compiled": (
        "return self.head",
        "float(x.sum())\n        return self.head",
        {"jit", "training jit"},
    ),
    "a name that does not exist": ("F.relu", "F.rleu", {"forward", "jit"}),
    "a layer that fails to be made": ("nn.Dropout(0.5)", "nn.Dropout(5.0)", {"build"}),
}


def _make(text):
    namespace = {"__name__": "made"}
    exec(compile(text, "made.py", "exec"), namespace)
    return namespace["make"]


@pytest.fixture(scope="module")
def original():
    return reference(_make(ORIGINAL))


def test_a_right_port_holds(original):
    proof = check(_make(PORT), original)
    proof.checks["reference"] = proof.checks["import"] = proof.checks["build"]
    assert {check.status for check in proof.checks.values()} == {"held"}, proof.text()
    assert proof.held and len(proof.checks) == 14 and "The proof holds" in proof.text()


@pytest.mark.parametrize("fault", FAULTS)
def test_an_injected_fault_is_caught(original, fault):
    before, after, caught_by = FAULTS[fault]
    assert PORT.count(before) == 1
    proof = check(_make(PORT.replace(before, after)), original)
    caught = {name for name, check in proof.checks.items() if check.status in ("differs", "failed")}
    assert not proof.held and caught >= caught_by, proof.text()


WINDOW = """
import torch
from torch import nn


class Window(nn.Module):
    def __init__(self):
        super().__init__()
        window = torch.exp(-((torch.arange(11.0) - 5) ** 2) / 4.5)
        self.window = window / window.sum()
        self.register_buffer("table", self.window * 3, persistent=False)

    def forward(self, x):
        return x * (self.window[5] - 0.266), x * (self.table[5] - 0.798)


def make():
    return Window(), (torch.ones(3),)
"""


@pytest.mark.parametrize(("off", "held"), [(1e-7, True), (1e-4, False)])
@pytest.mark.parametrize("of", ["self.window", "window * 3"])
def test_an_array_that_is_no_state_is_the_originals_but_for_rounding(of, off, held):
    """What is left of a difference that cancels is the rounding of its terms; another number is another model."""
    text = port_source(WINDOW).text
    for name in ("self.window =", 'self.register_buffer("table",'):
        assert text.count(name) == 1
    changed = text.replace(
        "self.window = window / window.sum()", f"self.window = (window / window.sum()) * (1 + {off})"
    )
    if of != "self.window":
        changed = text.replace("self.window * 3", f"self.window * 3 * (1 + {off})")
    assert changed != text
    proof = check(_make(changed), reference(_make(WINDOW)))
    assert (proof.checks["forward"].status == "held") == held, proof.text()


def test_the_command_line_proves_and_its_status_says_so(tmp_path, capsys):
    """Also: a port that runs nothing without --check, though the file would do harm when it is imported."""
    (tmp_path / "model.py").write_text(
        ORIGINAL + '\n\nimport os\nopen(os.environ.get("TRAP", os.devnull), "w").close()\n'
    )
    (tmp_path / "make.py").write_text("from model import make\n")
    trap = tmp_path / "trap"
    options = ["port", str(tmp_path / "model.py"), "-o", str(tmp_path / "out.py"), "--json", str(tmp_path / "out.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAP", str(trap))
        assert main(options) == 0 and not trap.exists()
        assert main([*options, "--check", "--run", f"{tmp_path}/make.py:make"]) == 0 and trap.exists()
    said = capsys.readouterr().out
    assert "The proof holds." in said and "rewritten places were executed" in said
    assert json.loads((tmp_path / "out.json").read_text())["proof"]["held"]
    assert main([*options, "--check"]) == 1 and "--check needs --run" in capsys.readouterr().err


def test_the_processes_the_lines_that_ran_and_the_limits(tmp_path):
    (tmp_path / "model.py").write_text(ORIGINAL)
    with (tmp_path / "model.py").open("a") as file:
        file.write("\n\ndef never():\n    return torch.zeros(3)\n")
    (tmp_path / "ported.py").write_text(
        PORT + "\nassert importlib.util.find_spec('torch') is None\n\ndef never():\n    return jnp.zeros(3)\n"
    )
    (tmp_path / "make.py").write_text("import os\nfrom model import make\n\n\ndef dies():\n    os._exit(3)\n")
    lines = (tmp_path / "model.py").read_text().splitlines()
    places = [
        next(at for at, line in enumerate(lines, 1) if text in line) for text in ("transpose(1, 2)", "torch.zeros(3)")
    ]
    sites = [{"path": "model.py", "line": line} for line in places]

    def run(function, ported="ported.py", **options):
        return prove(
            tmp_path / "model.py", tmp_path / ported, f"{tmp_path}/make.py:{function}", lambda text: text, **options
        )

    proof = run("make", sites=sites)
    assert proof.held, proof.text()
    assert proof.executed == [f"model.py:{places[0]}"] and proof.unexecuted == [f"model.py:{places[1]}"]
    assert "1 of 2 rewritten places" in proof.text() and proof.as_json()["held"]
    proof = run("make", timeout=0.5)
    assert proof.checks["reference"].text == "no answer within 0 s" and not proof.held
    assert run("dies").checks["reference"].text == "the process ended with 3"
    with pytest.raises(ValueError, match="FILE.py:FUNCTION"):
        prove(tmp_path / "model.py", tmp_path / "ported.py", "make.py", lambda text: textwrap.dedent(text))


KINK = """
import torch
import torch.nn as nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return F.relu(self.scale * x - 1) + self.scale


def make():
    return Net(), (torch.ones(2, 3),)
"""
# At zero a maximum takes half the gradient, a ReLU none; beside it both are one function.
KINKED = ("F.relu(self.scale * x - 1)", "jnp.maximum(self.scale * x - 1, 0)", 0.0)
STOPPED = ("1) + self.scale", "1) + 0.9 * self.scale + 0.1 * self.scale.copy().astype(int)", 0.05)


@pytest.mark.parametrize(("before", "after", "least"), [KINKED, STOPPED], ids=["a kink", "a fault"])
def test_gradients_that_differ_at_a_kink_alone_hold(tmp_path, monkeypatch, before, after, least):
    """Rounding may put one side on the other side of a kink; weights a little off are beside it, and a fault is there too."""
    ported = port_source(KINK).text
    assert ported.count(before) == 1
    ran = []

    def run_once(*rest):
        ran.append(rest[-1])
        proof = check(_make(ported.replace(before, after)), reference(_make(KINK), shift=ran[-1]))
        proof.checks["reference"] = proof.checks["import"] = proof.checks["build"]
        return proof, None

    monkeypatch.setattr(proving, "_run", run_once)
    proof = prove("model.py", "ported.py", "make.py:make", lambda text: text)
    found = proof.checks["gradients"]
    if least:
        assert not proof.held and found.status == "differs" and found.error > least and ran == [0, 1, 2, 3]
    else:
        assert proof.held and "beside a kink" in found.text and "error 5.0e-01" in found.text and ran == [0, 1]


def test_float64_that_is_another_computation_is_no_truth():
    """A mask of the dtype's least number: NaN in float64 alone. All errors are infinite beside that, and none would be seen."""
    own = {"out": np.array([1.0, 2.0], np.float32)}
    other = {"out": np.array([np.nan, np.nan])}
    assert judge({"out": own["out"] + np.float32(1e-6)}, expect(own, other, FORWARD))[1] == ""
    assert "error" in judge({"out": np.array([1.0, -2.0], np.float32)}, expect(own, other, FORWARD))[1]
    assert "error" in judge({"out": own["out"] * 1.01}, expect(own, {"out": own["out"] * 3.0}, FORWARD))[1]


def test_float64_that_fails_and_float64_that_is_another_computation_are_one_case():
    """PyTorch's float32 is the measure, with its own error unknown, wherever an argument of float64 cannot be had."""
    own = np.array([1.0, 2.0], np.float32)
    assert expected(own, None, FORWARD) == expected(own, own * 3.0, FORWARD) == expected(own, own * np.nan, FORWARD)
    close = expected(own, own * (1 + 1e-7), FORWARD)
    assert close.value is not own and close.allowed < expected(own, None, FORWARD).allowed


def test_what_is_rounding_alone_on_both_sides_holds():
    """The mean of what was normalised before: PyTorch's own float32 has no right digit."""
    own, truth = {"mean": np.array([3e-9, -1e-9], np.float32)}, {"mean": np.array([1e-17, 2e-17])}
    assert judge({"mean": np.array([-4e-9, 2e-9], np.float32)}, expect(own, truth, FORWARD))[1] == ""
