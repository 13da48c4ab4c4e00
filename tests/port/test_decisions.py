"""What Python decides by an array's numbers is listed; what is written by a mask is written in a compiled function too."""

import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.port import port_source

HEAD = """import math
import numpy as np
import torch
import torch.nn.functional as F


def f(x: torch.Tensor, n: torch.Tensor, mask: torch.BoolTensor, k=None):
"""
LISTED = {
    "if x.sum() > 0 and not mask.all():": 2,
    "while n > 3:": 1,
    "y = x if n > 0 else -x": 1,
    "y = [i for i in k if n > i]": 1,
    "y = n.item() + int(n) + float(x[0])": 3,
    "y = x.tolist()": 1,
    "y = x.cpu().numpy()": 1,
    "y = torch.zeros(n, 3)": 1,
    "y = torch.arange(n.max())": 1,
    "y = x.view(n, -1)": 1,
    "y = x[:n]": 1,
    "y = x[x > 0]": 1,
    "y = x[:, mask]": 1,
    "x[:, mask] = x[:, mask] * 2": 2,
    "for i in range(n):": 1,
    "y = max([x.max(), x.min()])": 1,
    "y = F.one_hot(n)": 1,
    "y = x.repeat_interleave(n, 0)": 1,
    "y = math.sqrt(x.max())": 1,
    "y = np.mean(x)": 1,
    "if torch.equal(x, n):": 1,
    "y = mask.nonzero()": 1,
    "y = torch.where(mask)": 1,
    "y = x.masked_select(mask)": 1,
    "y = mask.all() and k": 1,
    "y = not x.any()": 1,
}
# These need no numbers.
PLAIN = ["if k is not None:",
         "if x.shape[0] > 3 and x.dim() == 2:", "y = torch.zeros(len(x), x.size(1))", "y = x[: x.shape[0] // 2]",
         "y = torch.where(mask, x, n)", "y = F.one_hot(n, 4)", "y = x.repeat_interleave(2, 0)", "y = max(x.shape)",
         "y = k and mask.all()"]  # fmt: skip


def lines(text):
    body = text + ("\n    pass" if text.endswith(":") else "")
    ported = port_source(HEAD + textwrap.indent(body, "    ") + "\n    return k\n")
    at = HEAD.count("\n") + 1
    return [
        s for s in ported.sites if s.line == at and s.status == "changed" and "fails in a compiled function" in s.why
    ]


@pytest.mark.parametrize("text", LISTED)
def test_what_needs_numbers_is_listed(text):
    assert len(lines(text)) == LISTED[text]


@pytest.mark.parametrize("text", PLAIN)
def test_what_needs_none_is_not(text):
    assert not lines(text)


MASKED = {
    "x[x > 0] = 0": "x = jnp.where(x > 0, 0, x).astype(x.dtype)",
    "m = ~(x > 0) & (x != 1)\nx[m] = 2": "x = jnp.where(m, 2, x).astype(x.dtype)",
    "x = F.relu(x) / 2 - x\nx[torch.isnan(x)] = 0.": "x = jnp.where(jnp.isnan(x), 0., x)\n",
    "x[x < 0] += 3\nx[x < 1] *= 2.": "x = jnp.where(x < 0, x + 3, x).astype(x.dtype)",
    "x = torch.arange(6).view(2, 3)\nx[x > 2] = 7": "x = jnp.where(x > 2, 7, x).astype(x.dtype)",
    "x[x[:, 0] > 0] = 1.": "T.set_item(x, x[:, 0] > 0, 1.)",
    "x[mask] = float('-inf')": "T.set_item(x, mask, float('-inf'))",
    "x[~mask] = x.max()": "T.set_item(x, ~mask, x.max())",
}


@pytest.mark.parametrize("body", MASKED)
def test_numbers_by_a_mask_are_written_in_a_compiled_function_too(body):
    torch = pytest.importorskip("torch", reason="the original runs under torch")
    head = "import torch\nimport torch.nn.functional as F\n\n\ndef f(x: torch.Tensor, mask: torch.Tensor):\n    x = x * 1\n"
    text = head + textwrap.indent(body, "    ") + "\n    return x\n"
    ported = port_source(text)
    assert MASKED[body] in ported.text
    theirs, ours = {}, {}
    exec(compile(text, "original", "exec"), theirs)
    exec(compile(ported.text, "ported", "exec"), ours)
    x = np.linspace(-2, 3, 6, dtype=np.float32).reshape(2, 3)
    mask = np.asarray([[True, False, True], [False, False, True]])
    want = theirs["f"](torch.tensor(x), torch.tensor(mask)).numpy()
    for run in (ours["f"], nn.jit(ours["f"])):
        np.testing.assert_array_equal(np.asarray(run(jnp.asarray(x), jnp.asarray(mask))), want)


CHECKS = {
    "assert (x > 0).all(), 'low'": "assert isinstance(found := (x > 0).all(), jax.core.Tracer) or found, 'low'",
    "low = (x < 1).any()\nassert not low and x.dim() == 1": (
        "assert (isinstance(low, jax.core.Tracer) or not low) and x.ndim == 1"
    ),
    "if (x < 1).any() or torch.isnan(x).any():\n    raise AssertionError": (
        "if not isinstance(found := (x < 1).any(), jax.core.Tracer) and found or not isinstance("
    ),
    "if not torch.equal(x.abs(), x):\n    raise AssertionError\nelse:\n    x = x * 1": (
        "if not isinstance(found := jnp.array_equal("
    ),
    "tall = len(x) > 9 and x.any()\nlow = len(x) < 9 and (x >= 1).all()\nif not tall and not low:\n    raise AssertionError": (
        "if (not isinstance(tall, jax.core.Tracer) and not tall) and (not isinstance(low, jax.core.Tracer) and not low):"
    ),
}


@pytest.mark.parametrize("body", CHECKS)
def test_what_only_raises_is_checked_where_the_numbers_are_known(body):
    text = "import torch\n\n\ndef f(x: torch.Tensor):\n" + textwrap.indent(body, "    ") + "\n    return x * 2\n"
    ported = port_source(text)
    assert CHECKS[body] in ported.text
    assert any(site.status == "changed" and "checked where" in site.why for site in ported.sites)
    space = {}
    exec(compile(ported.text, "ported", "exec"), space)
    for run in (space["f"], nn.jit(space["f"])):
        np.testing.assert_array_equal(run(jnp.asarray([1.0, 3.0])), [2.0, 6.0])
    with pytest.raises(AssertionError):
        space["f"](jnp.asarray([1.0, -3.0]))


@pytest.mark.parametrize("jit", [False, True])
def test_set_item_by_a_mask(jit):
    x, mask = jnp.zeros((2, 3)), jnp.asarray([True, False])
    run = nn.jit(nn.tensor.set_item) if jit else nn.tensor.set_item
    np.testing.assert_array_equal(run(x, mask, jnp.arange(3.0)), [[0, 1, 2], [0, 0, 0]])
    np.testing.assert_array_equal(run(x, mask, jnp.ones((3,), bool)), [[1, 1, 1], [0, 0, 0]])
    with pytest.raises((IndexError, ValueError)):
        run(x, jnp.asarray([True, False, True]), 1.0)
    with pytest.raises((ValueError, IndexError)):
        run(x, mask, jnp.arange(4.0))


def test_what_was_given_is_listed_where_it_is_written_to():
    text = """
import torch
from torch import nn

class Counter(nn.Module):
    def __init__(self, start: torch.Tensor):
        super().__init__()
        self.register_buffer("count", start)
        self.register_buffer("own", torch.zeros(2))

    def forward(self, x):
        self.count += 1
        self.own += 1
        return x
"""
    assert [site.before for site in port_source(text).sites if "was given" in site.why] == ["self.count += 1"]
