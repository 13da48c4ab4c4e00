"""Ruff finds nothing in a port that it has not found in the original: names that only replaced calls read, imports, brackets."""

import json
import shutil
import subprocess
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from jaxnn.port import port_source

HEAD = "import torch\n\n\ndef f(x: torch.Tensor, y: torch.Tensor):\n"
BODIES = {
    # A refused call read them: what computes nothing goes, of a call the name alone, of several names one is marked.
    "n = x.shape[0]\ns = x.exp()\ny.backward(s, n)\nreturn y": (
        '_ = jnp.exp(x)\nT.not_ported("backward()", "<source>:7")()\nreturn y'
    ),
    "b, n = x.shape\ny.backward(n)\nreturn y * b": 'b, _n = x.shape\nT.not_ported("backward()", "<source>:6")()\nreturn y * b',
    "for i, n in enumerate(x):\n    y.backward(n)\nreturn y, i": (
        'for i, _n in enumerate(x):\n    T.not_ported("backward()", "<source>:6")()\nreturn y, i'
    ),
    "k = 2\nn = k\ny.backward(n)\nreturn y": 'T.not_ported("backward()", "<source>:7")()\nreturn y',
    "b, n, d, device = *x.shape, x.device\nreturn torch.ones(b, device=device)": (
        "b, _n, _d = x.shape\nreturn jnp.ones(b)"
    ),
    # A block of which every statement goes.
    "if True:\n    x = x.cuda()\n    y = y.cuda()\nreturn x": "if True:\n    pass\nreturn x",
    # What changes once more, or is read by a function inside, or was not read by the original either, stays.
    "n = 1\nn += 1\ny.backward(n)\nreturn y": 'n = 1\nn += 1\nT.not_ported("backward()", "<source>:7")()\nreturn y',
    "n = 1\ny.backward(n)\nreturn lambda: n": 'n = 1\nT.not_ported("backward()", "<source>:6")()\nreturn lambda: n',
    "n = 1\nb, c = x.shape\nreturn y.exp()": "n = 1\nb, c = x.shape\nreturn jnp.exp(y)",
    # Statements of which nothing is left, comparisons of devices, brackets.
    "torch.cuda.synchronize()\nif x.dim() > 1:\n    torch.cuda.synchronize()\nreturn y": (
        "if x.ndim > 1:\n    pass\nreturn y"
    ),
    "if x.device != y.device or x.dim() > 2:\n    return y\nreturn x": "if False or x.ndim > 2:\n    return y\nreturn x",
    "return x.sub(y).abs() * (x.dim() + 1)": "return jnp.abs(x - y) * (x.ndim + 1)",
}
IMPORTS = {
    "import math\n\nimport torch\nfrom einops import rearrange\nfrom torch import nn\n\n": (
        "import math\n\nimport jax.numpy as jnp\nimport jaxnn as nn\nfrom einops import rearrange\n"
    ),
    # These were not in order.
    "import torch\nimport math\nfrom torch import nn\nfrom einops import rearrange\n\n": (
        "import jax.numpy as jnp\nimport math\nimport jaxnn as nn\nfrom einops import rearrange\n"
    ),
}


@pytest.mark.parametrize("body", BODIES)
def test_what_nothing_reads_any_more_goes(body):
    text = port_source(HEAD + textwrap.indent(body, "    ") + "\n").text
    assert textwrap.dedent(text[text.index("):\n") + 3 :]) == BODIES[body] + "\n"


@pytest.mark.parametrize("head", IMPORTS)
def test_imports_are_in_order_where_they_were(head):
    body = "\nclass M(nn.Module):\n"
    body += "    def forward(self, x: int):\n        y = torch.ones(math.prod((x, x)))\n        return rearrange(y, 'b -> 1 b')\n"
    assert port_source(head + body).text.startswith(IMPORTS[head] + "\n\nclass")


def found(text, tmp_path):
    file = tmp_path / "module.py"
    file.write_text(text)
    rules = ["--select", "E,F,I,UP,B,RUF059", "--ignore", "E501"]
    done = subprocess.run(
        ["ruff", "check", "--isolated", "--no-cache", "--exit-zero", "--output-format", "json", *rules, file.name],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Counter(one["code"] for one in json.loads(done.stdout))


@pytest.mark.skipif(shutil.which("ruff") is None, reason="asks ruff")
@pytest.mark.parametrize("file", sorted((Path(__file__).parent / "models").glob("*.py")), ids=lambda file: file.stem)
def test_ruff_finds_no_more_than_in_the_original(file, tmp_path):
    text = file.read_text()
    ported = port_source(text, file.name).text
    assert not found(ported, tmp_path) - found(text, tmp_path)
    body = "n, k = x.shape\n    m = n\n    y.backward(m)\n    return k"
    assert not found(port_source(f"{HEAD}    {body}\n").text, tmp_path) - found(f"{HEAD}    {body}\n", tmp_path)
