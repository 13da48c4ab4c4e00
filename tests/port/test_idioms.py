"""What packages write that was once left out or refused: ported now, and run on both sides."""

import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.port import port_source

torch = pytest.importorskip("torch", reason="the original runs under torch")

# Each gives numbers of x, a (2, 3) array.
BODIES = {
    "index_put_": "y = x.clone()\ny.index_put_((torch.tensor([0, 1]), torch.tensor([2, 0])), torch.ones(2))\nreturn y",
    "index_put_ that adds": "y = x.clone()\ni = torch.tensor([0, 0])\n"
    "y.index_put_([i, i], x[0, :2], accumulate=True)\nreturn y",
    "index_put": "return x.index_put((torch.tensor([1]),), torch.tensor(7.))",
    "a number of a tensor of one": "p = torch.zeros(1, dtype=torch.long)\np[0] = 2\n"
    "return x[:, : int(p)] * float(torch.ones(1) * 2)",
    "an old constructor of sizes": "k, (a, *b) = len(x), (4, 5)\n"
    "made = [torch.Tensor(x.size()), torch.LongTensor(k), torch.Tensor(a, k, *b), torch.FloatTensor(*x.size())]\n"
    "return torch.tensor([n for one in made for n in one.shape])",
    "an old constructor of who knows what": "made = []\nfor given in [3, [5, 6], x[0, :1].int(), (7,)]:\n"
    "    made.append(torch.IntTensor(given).shape[0])\nreturn torch.tensor(made)",
    "a variable": "from torch.autograd import Variable\nreturn Variable(x, requires_grad=True) * Variable(x.data)",
    "split by its method's keyword": "a, b = x.split(split_size=[1, 2], dim=1)\n"
    "return torch.cat([a, b * 2, *x.split(split_size=len(x), dim=1)], dim=1)",
    "numel of a shape": "return x * x.shape.numel() + x.size().numel()",
    "fill_diagonal_": "y = x.clone()\ny.fill_diagonal_(2.)\nreturn y",
    "a chain that fills, indexed": "return torch.empty(3, 4).fill_(2).mul_(3)[1:]",
    "is_tensor": "p = nn.Parameter(x)\nkinds = [x, p, 3, 'a', None]\n"
    "return torch.tensor([torch.is_tensor(k) for k in kinds] + [isinstance(k, torch.Tensor) for k in kinds])",
    "is_tensor of a parameter's data": "def asked(a: torch.Tensor):\n"
    "    return torch.is_tensor(a) * 2 + isinstance(a, torch.Tensor) + 4 * isinstance(a, (list, torch.Tensor))\n"
    "p = nn.Parameter(x)\nd = p.data\nones = [p.data, d, p.detach(), d[0], p.data.view(-1), x, p.cpu(), p[0]]\n"
    "return torch.tensor([asked(one) for one in ones] + [isinstance(p.data, torch.Tensor) + isinstance(d, torch.Tensor)]"
    " + [isinstance(one, (int, torch.Tensor)) for one in ones])",
    "is_tensor, passed on": "return sum(filter(torch.is_tensor, [x, 3, x * 2]))",
    "a tensor or a list": "kinds = [x, nn.Parameter(x), [1], 2]\n"
    "return torch.tensor([isinstance(k, (list, torch.Tensor)) for k in kinds])",
    "tensor types": "return torch.tensor([isinstance(x, torch.FloatTensor), isinstance(x, torch.LongTensor)])",
    "sums from the end": "return x.logcumsumexp(-1) + torch.var_mean(x, -1, keepdim=True)[1]",
    "pieces of a size": "n = x.shape[0]\nreturn [a.sum() * i for i, a in enumerate(x.split(n, dim=-1))][1] + sum(x.split(5))",
    "pieces of sizes": "s = [1, 2]\na, b = torch.split(x, s, dim=1)\nreturn a * b",
    "as large as": "return x[:1].tanh().expand(*(3, 2), -1) + x",
    "the narrow of a grid": "g = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(3), indexing='ij'))\n"
    "return x * (g * torch.tensor([2, 1])[:, None, None]).sum(0)",
    "linear algebra": "m = x @ x.T + torch.eye(2)\nreturn torch.linalg.inv(m) @ torch.linalg.norm(x, dim=0)[:2] + torch.det(m)",
    "a maximum by name of the dimension": "def g(t):\n    a, b = t.max(dim=1, keepdim=True)\n    return a + b\nreturn g(x)",
    "what a call may share": "def put(t, ts):\n    ts.append(t)\n    return t * 2, len(ts)\nys = []\n"
    "z, n = put(x, ys)\nz *= n\nreturn z",
}
WRITTEN = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.LSTM(3, 2)
            for w in self.a.parameters():
                w.data *= 2
                w.data += 1
                w.data[0] = 3.
                w.detach().mul_(0.5)
            for n, p in self.b.named_parameters():
                if "bias" in n:
                    p.detach().zero_()
                    p.data[2:4].fill_(1.)
                else:
                    p.data.clamp_(-0.1, 0.1)
"""
SPARSE = """
    import torch
    from torch import nn

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, dim=-1):
            ctx.dim = dim
            top, _ = input.max(dim=dim, keepdim=True)
            out = torch.clamp(input - top, min=-1)
            ctx.save_for_backward(out)
            return out

        @staticmethod
        def backward(ctx, grad):
            out, = ctx.saved_tensors
            return grad * (out > -1) - grad.sum(dim=ctx.dim, keepdim=True), None

    scale = Scale.apply

    class Named(nn.Linear):
        def reset_parameters(self):
            self.weight.data = torch.eye(3).t() * 2
            self.bias.data.zero_()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parameters = []
            self.fc = Named(3, 3)
            self.dim = -1
            self.parameters = nn.ParameterList([nn.Parameter(torch.ones(2))])

        def forward(self, x):
            return scale(self.fc(x), self.dim)
"""
X = np.linspace(-1, 2, 6, dtype=np.float32).reshape(2, 3)


def _run(text, side):
    space = {}
    exec(compile(text, "ported", "exec"), space)
    side.manual_seed(0)
    return space


@pytest.mark.parametrize("name", BODIES)
def test_functions(name):
    text = (
        "import torch\nfrom torch import nn\n\n\ndef f(x: torch.Tensor):\n"
        + textwrap.indent(BODIES[name], "    ")
        + "\n"
    )
    want = _run(text, torch)["f"](torch.from_numpy(X.copy()))
    ported = port_source(text)
    got = _run(ported.text, nn)["f"](jnp.asarray(X))
    np.testing.assert_allclose(np.asarray(got), want.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert not any(site.status == "cannot" for site in ported.sites)


@pytest.mark.parametrize("text", [WRITTEN, SPARSE], ids=["written", "sparse"])
def test_weights_and_outputs(text):
    text = textwrap.dedent(text)
    original = _run(text, torch)["Net"]()
    ported = _run(port_source(text).text, nn)["Net"]()
    theirs, ours = original.state_dict(), ported.state_dict()
    assert list(theirs) == list(ours)
    for name, value in theirs.items():
        np.testing.assert_allclose(np.asarray(ours[name]), value.numpy(), rtol=1e-6)
    if text.endswith("self.dim)\n"):
        x = torch.from_numpy(X.copy()).requires_grad_()
        out = original(x)
        (out * torch.arange(3.0)).sum().backward()
        np.testing.assert_allclose(np.asarray(ported(jnp.asarray(X))), out.detach().numpy(), rtol=1e-5)
        gradient = nn.grad(lambda x: (ported(x) * jnp.arange(3.0)).sum())(jnp.asarray(X))
        np.testing.assert_allclose(np.asarray(gradient), x.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "body, line",
    [
        ("q, k, v = (x, *y.chunk(2, dim=-1))", "q, k, v = (x, *jnp.split(y, 2, axis=-1))"),
        ("z = x.chunk(3, 1)\na, b, c = map(len, z)", "z = jnp.split(x, 3, axis=1)"),
        ("z = x.chunk(3, 1)\nassert isinstance(z, tuple)", "z = T.chunk(x, 3, 1)"),
        ("a, b, c = x.split([k, 2, k], dim=1)", "a, b, c = jnp.split(x, [k, k + 2], axis=1)"),
        ("a, b = torch.split(x, (3, 4), -1)", "a, b = jnp.split(x, [3], axis=-1)"),
        ("a, b = x.split(k)", "a, b = T.split(x, k)"),
        ("a = x.expand(2, -1, 3)", "a = jnp.broadcast_to(x, (2, x.shape[-2], 3))"),
        ("a = x.expand(*k, -1)", "a = jnp.broadcast_to(x, (*k, x.shape[-1]))"),
        ("a = x.expand(-1, *k)", "a = T.expand(x, -1, *k)"),
        ("a = (-x.exp()).expand(2, -1, 3)", "a = jnp.broadcast_to(-jnp.exp(x), (2, x.shape[-2], 3))"),
        ("a, b = x.split(3, dim=-2)", "a, b = jnp.split(x, np.arange(3, x.shape[-2], 3), axis=-2)"),
        ("s = (k, 2)\na, b = x.split(s, -1)", "a, b = jnp.split(x, np.cumsum(s)[:-1], axis=-1)"),
        (
            "n = y.shape[0] // 2\nfor a in x.split(n) if k else ():\n    g(a)",
            "jnp.split(x, np.arange(n, x.shape[0], n))",
        ),
        ("a = x.split(3)", "a = jnp.split(x, np.arange(3, x.shape[0], 3))"),
        ("a, b = x.split(k_size, 1)", "a, b = jnp.split(x, np.arange(k_size, x.shape[1], k_size), axis=1)"),
        ("a, b = x.split(sizes, 1)", "a, b = T.split(x, sizes, 1)"),
        ("a = x.split(3)\nreturn a", "a = T.split(x, 3)"),
        ("a, b = (x * 2).split(3)", "a, b = T.split(x * 2, 3)"),
        ("a = y.squeeze()", "a = jnp.squeeze(y)"),
        ("a = k.cpu()", "a = k\n"),
        ("k.cpu()", "k.cpu()"),
        ("a = k.long()", "a = k.astype(jnp.int32)"),
        ("a = k.mean(dim=1)", "a = k.mean(1)"),
        ("a = k.clamp(min=0)", "a = jnp.clip(k, min=0)"),
        ("a = k.clip(min=0)", 'a = T.dispatch(k, "clip")(min=0)'),
        ("with torch.backends.cuda.sdp_kernel(enable_math=False):\n    pass", "with contextlib.nullcontext():"),
        ("i = x.topk(k, dim=-1).indices", "i = jax.lax.top_k(x, k)[1]"),
        ("i = x.topk(k, dim=1)[1]", "i = jax.lax.top_k(x, k, axis=1)[1]"),
        ("i = x.topk(k, largest=False)[1]", "i = T.topk(x, k, largest=False)[1]"),
        ("a, n, d, t = *x.shape, x.device, x.dtype\nb = y.to(d).to(t)", "b = y.astype(t)"),
        ("b = g(x).cpu().detach().numpy()", "b = np.asarray(jax.lax.stop_gradient(g(x)))"),
        ("b = k.split('*', maxsplit=1)", "b = k.split('*', maxsplit=1)"),
    ],
)
def test_text_is_plain_where_it_is_right(body, line):
    head = "import torch\n\n\ndef f(x: torch.Tensor, y: torch.Tensor, k, g):\n"
    assert line in port_source(head + textwrap.indent(body, "    ") + "\n").text


TIDY = {
    "b, n, d = *x.shape, x.device\nreturn torch.zeros(n, device=d) + b": "b, n = x.shape\nreturn jnp.zeros(n) + b",
    "h, d, n = 2, y.device, len(x)\nreturn y.to(d) + h + n": "h, n = 2, len(x)\nreturn y + h + n",
    "d = x.device  # where\ny = y.to(d)\nreturn torch.ones(3, device=d) + y": "return jnp.ones(3) + y",
    "if y.dim() > 2:\n    y = y.contiguous()\nreturn y": "if y.ndim > 2:\n    pass\nreturn y",
    "d = x.device\nreturn d": "d = None\nreturn d",
    "d = x.device\ndef g():\n    return d\nreturn g": "d = None\ndef g():\n    return d\nreturn g",
    "d = x.device; n = 2\nreturn torch.ones(n, device=d)": "_ = None; n = 2\nreturn jnp.ones(n)",
    "d = x.device\nreturn x": "d = None\nreturn x",
    "(n,), d = y.shape, y.device\nreturn torch.ones(n, device=d)": "(n,) = y.shape\nreturn jnp.ones(n)",
    "n, d = *y.shape, y.device\nreturn torch.ones(n, device=d)": "n, = y.shape\nreturn jnp.ones(n)",
}


@pytest.mark.parametrize("body", TIDY)
def test_names_that_nothing_reads_any_more_go(body):
    head = "import torch\n\n\ndef f(x: torch.Tensor, y: torch.Tensor):\n"
    text = port_source(head + textwrap.indent(body, "    ") + "\n").text
    assert textwrap.dedent(text[text.index("):\n") + 3 :]) == TIDY[body] + "\n"


KERNEL = """
import torch
try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

def other(*args):
    raise RuntimeError

if triton is not None:
    @triton.autotune(configs=[], key=["n"])
    @triton.jit
    def kernel(x, n):
        tl.store(x, tl.load(x).to(tl.float32).sum(0))
else:
    kernel = other

def f(x: torch.Tensor, fast=True):
    if fast:
        kernel[(1,)](x, x.stride(0), n=x.size(0))
    return x.sum(0)
"""


def test_kernels_are_refused_as_a_whole():
    ported = port_source(KERNEL)
    assert [site.name for site in ported.sites if site.status == "cannot"].count("a Triton kernel") == 2
    assert "tl.store(x, tl.load(x).to(tl.float32).sum(0))" in ported.text and "stride" not in ported.text
    space = {}
    exec(compile(ported.text, "ported", "exec"), space)
    np.testing.assert_array_equal(space["f"](jnp.ones((2, 3)), fast=False), [2.0, 2.0, 2.0])
    with pytest.raises(nn.tensor.NotPorted, match="a Triton kernel has no counterpart here .reached from <source>:22"):
        space["f"](jnp.ones((2, 3)))


def test_files_of_other_frameworks_stay():
    text = "import mxnet\n\n\ndef f(x, layers):\n    layers.add(x)\n    return mxnet.split(x, 2).cpu()\n"
    ported = port_source(text)
    assert ported.text == text and not ported.sites


@pytest.mark.parametrize("call", ["torch.linalg.norm(x, dim=-1).sum()", "torch.linalg.norm(x, 2, dim=-1).sum()",
                                  "torch.linalg.norm(x, dim=(0, 1))", "torch.linalg.norm(x)"])  # fmt: skip
def test_norms_of_zeros_have_a_gradient(call):
    space = {}
    exec(
        compile(port_source(f"import torch\n\n\ndef f(x: torch.Tensor):\n    return {call}\n").text, "p", "exec"), space
    )
    x = torch.zeros(2, 3, requires_grad=True)
    eval(call).backward()
    np.testing.assert_array_equal(jax.grad(space["f"])(jnp.zeros((2, 3))), x.grad)


PARTIALS = """
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Conv = partial(nn.Conv2d, bias=False)
Wide = partial(Conv, padding=1)
gelu = partial(torch.nn.functional.gelu, approximate="tanh")
total = partial(torch.sum, dim=1)


def scaled(by, x):
    return x * by


twice = partial(scaled, 2)
saved = partial(checkpoint, twice, use_reentrant=False)


def f(x: torch.Tensor):
    norm = partial(nn.LayerNorm, elementwise_affine=False)
    layers = [Conv(1, 2, 1), Wide(2, 2, 3), norm(3), (Wide if x.ndim == 2 else Conv)(2, 2, 3), (norm if x.ndim else Conv)(3)]
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    run = saved if x.ndim == 2 else twice
    act = gelu if x.ndim else None
    y = run(act(x)) + twice(x)
    needs = x.requires_grad or y.requires_grad
    count = partial(torch.arange, device=next(layers[0].parameters()).device)
    return y, total(x) + total(y), torch.tensor(counts), (x * 2 if needs else x).sum() * 0, count(3)
"""


def test_functions_with_bound_arguments_keep_them():
    """A name of such a one is not the function's own name, which would lose what is bound."""
    want = _run(PARTIALS, torch)["f"](torch.from_numpy(X.copy()))
    text = port_source(PARTIALS).text
    found = _run(text, nn)["f"](jnp.asarray(X))
    for mine, theirs in zip(found, want, strict=True):
        np.testing.assert_allclose(np.asarray(mine), theirs.numpy(), rtol=2e-6, atol=2e-6)
    assert "nn.Conv2d(1, 2, 1)" not in text


CHECKPOINTED = """
import torch
import torch.utils.model_zoo as model_zoo
from torch.utils import checkpoint as cp
from torch.utils.checkpoint import checkpoint


def scaled(x, by=1.0, halves=False):
    return x * by / 2 if halves else x * by


def f(x: torch.Tensor):
    run = checkpoint if x.ndim else scaled
    calls = [checkpoint, cp.checkpoint]
    several = [call(scaled, x, by=5.0, use_reentrant=False) for call in calls]
    return run(scaled, x, by=3.0, halves=True, use_reentrant=False), *several, checkpoint(scaled, x, by=2.0, use_reentrant=False)


def weights(model, url):
    return model.load_state_dict(model_zoo.load_url(url, map_location="cpu"))
"""


def test_a_checkpoint_that_is_passed_on_passes_on_keywords():
    want = _run(CHECKPOINTED, torch)["f"](torch.from_numpy(X.copy()))
    text = port_source(CHECKPOINTED).text
    for mine, theirs in zip(_run(text, nn)["f"](jnp.asarray(X)), want, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), theirs.numpy())
    # A name that nothing uses any more is not put in its place.
    assert "model_zoo" not in text and "nn.hub.load_state_dict_from_url(url, map_location" in text


GUARDED = """
import torch

try:
    from flash_attn import attend

    has_it, tried = torch.cuda.is_available(), attend(torch.ones(2))
except ImportError:
    has_it = False


class Net:
    def kernel(self):
        try:
            import xformers.ops as ops  # fast

            self.ops = ops
        except Exception:
            raise ImportError("install xformers")
        return self.ops
"""


def test_what_stands_behind_an_import_that_fails_goes():
    ported = port_source(GUARDED)
    assert not re.search("attend|self.ops = ", ported.text) and {s.name for s in ported.sites} == {
        "flash_attn",
        "xformers.ops",
    }
    space = _run(ported.text, nn)
    assert space["has_it"] is False
    with pytest.raises(ImportError, match="install xformers"):
        space["Net"]().kernel()


def test_work_behind_an_import_that_fails_is_listed():
    """As where the package is missing; whoever has it would have had that done."""
    text = "try:\n    import timm\n    {}\nexcept Exception:\n    pass\n"
    for behind, status in (("train(timm)", "changed"), ("has_timm = True", "exact"), ("pass", "exact")):
        (site,) = port_source(text.format(behind)).sites
        assert site.status == status and (status == "exact" or "as if timm were not installed" in site.why)


UNPACKED = """
import torch

always = getattr(torch, "is_there", lambda: True)()


def step(a, state):
    return a * 2 + state, state + 1


def f(x: torch.Tensor):
    y, state = torch.zeros_like(x), 0
    for i in range(3):
        y[:, i], state = step(
            x[:, i], state
        )
    (y[0, 0], z), last = step(x[0, 1], 5), 7
    return y, y * state + always, z + last
"""


def test_an_item_among_several_targets_is_written_after_them():
    want = _run(UNPACKED, torch)["f"](torch.from_numpy(X.copy()))
    ported = port_source(UNPACKED)
    assert not [site for site in ported.sites if not site.decided], ported.text
    for mine, theirs in zip(_run(ported.text, nn)["f"](jnp.asarray(X)), want, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=1e-6)
    # Its place depends on another target, or no statement can follow.
    for line in ("i, y[i] = 1, x[1]", "y[i], i = x[1], 1", "y[0], y[1] = x[1], x[0]", "y[0], i = x[1], 1; z = y"):
        text = f"import torch\n\n\ndef f(x: torch.Tensor, i):\n    y = torch.zeros(2, 3)\n    {line}\n    return y\n"
        (site,) = [site for site in port_source(text).sites if site.name == "x[i] = v"]
        assert site.status == "cannot" and "several targets at once" in site.why


def test_the_device_of_a_weight_is_not_asked_for():
    """A traced weight has none: the forward of a ported model runs under nn.jit."""
    original = (
        "import torch\nfrom torch import nn\n\n\ndef where(module):\n    return next(module.parameters()).device\n\n\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.lin = nn.Linear(3, 2)\n\n"
        "    def forward(self, x: torch.Tensor):\n        d = next(self.parameters()).device\n"
        "        return self.lin(x.to(d)) + torch.ones(2, device=where(self.lin)).to(d)\n"
    )
    want = _run(original, torch)["Net"]()(torch.from_numpy(X.copy()))
    model = _run(port_source(original).text, nn)["Net"]()
    for call in (model, nn.jit(model)):
        np.testing.assert_allclose(call(jnp.asarray(X)), want.detach().numpy(), rtol=1e-5, atol=1e-6)


# Each function gives numbers; the original and its port give the same.
WITHOUT_A_WORD = {
    "gradients of a module by its input": """
        class Energy(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.arange(3.0))

            def forward(self, x):
                return (self.w * x**3).sum()

            def pulled(self, x):
                return torch.func.grad(self.forward)(x)

        def f():
            m, x = Energy(), torch.arange(1.0, 4.0)
            slope, value = torch.func.grad_and_value(m)(x)
            return [torch.func.grad(m)(x), m.pulled(x), slope, value, torch.vmap(torch.func.grad(m))(torch.ones(2, 3))]
    """,
    "modules in trees": """
        from torch.utils._pytree import tree_leaves, tree_map

        def f():
            tree = [nn.Linear(2, 3), (torch.ones(2), None)]
            kinds = tree_map(lambda v: 2 if isinstance(v, nn.Module) else 3, tree)
            return [torch.tensor(len(tree_leaves(tree))), torch.tensor(kinds[0])]
    """,
    "probes of methods and functions": """
        def f():
            asked = [hasattr(torch.Tensor, "view"), hasattr(torch, "view"), hasattr(torch, "repeat"), hasattr(torch, "sin")]
            asked += [getattr(torch, "view", None) is None, getattr(torch.Tensor, "nothing", None) is None]
            return [torch.tensor(asked)]
    """,
    "imports that fail, in a generator and with global names": """
        try:
            import math, flash_attn
        except ImportError:
            flash_attn = None
        chosen = 1

        def pieces():
            try:
                import flash_attn as flash
                yield 1
            except ImportError:
                return

        def choose():
            try:
                import flash_attn as flash
                global chosen
                chosen = 2
            except ImportError:
                chosen = 3

        def f():
            choose()
            return [torch.tensor([len(list(pieces())), chosen, int(math.pi)])]
    """,
}


@pytest.mark.parametrize("name", WITHOUT_A_WORD)
def test_nothing_comes_out_other_without_a_word(name):
    text = "import torch\nfrom torch import nn\n" + textwrap.dedent(WITHOUT_A_WORD[name])
    ported = port_source(text)
    want, got = _run(text, torch)["f"](), _run(ported.text, nn)["f"]()
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(mine), theirs.detach().numpy(), rtol=1e-6)


def test_a_vmap_whose_call_is_not_seen_is_listed():
    """Keywords of that call are mapped, as jax.vmap's are, and torch's are not."""
    seen, unseen = "torch.vmap(torch.sin)(torch.ones(2, 3))", "f = torch.vmap(torch.sin)"
    sites = [port_source(f"import torch\n{line}\n").sites for line in (seen, unseen)]
    assert [site.status for site in sum(sites, []) if "vmap" in site.name] == ["exact", "changed"]


def test_a_file_that_always_raises_without_a_package_is_undecided():
    ported = port_source(
        "import torch\ntry:\n    import timm\nexcept ImportError:\n    raise ImportError('install timm')\n"
    )
    assert [site.status for site in ported.sites] == ["cannot"]
    _run(ported.text, nn)
