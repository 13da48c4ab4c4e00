"""`--with`: packages that are ported with what imports them."""

import json
import re
import sys
import textwrap
from pathlib import Path

import pytest

from jaxnn.__main__ import main
from jaxnn.port import others

NET = """
import torch
from torch import nn
from torch_pieces import Scale, Scale as Other
from torch_pieces.shapes import halves


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = Scale(4)

    def forward(self, x):
        a, b = halves(x)
        return torch.cat((self.scale(a), b), dim=-1)
"""
PIECES = {
    "__init__.py": "from .layers import Scale\n",
    "layers.py": """
        import torch
        from torch import nn


        class Scale(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.weight = nn.Parameter(torch.full((width,), 2.0))

            def forward(self, x):
                return x * self.weight
        """,
    "shapes.py": "def halves(x):\n    return x.chunk(2, dim=-1)\n",
    "words.txt": "read beside the code",
}
TRAP = "open({!r}, 'w').close()\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package `net`, and a package on the path that it imports; both write a file when they are imported."""
    installed = tmp_path / "site"
    (installed / "torch_pieces").mkdir(parents=True)
    for name, text in PIECES.items():
        (installed / "torch_pieces" / name).write_text(textwrap.dedent(text))
    with (installed / "torch_pieces" / "layers.py").open("a") as file:
        file.write(TRAP.format(str(tmp_path / "trap")))
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "__init__.py").write_text(NET)
    (tmp_path / "make.py").write_text(
        "import torch\nfrom net import Net\n\n\ndef make():\n    return Net(), (torch.randn(3, 8),)\n"
    )
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_it_the_report_says_what_helps(folder, capsys):
    assert main(["port", "net", "-o", "out/net", "--json", "out.json"]) == 2
    sites = json.loads((folder / "out.json").read_text())["sites"]
    assert {site["why"] for site in sites if site["status"] == "cannot"} == {
        "torch_pieces needs torch: --with torch_pieces ports it too",
        "torch_pieces.shapes needs torch: --with torch_pieces ports it too",
    }
    assert "torchvision needs torch" == _why("from torchvision import ops\n", folder)  # not one that could be ported
    assert "torch_nowhere needs torch" == _why("import torch_nowhere\n", folder)


def _why(text, folder):
    (folder / "one.py").write_text(text)
    main(["port", "one.py", "--json", "one.json"])
    return json.loads((folder / "one.json").read_text())["sites"][0]["why"]


@pytest.mark.parametrize("given", ["torch_pieces", "site/torch_pieces"])
def test_it_is_ported_beside_the_output(folder, given, capsys):
    assert main(["port", "net", "-o", "out/net", "--with", given, "--json", "out.json"]) == 0
    assert "written: out/net, torch_pieces beside it" in capsys.readouterr().err
    assert not (folder / "trap").exists()
    paths = {site["path"] for site in json.loads((folder / "out.json").read_text())["sites"]}
    assert paths == {"__init__.py", "torch_pieces/layers.py", "torch_pieces/shapes.py"}
    assert (folder / "out/torch_pieces/words.txt").read_text() == PIECES["words.txt"]
    assert "T.chunk(x, 2, -1)" in (folder / "out/torch_pieces/shapes.py").read_text()
    written = [*(folder / "out").rglob("*.py")]
    assert len(written) == 4 and not any(re.search(r"\btorch\b", path.read_text()) for path in written)


@pytest.mark.parametrize("single", [False, True], ids=["package", "file"])
def test_the_proof_takes_it_in(folder, single, capsys):
    pytest.importorskip("torch", reason="the proof runs the original")
    if single:
        (folder / "net" / "__init__.py").rename(folder / "net.py")
        (folder / "net").rmdir()
    source, out = ("net.py", "out/net.py") if single else ("net", "out/net")
    options = ["port", source, "-o", out, "--with", "torch_pieces", "--check", "--run", "make.py:make"]
    assert main([*options, "--json", "out.json"]) == 0, capsys.readouterr().out
    proof = json.loads((folder / "out.json").read_text())["proof"]
    assert proof["held"] and any(place.startswith("torch_pieces/shapes.py:") for place in proof["executed"])
    assert (folder / "out/torch_pieces/layers.py").is_file()


def test_what_a_run_shows_of_it_decides_its_places(folder):
    pytest.importorskip("torch", reason="the original is run")
    shapes = folder / "site/torch_pieces/shapes.py"
    shapes.write_text('def halves(x):\n    return {"x": x}["x"].split(4, dim=-1)\n')
    options = ["port", "net", "-o", "out/net", "--with", "torch_pieces", "--json", "out.json", "--run", "make.py:make"]
    assert main(options) == 0
    sites = json.loads((folder / "out.json").read_text())["sites"]
    assert not [site for site in sites if site["status"] in ("dispatch", "cannot")]


def test_what_cannot_be(folder, capsys):
    def error(*words):
        assert main(["port", "net", "-o", "out/net", *words]) == 1
        return capsys.readouterr().err

    assert "--with nowhere: expected an installed package that is Python source" in error("--with", "nowhere")
    assert "there is none" in error("--with", "sys") and "there is none" in error("--with", "a.b")
    assert "is there already" in error("--with", "torch_pieces", "--with", "site/torch_pieces")
    (folder / "net" / "torch_pieces").mkdir()
    assert "is there already" in error("--with", "torch_pieces")
    (folder / "net" / "torch_pieces").rmdir()
    assert main(["port", "net", "-o", "site/net", "--with", "torch_pieces"]) == 1
    assert "holds the original" in capsys.readouterr().err
    assert not (folder / "site/net").exists() and not (folder / "out").exists()


def test_find_imports_nothing(folder):
    assert others.find("torch_pieces") == folder / "site/torch_pieces"
    assert "torch_pieces" not in sys.modules and not (folder / "trap").exists()
    (folder / "site/torch_alone.py").write_text("x = 1\n")
    assert others.find("torch_alone") == folder / "site/torch_alone.py"
    assert others.located(Path("base"), "torch_alone.py", {"torch_alone.py": Path("a.py")}) == Path("a.py")
    assert others.located(Path("base"), "a/b.py", {"a": Path("/c/a")}) == Path("/c/a/b.py")
    assert others.located(Path("base"), "d/b.py", {"a": Path("/c/a")}) == Path("base/d/b.py")


@pytest.mark.parametrize("name", ["model.py", "model"])
def test_two_of_one_name_are_refused(name, tmp_path, capsys):
    """One would take the place of the other; so would a package beside an output of its own name."""
    homes = [tmp_path / "a" / name, tmp_path / "b" / name]
    for value, home in enumerate(homes):
        file = home if home.suffix else home / "__init__.py"
        file.parent.mkdir(parents=True)
        file.write_text(f"import torch\n\nA = torch.ones({value + 1})\n")
    assert main(["port", str(homes[0]), "--with", str(homes[1]), "-o", str(tmp_path / "out" / name)]) == 1
    assert "is there already" in capsys.readouterr().err and not (tmp_path / "out").exists()
    other = tmp_path / "c.py"
    other.write_text("")
    assert main(["port", str(other), "--with", str(homes[1]), "-o", str(tmp_path / "out" / name)]) == 1
    assert "give another -o" in capsys.readouterr().err and not (tmp_path / "out").exists()
