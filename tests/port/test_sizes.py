"""Arrays made of sizes alone: Python looks at their numbers, in a compiled function too."""

import textwrap
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.port import port_source

HEAD = """import math
import torch
import torch.nn.functional as F


def f(x: torch.Tensor, y: torch.Tensor):
"""
# The body, and a line of the port. x is (7, 10), y is (4, 6).
KNOWN = {
    "powers": (
        "n = len(x) - 3\namts = 2 ** torch.arange(n)\namts = amts.tolist()\nreturn sum(x[0, :1] * a for a in amts)",
        "amts = 2 ** np.arange(n)",
    ),
    "a crop": (
        "a = torch.tensor(x.shape)\nb = torch.tensor(y.shape)\ncrop = a - b\nhalf = (crop / 2).int()\n"
        "pad = -torch.stack((half, half)).t().flatten()\nreturn F.pad(x, pad.tolist())",
        "half = (crop / 2).astype(np.int32)",
    ),
    "a product": ("return x * torch.tensor(x.shape).prod().item()", "np.array(x.shape).prod().item()"),
    "a number": ("n = torch.tensor(x.size(0))\nreturn x[: int(n) // 2] * float(n)", "n = np.asarray(x.shape[0])"),
    "a loop": (
        "t = torch.zeros(2, dtype=torch.long)\nfor i in range(3):\n    t = t + torch.tensor([i, 1])\n"
        "a, b = t.tolist()\nreturn x[a:] * b",
        "t = t + np.array([i, 1])",
    ),
    "several looks": (
        "t = torch.arange(3).flip(0)\na = t.max().item()\nb = t.tolist()\nreturn x[a:, b[0]:]",
        "t = np.flip(np.arange(3), axis=0)",
    ),
    "halves": ("return x * (torch.tensor(x.shape) / 4).ceil().long().sum().item()", "np.ceil(np.array(x.shape) / 4)"),
}
# What is read elsewhere too, written to, or computed with numbers that float32 rounds, stays JAX's and is listed.
LISTED = {
    "of the argument": "return y * x.long().sum().item()",
    "read elsewhere": "t = torch.arange(3)\nreturn x[t] * t.max().item()",
    "written to": "t = torch.arange(3)\nt[0] = 5\nreturn x * t.max().item()",
    "added to": "t = torch.arange(3)\nt += 5\nreturn x * t.max().item()",
    "rounded": "return x * (torch.arange(3) / 3).sum().item()",
    "scaled": "return x * (torch.arange(3) * 0.1).ceil().sum().item()",
    "of a number that may be another": "def g(k):\n    return torch.arange(k).tolist()\n"
    "return x * g(3)[1] + len(g(y[0, 0].item()))",
}


def both(body):
    text = HEAD + textwrap.indent(body, "    ") + "\n"
    return text, port_source(text)


def listed(ported):
    return [site for site in ported.sites if "fails in a compiled function" in site.why]


@pytest.mark.parametrize("name", KNOWN)
def test_numbers_of_sizes_are_known_in_a_compiled_function(name):
    torch = pytest.importorskip("torch", reason="the original runs under torch")
    text, ported = both(KNOWN[name][0])
    assert KNOWN[name][1] in ported.text and not listed(ported)
    theirs, ours = {}, {}
    exec(compile(text, "original", "exec"), theirs)
    exec(compile(ported.text, "ported", "exec"), ours)
    x, y = np.arange(70, dtype=np.float32).reshape(7, 10), np.ones((4, 6), np.float32)
    want = theirs["f"](torch.tensor(x), torch.tensor(y)).numpy()
    for run in (ours["f"], nn.jit(ours["f"])):
        np.testing.assert_array_equal(np.asarray(run(jnp.asarray(x), jnp.asarray(y))), want)


@pytest.mark.parametrize("name", LISTED)
def test_numbers_of_others_are_listed(name):
    assert listed(both(LISTED[name])[1])


LATE = """import torch
from math import ceil
from torch import nn


def powers(x, count):
    return x * (2 ** torch.arange(count)).tolist()[-1]


class Inner(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, x):
        return powers(x, self.count)


class Outer(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.inner = Inner(ceil(size))

    def forward(self, x):
        return self.inner(x)
"""


def test_what_a_later_class_passes_is_known():
    """In the order of the file the count is unknown in two functions before a call says that it is an integer."""
    ported = port_source(LATE)
    assert "(2 ** np.arange(count)).tolist()" in ported.text and not listed(ported)
    space: dict[str, Any] = {}
    exec(compile(ported.text, "ported", "exec"), space)
    np.testing.assert_array_equal(nn.jit(lambda model, x: model(x))(space["Outer"](2.5), jnp.ones(2)), [4.0, 4.0])


def test_facts_write_nothing_of_what_they_reach():
    """The text of a class once was that of all classes it reaches, again and again: packages of many took hours."""
    layers = "".join(
        f"class L{i}(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        + "".join(f"        self.a{j} = L{j}()\n" for j in range(i))
        + f"    def forward(self, x):\n        y = self.a{max(i - 1, 0)}(x)\n        return y\n\n"
        for i in range(40)
    )
    assert len(port_source("from torch import nn\n\n" + layers).text) > len(layers)
