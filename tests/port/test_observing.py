"""``--run``: what one run of the original shows decides open places, behind guards that fail loudly."""

import json
import re
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnn import tensor as T
from jaxnn.__main__ import main
from jaxnn.port import observing, port_source
from jaxnn.port.observing import child

torch = pytest.importorskip("torch", reason="the original runs under torch")

MODEL = '''
import torch
from torch import nn


def pick(x, n):
    """Of tensors, and of names."""
    return x.split(n)


def words(text, sign):
    return text.split(sign)


def either(x, n):
    return x.split(n)


class Net(nn.Module):
    def __init__(self, act, same):
        super().__init__()
        self.act, self.same = act, same
        self.fc = nn.Linear(4, 4)

    def forward(self, batch):
        x = batch["x"]
        a, b = pick(x, 2)
        for t in batch["many"]:
            t = t.transpose(0, 1)
            u = t.split(2)[0]
        store = batch["store"]
        store["last"] = 1
        h = self.act(self.fc(x))
        g = self.same(h)
        g += 1
        first = either(x, 2)[0] if n(words("a.b", "."), 2) else either("a b", " ")[0]
        return (a + b).sum() + u.sum() + first.sum() + g.sum() + h.sum()


def n(items, count):
    return len(items) == count and either("a b", " ") == ["a", "b"]


def never(x, flag):
    if flag:
        return x.split(3)
    return 0.0


def make():
    net = Net(nn.Tanh(), lambda h: h * 1)
    return net, ({"x": torch.linspace(-1, 1, 16).view(4, 4), "many": [torch.eye(4)], "store": {}},)


def shares():
    return Net(nn.Tanh(), lambda h: h), make()[1]


def raises():
    raise KeyError("width")


def ends():
    raise SystemExit(3)


def number():
    return 3, 4


def hangs():
    while True:
        pass
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("observed")
    (home / "model.py").write_text(MODEL)
    return home


def run_here(folder, function, keys):
    """What the process of an observation does, in this one."""
    placed = [(kind, str(folder / path), *rest) for kind, path, *rest in keys]
    job = {"make": str(folder / "model.py"), "function": function, "seed": 0, "keys": placed, "path": [str(folder)]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "meta_path", list(sys.meta_path))
        return child.observed(job)


def observed(folder, function):
    """The port, and what was noted."""
    notes = {}

    def run(keys):
        seen, said = run_here(folder, function, keys)
        notes.update(zip(keys, seen))
        return dict(zip(keys, seen)), said

    return port_source(MODEL, "model.py", run=run), notes


@pytest.fixture(scope="module")
def port(folder):
    return observed(folder, "make")


def _site(ported, text, line=0):
    return next(site for site in ported.sites if text in site.before and site.line >= line)


def test_what_was_seen_decides_open_places(port):
    ported, notes = port
    static = port_source(MODEL, "model.py")
    line = next(at for at, one in enumerate(MODEL.splitlines(), 1) if "def pick" in one)
    assert _site(static, "x.split(n)").status == "dispatch"
    assert _site(ported, "x.split(n)").status == "guarded"
    assert "observed: x is array of rank 2 float32" in _site(ported, "x.split(n)").why
    assert f'T.expect(x, "array", "model.py:{line}")\n    return T.split(x, n)' in ported.text
    assert '"""Of tensors, and of names."""\n    T.expect' in ported.text  # behind the docstring
    assert "text.split(sign)" in ported.text  # strings keep their method
    assert (
        'jnp.swapaxes(T.expect(t, "array"' in ported.text
        and "u = jnp.split(t, np.arange(2, t.shape[0], 2))[0]" in ported.text
    )
    assert 'store["last"] = 1' in ported.text
    # Both kinds, or nothing, were seen: it is asked when it runs, as before.
    both = _site(ported, "x.split(n)", next(at for at, one in enumerate(MODEL.splitlines(), 1) if "def either" in one))
    assert both.status == "dispatch" and "observed: x is array or str" in both.why
    assert _site(ported, "x.split(3)").status == "dispatch" and "observed" not in _site(ported, "x.split(3)").why
    assert any(seen.numbers == {2} for seen in notes.values())


def test_the_guarded_port_is_right_and_fails_loudly_when_it_is_not(port):
    space: dict = {}
    exec(port[0].text, space)
    original: dict = {}
    exec(MODEL, original)
    torch.manual_seed(0)
    theirs, (batch,) = original["make"]()
    import jaxnn as nn

    nn.manual_seed(0)
    ours, (mine,) = space["make"]()
    arrays = {key: value for key, value in mine.items() if key != "store"}
    compiled = nn.jit(lambda m, a: m({**a, "store": {}}))(ours, arrays)
    with torch.no_grad():
        np.testing.assert_allclose(compiled, theirs(batch), rtol=1e-5)
    with pytest.raises(TypeError, match=r"observed to be array \(model.py:\d+\); got str: 'a b'.*annotate it"):
        space["pick"]("a b", " ")


def test_what_was_seen_to_share_its_numbers_is_refused(folder, port):
    """`g = self.same(h); g += 1` with `h` read later: right while the call gives a new array, wrong when it gives `h`."""
    site = next(s for s in port[0].sites if s.name == "x += y" and "g" in s.before)
    assert site.status == "changed" and "observed: not shared" in site.why
    refused, _ = observed(folder, "shares")
    site = next(s for s in refused.sites if s.name == "x += y" and "g" in s.before)
    assert site.status == "cannot" and "h, read later, was seen to hold the same numbers" in site.why


def test_a_run_against_what_the_text_says_is_a_fault_of_the_tool():
    text = "import torch\n\n\ndef f(x: torch.Tensor):\n    return x.split(2)\n"

    def run(keys):
        return {key: observing.Seen(kinds={"str"}, times=1) for key in keys}, []

    (site,) = [site for site in port_source(text, run=run).sites if site.name == "Tensor.split"]
    assert site.status == "cannot" and "contradicts" in site.why


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", r"--run model.py:raises failed: model.py:\d+: KeyError: 'width'"),
        ("ends", r"failed: model.py:\d+: SystemExit: 3"),
        ("number", "TypeError: it gave a int where the model was expected"),
        ("missing", "there is no function 'missing' in it; it has pick, words"),
    ],
)
def test_a_make_file_that_fails(folder, function, said):
    seen, (text,) = run_here(folder, function, [])
    assert seen is None and re.search(said, text), text


def test_a_run_that_hangs_is_ended(folder):
    with pytest.raises(observing.NotObserved, match="no answer within 5 s"):
        observing.run(folder / "model.py", [], f"{folder}/model.py:hangs", 5)


def test_torch_that_is_missing_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "needs PyTorch; this Python has none" in run_here(folder, "make", [])[1][0]


def test_the_command_line(tmp_path, capsys):
    """A package, observed on request alone; without --run nothing of it runs."""
    package = tmp_path / "net"
    package.mkdir()
    trap = f"open({str(tmp_path / 'trap')!r}, 'w').close()\n"
    (package / "__init__.py").write_text("from .model import Net\n")
    (package / "model.py").write_text(
        trap
        + textwrap.dedent("""
        import torch


        class Net(torch.nn.Module):
            def forward(self, batch):
                return batch["x"].split(2)[0]
        """)
    )
    (tmp_path / "make.py").write_text(
        "import torch\nfrom net import Net\n\n\ndef make():\n    return Net(), ({'x': torch.eye(4)},)\n"
    )
    options = ["port", str(package), "-o", str(tmp_path / "out"), "--json", str(tmp_path / "out.json")]
    assert main(options) == 2 and not (tmp_path / "trap").exists()
    assert main([*options, "--run", f"{tmp_path}/make.py:make"]) == 0 and (tmp_path / "trap").exists()
    assert 'jnp.split(T.expect(batch["x"], "array", "model.py:' in (tmp_path / "out/model.py").read_text()
    assert json.loads((tmp_path / "out.json").read_text())["statuses"]["guarded"] == 1
    capsys.readouterr()
    assert main([*options, "--run", f"{tmp_path}/nothing.py:make"]) == 1
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (jnp.ones(2), "array"), (np.ones(2), "array"), (3, "int"), (True, "bool"), (1.5, "float"), ("a", "str"),
        (None, "int|none"), ([jnp.ones(2)], "list of array"), ((1, 2), "tuple of int"), ({}, "dict"), ([], "list of str"),
    ],
)  # fmt: skip
def test_expect_gives_back_what_it_expects(value, kind):
    assert T.expect(value, kind) is value


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("a", "array"), (None, "array"), (True, "int"), (1, "float"), ([jnp.ones(2), 1], "list of array"), ([1], "tuple of int"),
        (jnp.ones(()), "int|none"),
    ],
)  # fmt: skip
def test_expect_raises_for_another_kind(value, kind):
    with pytest.raises(TypeError, match=r"model.py:3"):
        T.expect(value, kind, "model.py:3")


def test_expect_costs_nothing_in_compiled_code_and_knows_its_kinds():
    assert str(jax.make_jaxpr(lambda x: T.expect(x, "array") + 1)(1.0)) == str(jax.make_jaxpr(lambda x: x + 1)(1.0))
    with pytest.raises(ValueError, match="kind: expected one of array"):
        T.expect(1, "tensor")
