"""The Python of the pages runs: each page's blocks in order, in one namespace, as a reader would.

What a block prints is what the fence ```text title="prints"``` behind it says. A comment "needs: NAME" skips a page without that
package. Blocks with the title "PyTorch" have a namespace of their own, and run where PyTorch is installed. What such a block and
the one beside it call `result` is compared.
"""

import gc
import importlib.util
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r'^( *)```python(?: title="([^"]*)")?\n(.*?)^\1```', re.MULTILINE | re.DOTALL)
PRINTS = re.compile(r'\s*```text title="prints"\n(.*?)^```', re.MULTILINE | re.DOTALL)


def blocks(page):
    """The page's blocks as (title, code, what it prints or None).

    The code has the blank lines before it, so that errors name the page's own lines.
    """
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        prints = PRINTS.match(text, match.end())
        code = "\n" * text.count("\n", 0, match.start(3)) + textwrap.dedent(match[3])
        yield match[2] or "", code, prints and prints[1]


# Of more devices than there are here: tests/parallel/eight_devices/test_scale_page.py.
HERE = [page for page in PAGES if page.name != "scale.md"]


@pytest.mark.parametrize("page", HERE, ids=[str(page.relative_to(ROOT)) for page in HERE])
def test_the_pages_python_runs(page, tmp_path, monkeypatch, capsys):
    for needed in re.findall(r"<!-- needs: (\w+) -->", page.read_text(encoding="utf-8")):
        pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    ours, theirs = {"__name__": "page"}, {"__name__": "page"}
    for title, block, prints in blocks(page):
        capsys.readouterr()
        if title == "PyTorch":
            if importlib.util.find_spec("torch"):
                exec(compile(block, str(page), "exec"), theirs)
        else:
            exec(compile(block, str(page), "exec"), ours)
            assert prints is None or capsys.readouterr().out == prints
        if "result" in theirs and "result" in ours:
            _compare(ours, theirs)
    assert "result" not in theirs, "a result that nothing was compared with"
    ours.clear(), theirs.clear()
    gc.collect()


def _compare(ours, theirs):
    """What both sides call `result`, to the places that a reader would see."""
    expected = theirs.pop("result").detach().numpy()
    np.testing.assert_allclose(np.asarray(ours.pop("result")), expected, rtol=1e-5, atol=1e-6)


def test_there_are_pages_with_python():
    assert any(True for page in PAGES for _ in blocks(page))


def test_every_fence_of_python_is_found():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^ *```py", text, re.MULTILINE)) == len(list(blocks(page))), page


def test_every_fence_of_output_follows_its_block():
    for page in PAGES:
        found = page.read_text(encoding="utf-8").count('```text title="prints"')
        assert found == sum(prints is not None for *_, prints in blocks(page)), page
