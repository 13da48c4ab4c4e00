"""Whole files: the text that comes out, what is kept, what is refused, and that nothing of the original runs."""

import ast
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as jax_F
from jaxnn.__main__ import main
from jaxnn.port import port_source


def ported(text: str) -> str:
    return port_source(textwrap.dedent(text).lstrip()).text


def body(text: str, head: str = "import torch\n\n\n") -> str:
    """The ported function alone."""
    out = ported(head + textwrap.dedent(text))
    return out[out.index("def ") :]


def statuses(text: str) -> dict[str, str]:
    return {site.name: site.status for site in port_source(textwrap.dedent(text)).sites}


MODEL = '''
"""A block."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class Block(nn.Module):
    def __init__(self, dim, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)  # projections
        self.pos = nn.Parameter(torch.zeros(1, 4, dim))
        w = torch.empty(dim, dim)
        nn.init.xavier_uniform_(w)
        self.w = nn.Parameter(w)
        self.qkv.weight.data.normal_(0, 0.02)
        with torch.no_grad():
            self.pos[:, 0].fill_(1.0)

    def forward(self, x: Tensor):
        B, N, C = x.shape
        x = x + self.pos[:, : x.size(1)]
        qkv = self.qkv(x).view(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q @ k.transpose(-2, -1)) * q.size(-1) ** -0.5
        mask = torch.ones(N, N, dtype=torch.bool, device=x.device).tril()
        attn = attn.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        y = torch.cat(
            [attn @ v,  # attended
             v],
            dim=-1,  # doubled
        )
        y = y.transpose(1, 2).contiguous().view(B, N, 2 * C)
        y[:, 0] = 0
        y[:, 1] += x.mean(dim=1).repeat(1, 2)
        a, b = y.chunk(2, dim=-1)
        a = a * 2
        a *= 2
        return F.gelu(torch.matmul(a, self.w)) + b.clamp(min=0.1)
'''


def test_a_model_gives_the_same_numbers_and_gradients():
    torch = pytest.importorskip("torch")
    import jaxnn as nn

    spaces = {}
    for side, text in (("torch", MODEL), ("jax", port_source(MODEL).text)):
        spaces[side] = {"__name__": side}
        exec(compile(text, side, "exec"), spaces[side])
    assert "torch" not in port_source(MODEL).text
    torch.manual_seed(0)
    nn.manual_seed(0)
    theirs, ours = spaces["torch"]["Block"](8), spaces["jax"]["Block"](8)
    for name, value in theirs.state_dict().items():  # the same seed, the same weights
        np.testing.assert_allclose(np.asarray(ours.state_dict()[name]), value.numpy(), atol=1e-6, err_msg=name)
    x = np.random.default_rng(0).standard_normal((2, 4, 8), np.float32)
    expected = theirs(torch.from_numpy(x))
    np.testing.assert_allclose(np.asarray(jax.jit(lambda m, x: m(x))(ours, x)), expected.detach().numpy(), atol=1e-5)
    expected.square().sum().backward()
    grads = nn.grad(lambda m: jnp.square(m(jnp.asarray(x))).sum())(ours)
    for name, p in theirs.named_parameters():
        np.testing.assert_allclose(np.asarray(grads[name]), p.grad.numpy(), atol=2e-4, rtol=1e-4, err_msg=name)


def test_only_what_is_torchs_changes():
    out = port_source(MODEL).text
    kept = [line for line in MODEL.splitlines() if "#" in line or '"""' in line or "class " in line]
    assert all(line.split("#")[-1].strip() in out for line in kept)
    assert "[attn @ v,  # attended\n             v],\n            axis=-1,  # doubled\n" in out


def test_a_second_run_changes_nothing():
    once = port_source(MODEL).text
    again = port_source(once)
    assert again.text == once and again.sites == []


def test_strings_and_lists_keep_their_methods():
    text = """
    def f(name: str, items: list, d: dict, x: torch.Tensor):
        d["a"] = 1
        items[0] = 2
        items += [3]
        return name.split("."), items, x.split(2)
    """
    assert body(text).strip().endswith('return name.split("."), items, T.split(x, 2)')
    assert 'd["a"] = 1\n        items[0] = 2\n        items += [3]' in body(text) or 'd["a"] = 1' in body(text)


def test_what_may_be_a_tensor_is_asked_when_it_runs():
    text = "import torch\n\n\ndef f(x, n):\n    return x.split(n)\n"
    (site,) = port_source(text).sites
    assert site.status == "dispatch" and not site.decided
    assert 'T.dispatch(x, "split")(n)' in port_source(text).text


def test_a_use_elsewhere_decides():
    text = "import torch\n\n\ndef f(x, n):\n    y = x.unsqueeze(0)\n    return x.split(n), y\n"
    assert "T.split(x, n)" in port_source(text).text


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ("x = torch.zeros(3)\nx[0] = 1\nreturn x", "x = x.at[0].set(1)"),
        ("x = torch.zeros(3)\nx[0] += 1\nreturn x", "x = x.at[0].add(1)"),
        ("x = torch.zeros(3)\ni = torch.arange(3)\nx[i] += 1\nreturn x", "x = x.at[i].set(x[i] + 1)"),
        ("x = torch.zeros(3)\nx.add_(1).mul_(2)\nreturn x", "x = (x + 1) * 2"),
        ("x = torch.zeros(2, 3)\nx[0].fill_(5)\nreturn x", "x = x.at[0].set(5)"),
        ("x = torch.zeros(2, 3)\nx[0][1] = 5\nreturn x", "x = x.at[0].set(x[0].at[1].set(5))"),
        ("x = torch.zeros(2, 3)\nx.view(-1)[2] = 5\nreturn x", "x = x.reshape(-1).at[2].set(5).reshape(x.shape)"),
        ("x = torch.empty(3).fill_(2)\nreturn x", "x = jnp.full_like(jnp.zeros(3), 2)"),
        ("x = torch.zeros(3)\ny = x\nx = x + 1\ny += 10\nreturn x + y", "y += 10"),
        ("x = torch.zeros(3)\ny = x\nx += 1\nreturn y", "x = y = x + 1"),
    ],
)
def test_writes(statements, expected):
    text = "def f():\n" + textwrap.indent(statements, "    ")
    out = body(text)
    assert expected in out
    torch = pytest.importorskip("torch")
    spaces: list[dict] = [{"torch": torch}, {}]
    exec(text, spaces[0])
    exec(ported("import torch\n\n\n" + text), spaces[1])
    np.testing.assert_array_equal(np.asarray(spaces[1]["f"]()), spaces[0]["f"]().numpy())


@pytest.mark.parametrize(
    "statements",
    [
        "x = torch.zeros(2, 3)\ny = x[0]\nx[0] = 1\nreturn y",
        "x = torch.zeros(2, 3)\ny = x.view(-1)\ny += 1\nreturn x",
        "x = torch.zeros(2)\nxs = [x]\nx += 1\nreturn xs",
        "x = torch.zeros(2)\nxs = [x]\nxs[0][0] = 1\nreturn x",
        'x = torch.zeros(2)\nd = {"a": x}\nd["a"] += 1\nreturn x',
        "x = torch.zeros(2)\ny = torch.ones(2)\nx, y = y, x\nx += 5\nreturn x + y",
        "xs = [torch.zeros(2)]\n[t.add_(1) for t in xs]\nreturn xs",
        "x = torch.zeros(2)\nf = lambda t: t.add_(1)\nf(x)\nreturn x",
        "x = torch.zeros(2)\nxs = []\nfor i in range(2):\n    x += 1\n    xs.append(x)\nreturn xs",
        "xs = [torch.zeros(2)]\nfor x in xs:\n    x.add_(1)\nreturn xs",
    ],
)
def test_a_write_that_another_name_sees_is_refused(statements):
    text = "import torch\n\n\ndef f():\n" + textwrap.indent(statements, "    ")
    result = port_source(text)
    assert [site.status for site in result.sites if site.status == "cannot"]
    space: dict = {}
    exec(result.text, space)
    with pytest.raises(NotImplementedError, match="source"):
        space["f"]()


def test_an_argument_that_is_written_to_says_so():
    text = "import torch\n\n\ndef f(x: torch.Tensor):\n    x[:, 0] = 0\n    return x\n"
    (site,) = [s for s in port_source(text).sites if s.name == "x[i] = v"]
    assert site.status == "changed" and "caller" in site.why


def test_layout_that_is_hard_to_keep():
    text = """
    import torch


    @torch.jit.script
    def f(x: torch.Tensor, y):
        y[:, 0] = 1
        return f"{torch.__version__} {x.size(0)}"


    class A:
        @torch.jit.ignore()
        @staticmethod
        def g(x: torch.Tensor):
            return x.view(-1)
    """
    out = ported(text)
    assert out.count("@") == 1 and "T.set_item(y, (slice(None, None), 0), 1)" in out
    space: dict = {}
    exec(out, space)
    assert space["f"](jnp.zeros(3), np.zeros((2, 2))) == "2.13.0 3" and space["A"].g(jnp.zeros((2, 2))).shape == (4,)


FUNCTIONS = """
import torch
from torch import nn
from torch.autograd import Function


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return scale * x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad_output):
        x = ctx.saved_tensors[0]
        s = torch.sigmoid(x)
        return 3 * ctx.scale * grad_output * (s * (1 + x * (1 - s))), None


class Rounded(Function):
    @staticmethod
    def forward(ctx, x, y):
        return x.round(), y.clamp(min=0)

    @staticmethod
    def backward(ctx, a, b):
        return a, 2 * b


def f(x: torch.Tensor):
    y = Swish.apply(x, 2.0)
    a, b = Rounded.apply(y, x)
    return (a * y).sum() + (b * x).sum()


def g(x: torch.Tensor, act=torch.clamp):
    return act(x, min=0.5)
"""


def test_functions_with_a_gradient_of_their_own():
    torch = pytest.importorskip("torch")
    out = port_source(FUNCTIONS)
    assert all(site.decided for site in out.sites) and "torch" not in out.text
    spaces: list[dict] = [{}, {}]
    exec(FUNCTIONS, spaces[0])
    exec(out.text, spaces[1])
    x = np.linspace(-2, 2, 7, dtype=np.float32)
    t = torch.tensor(x, requires_grad=True)
    spaces[0]["f"](t).backward()
    np.testing.assert_allclose(jax.jit(jax.grad(spaces[1]["f"]))(jnp.asarray(x)), t.grad.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(spaces[1]["g"](jnp.asarray(x)), spaces[0]["g"](torch.tensor(x)).numpy())


def test_a_clone_of_a_parameter_is_not_tied_to_it():
    import jaxnn as nn

    text = """
    import torch
    from torch import nn


    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.register_buffer("start", self.weight.detach().clone())
            self.register_buffer("same", torch.tensor(self.weight.data))
            y = torch.zeros(3)
            self.made = (y + 1).clone()
    """
    out = ported(text)
    assert "self.made = y + 1\n" in out
    space: dict = {}
    exec(out, space)
    model = space["Net"]()
    nn.init.zeros_(model.weight)
    assert model.start.tolist() == model.same.tolist() == [1, 1, 1] and len(list(model.parameters())) == 1


def test_probes_are_folded():
    text = "import torch\nA = torch.jit.is_scripting()\nB = hasattr(torch, 'compile')\nC = hasattr(torch, 'nothing_of_this')\n"
    space: dict = {}
    exec(port_source(text).text, space)
    assert (space["A"], space["B"], space["C"]) == (False, True, False)
    text = "import torch\nA = getattr(torch, 'SymInt', int)\nB = getattr(torch.nn.functional, 'gelu', None)\n"
    text += "C = getattr(A, 'real', 3)\n"
    exec(port_source(text).text, space)
    assert (space["A"], space["B"], space["C"]) == (int, jax_F.gelu, int.real)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("torch.sum(a.mul(b))", "(a * b).sum()"),
        ("torch.clone(a.add(b)) * 2", "(a + b) * 2"),
        ("a.add(b).mul(a.sub(b))", "(a + b) * (a - b)"),
        ("a.mul(b).t()", "(a * b).T"),
        ("a.add(b)[0]", "(a + b)[0]"),
        ("-a.add(b)", "-(a + b)"),
        ("a.pow(2).neg()", "-(a ** 2)"),
        ("(a - b).pow(2) / a.add(1)", "(a - b) ** 2 / (a + 1)"),
        ("a.eq(b).float()", "(a == b).astype(jnp.float32)"),
        ("torch.where(a.gt(0), a.sub(b), b)", "jnp.where(a > 0, a - b, b)"),
        ("(a if n else b).add(1)", "(a if n else b) + 1"),
    ],
)
def test_parentheses(call, expected):
    text = f"def f(a: torch.Tensor, b: torch.Tensor, n: int):\n    return {call}\n"
    assert body(text).strip().endswith(f"return {expected}")


def test_what_has_no_counterpart_fails_when_used_not_when_imported():
    text = "import torch\nfrom torch.distributions import Nothing\n\nS = torch.cuda.Stream\n\n\ndef f():\n    return Nothing(1)\n"
    result = port_source(text, "model.py")
    space: dict = {}
    exec(result.text, space)
    with pytest.raises(NotImplementedError, match=r"model.py:8"):
        space["f"]()


def test_a_names_alias_that_is_taken_gives_way():
    text = "import torch\n\n\ndef f(x: torch.Tensor):\n    B, T, C = x.shape\n    return x.split(2), T\n"
    out = port_source(text).text
    ast.parse(out)
    assert "jT.split(x, 2)" in out and "import tensor as jT" in out


BOOBY = 'import torch\nopen("TRAP", "w").write("ran")\nraise SystemExit(3)\n'


def test_nothing_of_the_package_runs(tmp_path, monkeypatch, capsys):
    package = tmp_path / "booby"
    package.mkdir()
    (package / "__init__.py").write_text(BOOBY + "from .model import Net\n")
    (package / "model.py").write_text(BOOBY + "from torch import nn\nclass Net(nn.Module):\n    pass\n")
    (package / "setup.py").write_text(BOOBY)
    (package / "conftest.py").write_text(BOOBY)
    monkeypatch.chdir(tmp_path)
    assert main(["port", "booby", "-o", "out", "--report", "r.md", "--json", "r.json", "--diff"]) == 0
    assert not (tmp_path / "TRAP").exists() and not (package / "TRAP").exists()
    assert "import jaxnn as nn" in (tmp_path / "out/model.py").read_text()
    assert "import jaxnn as nn" in capsys.readouterr().out


def test_the_original_is_never_written_over(tmp_path, capsys):
    file = tmp_path / "model.py"
    file.write_text("import torch\n")
    assert main(["port", str(file), "-o", str(file)]) == 1
    assert main(["port", str(tmp_path), "-o", str(tmp_path)]) == 1
    assert main(["port", str(tmp_path), "-o", str(tmp_path / "inside")]) == 1
    assert file.read_text() == "import torch\n" and "never written over" in capsys.readouterr().err


def test_exit_status(tmp_path):
    file = tmp_path / "model.py"
    file.write_text("import torch\n\n\ndef f(x, n):\n    return x.split(n)\n")
    out = tmp_path / "out.py"
    assert main(["port", str(file), "-o", str(out), "--strict"]) == 2 and not out.exists()
    assert main(["port", str(file), "-o", str(out)]) == 2 and out.exists()
    assert main(["port", str(tmp_path / "nothing.py")]) == 1


def test_an_edited_port_is_written_over_by_force_alone(tmp_path, capsys):
    source, out = tmp_path / "model.py", tmp_path / "model_jax.py"
    source.write_text("import torch\n\n\ndef f(x: torch.Tensor):\n    return x.unsqueeze(0)\n")
    options = ["port", str(source), "-o", str(out)]
    assert main(options) == 0
    first = out.read_text()
    assert main(options) == 0 and out.read_text() == first  # a second run changes nothing
    source.write_text(source.read_text().replace("unsqueeze(0)", "unsqueeze(1)"))
    assert main(options) == 0 and "(x, 1)" in out.read_text()  # nor does it keep what nobody has edited
    edited = out.read_text().replace("return", "return 2 *")
    for text in (edited, "# mine\n", edited.rpartition("# Written")[0]):
        out.write_text(text)
        assert main(options) == 1 and out.read_text() == text
        assert "model_jax.py: exists and is not as this command wrote it" in capsys.readouterr().err
    assert main([*options, "--force"]) == 0 and "return 2" not in out.read_text()
    again = tmp_path / "again.py"
    assert main(["port", str(out), "-o", str(again)]) == 0 and again.read_text() == out.read_text()


def test_of_a_package_with_one_edited_file_nothing_is_written(tmp_path):
    package, out = tmp_path / "package", tmp_path / "out"
    package.mkdir()
    for name in ("__init__", "one", "two"):
        (package / f"{name}.py").write_text("import torch\nx = torch.zeros(3)\n")
    options = ["port", str(package), "-o", str(out)]
    assert main(options) == 0
    (out / "two.py").write_text("# mine\n")
    (package / "one.py").write_text("import torch\nx = torch.ones(3)\n")
    assert main(options) == 1 and "zeros" in (out / "one.py").read_text() and (out / "two.py").read_text() == "# mine\n"


def test_tensorboards_writer_is_the_one_that_needs_no_torch():
    forms = ("from torch.utils.tensorboard import SummaryWriter", "from torch.utils.tensorboard import SummaryWriter as SW",
             "import torch.utils.tensorboard as tb", "from torch.utils import tensorboard",
             "import torch.utils.tensorboard")  # fmt: skip
    names = (
        "SummaryWriter",
        "SW",
        "tb.SummaryWriter",
        "tensorboard.SummaryWriter",
        "torch.utils.tensorboard.SummaryWriter",
    )
    for form, name in zip(forms, names):
        ported = port_source(f"import torch\n{form}\nwriter = {name}('runs')\n")
        assert "tensorboardX" in ported.text and "torch" not in ported.text and "not_ported" not in ported.text, (
            ported.text
        )
        assert any("pip install tensorboardX" in site.why for site in ported.sites), form
        compile(ported.text, "<ported>", "exec")
        made = []
        tensorboard = types.SimpleNamespace(SummaryWriter=made.append)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "tensorboardX", tensorboard)
            exec(ported.text, {})
        assert made == ["runs"], form


def test_flags_of_torchs_kernels_go():
    """They were listed as what raises, and did not."""
    ported = port_source(
        "import torch\nimport torch.backends.cudnn as cudnn\n\ntorch.backends.cudnn.benchmark = True\n\n\ndef seed(n):\n"
        "    torch.backends.cudnn.deterministic = True\n    cudnn.benchmark = False\n\n\ndef run(n):\n    torch.manual_seed(n)\n"
        "    if n:\n        torch.backends.cuda.matmul.allow_tf32 = True\n    return n\n"
    )
    assert (
        "cudnn" not in ported.text.replace("cudnn = T", "").replace("backends.cudnn", "")
        and "= True" not in ported.text
    )
    assert all(site.decided for site in ported.sites)
    names: dict = {}
    exec(ported.text, names)
    assert names["seed"](1) is None and names["run"](2) == 2


def test_the_type_of_a_device_that_the_file_makes_is_known():
    """It was None.type."""
    head = 'import torch\ndevice = torch.device("cuda" if torch.cuda.is_available() else "cpu")\n'
    names: dict = {}
    exec(
        ported(
            head + "def amp(x):\n    other = torch.device('cuda')\n    return device.type == 'cuda' or other.type\n"
        ),
        names,
    )
    assert names["amp"](1) == "cpu"
    assert "device.type" in ported(head + "def amp(device):\n    return device.type\n")  # another one


def test_a_device_that_is_printed_is_jaxs(capsys):
    """It was None."""
    head = 'import torch\ndevice = torch.device("cuda" if torch.cuda.is_available() else "cpu")\n'
    exec(ported(head + 'def main():\n    print(f"on {device}")\n    print("on", device)\n\n\nmain()\n'), {})
    assert capsys.readouterr().out == f"on {jax.default_backend()}\n" * 2
    text = "def main(device):\n    print(device)\n"  # one that the file does not make
    assert "default_backend" not in ported(head + text)


def test_a_call_whose_result_nobody_takes_is_no_tensors():
    names: dict = {}
    exec(ported("import torch\n\n\ndef order(x):\n    x.sort()\n    return x\n"), names)
    assert names["order"](np.asarray([2, 1])).tolist() == [1, 2] == names["order"]([2, 1])
