"""docs/scale.md on eight devices: every block, in order, as tests/test_docs.py runs other pages."""

import ast
import importlib
import re

import pytest

from tests.test_docs import ROOT, blocks

PAGE = ROOT / "docs" / "scale.md"


def test_the_page_runs_on_eight_devices(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for _, block, prints in blocks(PAGE):
        capsys.readouterr()
        exec(compile(block, str(PAGE), "exec"), names)
        assert prints is None or capsys.readouterr().out == prints
    assert names["n"] == 8 and dict(names["two"].jax_mesh.shape) == {"fsdp": 4, "tp": 2}


def test_pytorchs_side_is_pytorchs():
    """Those blocks need a cluster; that they parse, and that PyTorch has what they import, is held."""
    found = re.findall(r'^``` { \.python title="PyTorch" }\n(.*?)^```', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(found) == 6
    pytest.importorskip("torch")
    for block in found:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)
