"""The site's pages: every public name stands on one, links lead somewhere, and one address is written everywhere."""

import importlib
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

import jaxnn as nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import _site  # noqa: E402

# Paths of torch.nn that are files of its own sources: their names are those of the namespaces above them.
INNER = ("modules", "parallel.", "qat", "quant", "intrinsic", "backends", "cpp", "common_types", "grad", "parameter")
INNER += ("attention.experimental", "attention.varlen", "utils.")


@pytest.fixture(scope="module")
def pages():
    return _site.api_pages()


@pytest.fixture(scope="module")
def documented(pages):
    """The names that have an entry, by the path under which users know them."""
    return {name for text in pages.values() for name in re.findall(r'^ +heading: "(.+)"$', text, re.MULTILINE)}


def test_every_name_of_jaxnn_stands_on_a_page(documented):
    inner = {"base", "core", "lowering", "mersenne", "modules", "transforms", "common_types", "parameter"}
    inner |= {"Any", "TYPE_CHECKING", "annotations"}
    for name in dir(nn):
        value = getattr(nn, name)
        if name.startswith("_") or name in inner:
            continue
        if f"jaxnn.{name}" not in documented:  # then it is a namespace with names of its own
            assert any(entry.startswith(f"jaxnn.{name}.") for entry in documented), name
            assert f"jaxnn.{name}" in {namespace for namespace, _, _ in _site.NAMESPACES}, value


@pytest.mark.parametrize("namespace", ["", "functional", "init", "utils", "attention", "attention.bias", "utils.rnn"])
def test_every_name_that_torch_has_and_we_have_stands_on_a_page(documented, namespace):
    names = json.loads((ROOT / "parity" / "torch_names.json").read_text(encoding="utf-8"))[namespace]
    module = importlib.import_module(".".join(filter(None, ("jaxnn", namespace))))
    found = [name for name in names if hasattr(module, name) and not name.startswith("_")]
    missing = [name for name in found if f"{module.__name__}.{name}" not in documented]
    spaces = {space for space, _, _ in _site.NAMESPACES}
    inner = {"modules", "parameter", "common_types"}
    assert found and [n for n in missing if f"{module.__name__}.{n}" not in spaces and n not in inner] == []


@pytest.mark.parametrize(
    "namespace", ["optim", "optim.lr_scheduler", "optim.swa_utils", "testing", "tensor", "io", "porting", "parallel"]
)
def test_the_other_namespaces_stand_on_pages(documented, namespace):
    names = _site.public_names(f"jaxnn.{namespace}")
    assert names and {f"jaxnn.{namespace}.{name}" for name in names} <= documented


def test_an_entry_says_more_than_a_name(pages):
    rows = [row for text in pages.values() for row in re.findall(r"^\| \[`.*", text, re.MULTILINE)]
    assert len(rows) > 450
    assert [row for row in rows if row.endswith(") |  |")] == []


def test_links_between_pages_lead_somewhere(pages):
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text):
            place = (page.parent / target).resolve()
            made = place.is_relative_to(ROOT / "docs") and str(place.relative_to(ROOT / "docs")) in {
                *pages,
                *_site.COPIES,
            }
            assert made or place.exists(), f"{page.name}: {target}"


def test_every_page_has_one_place():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    named = re.findall(r"[\w/]+\.md", nav)
    written = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(set(named)) == sorted(named) and set(named) == written | set(_site.COPIES)


def test_one_address_is_written_everywhere():
    address = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("mkdocs.yml", "CITATION.cff"):
        assert f": {address}\n" in (ROOT / name).read_text(encoding="utf-8"), name
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert links  # a package index shows the README alone, so a link has to be whole
    for link in links:
        path = link.removeprefix(f"{address}/blob/main/")
        assert path != link and (ROOT / path).exists(), link


def test_methods_stand_with_their_classes(pages):
    """A class's own, and those of bases that have no entry: users call them on the class."""
    shown = {}
    for text in pages.values():
        for heading, names in re.findall(r'heading: "(.+)"\n +members: \[(.+)\]', text):
            shown[heading] = set(names.split(", "))
    assert {"state_dict", "load_state_dict", "to", "register_forward_hook"} <= shown["jaxnn.Module"]
    assert {"scale", "unscale_", "step", "update"} <= shown["jaxnn.amp.GradScaler"]
    assert {"step", "state_dict", "register_step_pre_hook"} <= shown["jaxnn.optim.Optimizer"]
    assert shown["jaxnn.Embedding"] == {"from_pretrained"} and "jaxnn.optim.Adam" not in shown


def test_links_out_of_the_docs_lead_to_the_repository():
    text = "![a](../pictures/a.png) [b](../../parity/b.toml) [c](../c.md)"
    moved = _site.to_repository(text, "notebooks/page.md", "ADDRESS")
    assert moved == "![a](../pictures/a.png) [b](ADDRESS/blob/main/parity/b.toml) [c](../c.md)"
    assert _site.to_repository("[b](../b.md)", "page.md", "ADDRESS") == "[b](ADDRESS/blob/main/b.md)"
