"""Dtypes: what torch adds up in 64 bits, and what keeps its dtype when it is written to. JAX promotes; the port must not."""

import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.port import port_source

torch = pytest.importorskip("torch", reason="the original runs under torch")

# Each body has x (floats), i and v (int64), m (bool), b (uint8) and h (float16) of shape (2, 3).
BODIES = {
    "cumsum of uint8": "return b.cumsum(0), torch.cumsum(b, 1)",
    "sum of uint8 below zero": "return b.sum() - 900, b.sum(1) - 900, torch.sum(b, dim=0) - 900",
    "prod of uint8": "return b.prod(1), b.cumprod(1)",
    "sum of int8": "return b.to(torch.int8).cumsum(1), b.char().sum(1)",
    "sum of int16": "s = b.short() * 2\nreturn s.cumsum(1), s.prod(1)",
    "sum of bools": "return m.sum(), m.cumsum(1), m.prod(1)",
    "a sum with a dtype": "return b.sum(1, dtype=torch.uint8), b.cumsum(1, dtype=torch.float32)",
    "uint8 -= int64": "b -= i\nb += 10\nreturn b",
    "uint8 of a list": "a = torch.tensor([250, 3], dtype=torch.uint8)\na += 10\na -= torch.tensor([1, 1])\nreturn a",
    "uint8 *= int64": "c = b.clone()\nc.mul_(i + 100)\nc.sub_(i)\nreturn c",
    "uint8 & int64": "c = b.clone()\nc &= i + 2\nc |= i\nreturn c",
    "uint8 by index": "c = b.clone()\nc[0] += i[0]\nc[:, 1] *= 3\nreturn c",
    "float16 += float32": "h += x\nreturn h, h * 2",
    "float16 += float32 of zeros": "h = torch.zeros(2, dtype=torch.float16)\nh += torch.ones(2)\nreturn h",
    "float16.add_": "h.add_(x).mul_(x)\nreturn h",
    "float16.addcmul_": "h.addcmul_(h, h, value=2)\nh.lerp_(h, 0.5)\nreturn h",
    "float32 += float16": "x += h\nreturn x",
    "float16 by index": "h[0] += x[0]\nh[m] *= 2\nreturn h",
    "a mask filled with a number": "return m.masked_fill(i > 0, 0), ~m.masked_fill(i > 0, 1)",
    "integers filled with a float": "return i.masked_fill(m, 0.), i.masked_fill(m, 7.)",
    "filled in place": "i.masked_fill_(m, 0.)\nm.masked_fill_(i > 0, 0)\nreturn i, ~m",
    "half filled": "return h.masked_fill(m, float('-inf')), (h * 2).masked_fill(m, 0)",
    "comparison in place": "x.gt_(0)\ni.eq_(v)\nreturn x, i",
    "logical in place": "i.logical_and_(v)\nx.logical_not_()\nm.logical_or_(m)\nreturn i, x, m",
    "int += bool": "i += m\nreturn i",
    "int64 += uint8": "i += b\nreturn i",
    "a function's narrow argument": "def add(t):\n    t = t * 1\n    t -= i\n    return t\nreturn add(b)",
    "a loop": "c = b * 1\nfor k in range(3):\n    c += i * 50\nreturn c",
}  # fmt: skip
INPUTS = {
    "x": np.linspace(-1, 2, 6, dtype=np.float32).reshape(2, 3),
    "i": np.asarray([[0, 1, 2], [3, 0, 1]]),
    "v": np.asarray([[0, 1, 0], [3, 3, 1]]),
    "m": np.asarray([[True, False, True], [False, False, True]]),
    "b": np.asarray([[250, 3, 7], [200, 100, 9]], np.uint8),
    "h": np.linspace(0, 3, 6).reshape(2, 3).astype(np.float16),
}
# In g nothing is known of a dtype; that there are narrow ones in the program is seen.
TAIL = """

def f(*given):
    *others, b, h = given
    return g(*[*others, b.to(torch.uint8), h.to(torch.float16)])
"""


def results(text, make):
    space = {}
    exec(compile(text, "ported", "exec"), space)
    result = space["f"](*(make(value) for value in INPUTS.values()))
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", BODIES)
def test_dtypes_are_torchs(name):
    head = f"import torch\n\n\ndef g({', '.join(f'{name}: torch.Tensor' for name in INPUTS)}):\n"
    text = head + textwrap.indent(BODIES[name], "    ") + TAIL
    want = results(text, lambda value: torch.from_numpy(value.copy()))
    got = results(port_source(text).text, jnp.asarray)
    for one, other in zip(want, got, strict=True):
        assert str(other.dtype) == str(one.dtype).removeprefix("torch.").replace("int64", "int32")
        np.testing.assert_allclose(np.asarray(other), one.numpy(), rtol=2e-3 if other.dtype == jnp.float16 else 1e-6)


@pytest.mark.parametrize(
    "body, line",
    [
        ("x = F.softmax(x, -1)\nreturn x.masked_fill(m, 0)", "return jnp.where(m, 0, x)"),
        ("return (x * 0.5).sum(-1)", "return (x * 0.5).sum(-1)"),
        ("x += y\nreturn x.sum(1)", "    x += y\n    return x.sum(1)"),
        ("z = torch.zeros(3)\nz += x\nreturn z", "    z += x\n"),
    ],
)
def test_where_nothing_is_narrow_the_text_is_plain(body, line):
    head = (
        "import torch\nimport torch.nn.functional as F\n\n\ndef f(x: torch.Tensor, y: torch.Tensor, m: torch.Tensor):\n"
    )
    assert line in port_source(head + textwrap.indent(body, "    ") + "\n").text


@pytest.mark.parametrize(
    "body, listed",
    [
        ("x += y\nreturn x", ["x += y"]),
        ("x[0] -= y[0]\nreturn x", ["x[0] -= y[0]"]),
        ("x[0] = y[0]\nreturn x", ["x[0] = y[0]"]),
        ("x.mul_(y)\nreturn x", ["x.mul_(y)"]),
        ("return x.sum(0) + torch.cumsum(x, 0)", ["x.sum(0)", "torch.cumsum(x, 0)"]),
        ("x += 1\nx.add_(2)\nx[0] = 3\nx = F.softmax(x, -1)\nx *= 2\nreturn x.sum(0)", []),
        ("z = torch.zeros(3)\nz += x\nreturn z.sum() + (x > y).sum()", []),
    ],
)
def test_what_a_narrow_argument_would_change_is_listed(body, listed):
    head = "import torch\nimport torch.nn.functional as F\n\n\ndef f(x: torch.Tensor, y: torch.Tensor):\n"
    sites = port_source(head + textwrap.indent(body, "    ") + "\n").sites
    assert [site.before for site in sites if "8 or 16 bits" in site.why and site.status == "changed"] == listed


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "bool"])
def test_dispatched_and_parameters_sums_are_wide(dtype):
    value = np.asarray([1, 100, 100]).astype(dtype)
    for name in ("sum", "prod", "cumsum", "cumprod"):
        args = (0,) if name.startswith("cum") else ()
        want = getattr(torch.from_numpy(value), name)(*args)
        for x in (nn.tensor.dispatch(jnp.asarray(value), name), getattr(nn.Buffer(jnp.asarray(value)), name)):
            assert str(x(*args).dtype) == str(want.dtype).removeprefix("torch.").replace("int64", "int32")
            np.testing.assert_array_equal(np.asarray(x(*args)), want.numpy())


def test_wide_takes_arrays():
    with pytest.raises(TypeError, match="wide: x: expected an array"):
        nn.tensor.wide("text")
