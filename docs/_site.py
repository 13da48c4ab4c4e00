"""The pages of the site that are made from elsewhere: the API reference, the changelog, the contributor's page.

MkDocs runs this file as a hook (mkdocs.yml). ``api_pages`` needs no MkDocs, so that the tests can ask which name
stands on which page.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import posixpath
import re
import types
from pathlib import Path
from typing import Any

from jaxnn import Module
from jaxnn.boxes.parameter import Attributed
from jaxnn.optim import Optimizer

ROOT = Path(__file__).resolve().parents[1]

# Namespace, file name of its pages, title. A namespace that has a row in _FAMILIES is split into families.
NAMESPACES = (
    ("jaxnn", "nn", "jaxnn"),
    ("jaxnn.functional", "functional", "jaxnn.functional"),
    ("jaxnn.init", "init", "jaxnn.init"),
    ("jaxnn.optim", "optim", "jaxnn.optim"),
    ("jaxnn.optim.lr_scheduler", "lr_scheduler", "jaxnn.optim.lr_scheduler"),
    ("jaxnn.optim.swa_utils", "swa_utils", "jaxnn.optim.swa_utils"),
    ("jaxnn.utils", "utils", "jaxnn.utils"),
    ("jaxnn.utils.data", "utils_data", "jaxnn.utils.data"),
    ("jaxnn.utils.parametrize", "parametrize", "jaxnn.utils.parametrize"),
    ("jaxnn.utils.parametrizations", "parametrizations", "jaxnn.utils.parametrizations"),
    ("jaxnn.utils.prune", "prune", "jaxnn.utils.prune"),
    ("jaxnn.utils.rnn", "rnn", "jaxnn.utils.rnn"),
    ("jaxnn.utils.einops", "einops", "jaxnn.utils.einops"),
    ("jaxnn.utils.stateless", "stateless", "jaxnn.utils.stateless"),
    ("jaxnn.attention", "attention", "jaxnn.attention"),
    ("jaxnn.attention.bias", "attention_bias", "jaxnn.attention.bias"),
    ("jaxnn.attention.flex_attention", "flex_attention", "jaxnn.attention.flex_attention"),
    ("jaxnn.amp", "amp", "jaxnn.amp"),
    ("jaxnn.parallel", "parallel", "jaxnn.parallel"),
    ("jaxnn.targets", "targets", "jaxnn.targets"),
    ("jaxnn.io", "io", "jaxnn.io"),
    ("jaxnn.hub", "hub", "jaxnn.hub"),
    ("jaxnn.export", "export", "jaxnn.export"),
    ("jaxnn.porting", "converting", "jaxnn.porting"),
    ("jaxnn.tensor", "tensor", "jaxnn.tensor"),
    ("jaxnn.testing", "testing", "jaxnn.testing"),
    ("jaxnn.grad", "grad", "jaxnn.grad"),
)

# Folder of the source, then the start of its file's name: the family's title. What no row takes is "Other".
_FAMILIES = (
    ("core.module|boxes.parameter|boxes.uninitialized", "Module, Parameter, Buffer"),
    ("modules.container", "Containers"),
    ("transforms.|grad", "Transforms"),
    ("core.random|tensor.drawing", "Randomness"),
    ("base.|lowering.", "Modes"),
    ("io.|export.", "Files"),
    ("porting.", "From and to PyTorch"),
    ("conv", "Convolution"),
    ("pooling|unpooling", "Pooling"),
    ("loss|ctc|linear_cross_entropy", "Losses"),
    ("activation|softmax|adaptive", "Activations and softmax"),
    ("batchnorm|instancenorm|normalization", "Normalization"),
    ("rnn|recurrent", "Recurrent layers"),
    ("transformer|attention", "Attention and transformers"),
    ("linear|flatten|grouped|scaled", "Linear layers"),
    ("dropout", "Dropout"),
    ("sparse|embedding", "Embeddings"),
    ("padding", "Padding"),
    ("distance", "Distances"),
    (
        "pixel|channelshuffle|upsampling|interpolation|grid|fold",
        "Images: resizing, shuffling, folding",
    ),
    ("parallel.", "Several devices"),
    ("utils.", "Looking at a model"),
)
_SPLIT = ("jaxnn", "jaxnn.functional")

# Methods that every layer has over again, and those that other files of jaxnn call, or JAX.
_NOT_SHOWN = set(
    "forward extra_repr reset_parameters tree_flatten tree_flatten_with_keys tree_unflatten".split()
)
_NOT_SHOWN |= set(
    "cls_to_become has_uninitialized_params initialize_parameters on_subclass plus_one recursive_undo".split()
)
_NOT_SHOWN |= set("draws_on_host has host lie moved release slot take".split())  # Generator's


def public_names(namespace: str) -> list[str]:
    """What users get from a namespace: its `__all__`, or what it defines or imports for them."""
    module = importlib.import_module(namespace)
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    package, imported = hasattr(module, "__path__"), _written_for_users(module)
    names = []
    for name in dir(module):
        value = getattr(module, name)
        home = getattr(value, "__module__", "") or ""
        if name.startswith("_") or isinstance(value, types.ModuleType) and not callable(value):
            continue
        if name in imported or home == namespace or package and home.startswith("jaxnn"):
            names.append(name)
    return names


def _written_for_users(module: types.ModuleType) -> set[str]:
    """Names imported as themselves (``from a import b as b``), and constants in capitals."""
    found = set()
    for node in ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, ast.Assign):
            found |= {
                target.id
                for target in node.targets
                if isinstance(target, ast.Name) and target.id.isupper()
            }
    return found


def _family(value: Any) -> str:
    home = (getattr(value, "__module__", "") or "").removeprefix("jaxnn.")
    last = home.rpartition(".")[2]
    for starts, title in _FAMILIES:
        for start in starts.split("|"):
            if (home + ".").startswith(start) if "." in start else last.startswith(start):
                return title
    return "Other"


def _slug(title: str) -> str:
    return re.sub(r"[^a-z]+", "_", title.lower()).strip("_")


def _first_line(value: Any) -> str:
    if not callable(value):
        return f"`{value!r}`"
    text = re.sub(r":\w+:(?=`)", "", inspect.getdoc(value) or "")
    pieces = re.split(r"(`+[^`]*`+)", text.split("\n\n")[0].replace("\n", " "))
    return "".join(
        piece if i % 2 else piece.replace("|", "\\|") for i, piece in enumerate(pieces)
    )


def _home(namespace: str, name: str, value: Any) -> str:
    """The path under which the sources have it: an alias is followed only where it is written as an import."""
    if isinstance(value, types.ModuleType):  # nn.grad, a module that is called as the transform
        return f"jaxnn.transforms.gradients.{name}"
    home = getattr(value, "__module__", "") or namespace
    defined = getattr(value, "__qualname__", getattr(value, "__name__", name))
    if not home.startswith("jaxnn") or not isinstance(defined, str):
        return f"{namespace}.{name}"
    found = (
        getattr(importlib.import_module(home), defined, None) if "." not in defined else None
    )
    return f"{home}.{defined}" if found is value else f"{namespace}.{name}"


def members(value: type, documented: set[type]) -> list[str]:
    """The methods and properties that a class's entry shows: its own, and those of bases that have no entry."""
    bases = [base for base in value.__mro__[1:] if base in documented]
    if issubclass(value, Optimizer) and value is not Optimizer:  # they fill in its steps
        return []
    found = []
    for name in dir(value):
        member = inspect.getattr_static(value, name)
        home = next((base for base in value.__mro__ if name in vars(base)), type)
        kind = callable(member) or isinstance(member, (property, staticmethod, classmethod))
        if (
            name.startswith("_")
            or not kind
            or not home.__module__.startswith("jaxnn")
            or not _own_text(member)
        ):
            continue
        if (
            value is not Module
            and name in _NOT_SHOWN
            or any(hasattr(base, name) for base in bases)
        ):
            continue
        if issubclass(value, Attributed) and home not in (
            value,
            Attributed,
        ):  # the operators of an array
            continue
        found.append(name)
    return found


def _own_text(member: Any) -> str | None:
    return getattr(getattr(member, "__func__", member), "__doc__", None)


def _entry(namespace: str, name: str, value: Any, documented: set[type]) -> list[str]:
    lines = [
        f"::: {_home(namespace, name, value)}",
        "    options:",
        f'      heading: "{namespace}.{name}"',
    ]
    shown = members(value, documented) if inspect.isclass(value) else []
    lines += (
        [f"      members: [{', '.join(shown)}]", "      inherited_members: true"]
        if shown
        else ["      members: false"]
    )
    return [*lines, ""]


def _documented() -> set[type]:
    """The classes that have an entry."""
    spaces = [
        importlib.import_module(namespace)
        for namespace, _, _ in NAMESPACES
        if importlib.util.find_spec(namespace)
    ]
    values = (getattr(space, name) for space in spaces for name in public_names(space.__name__))
    return {value for value in values if inspect.isclass(value)}


def api_pages() -> dict[str, str]:
    """The API reference: path below docs/ to Markdown."""
    documented = _documented()
    pages, overview = {}, ["# API reference", "", "Every public name, from its docstring.", ""]
    for namespace, stem, title in NAMESPACES:
        if importlib.util.find_spec(namespace) is None:  # a namespace that is still to come
            continue
        module = importlib.import_module(namespace)
        names = public_names(namespace)
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(
                _family(getattr(module, name)) if namespace in _SPLIT else "", []
            ).append(name)
        order = [title for _, title in _FAMILIES]
        overview += [f"## {title}", ""]
        for family in sorted(
            groups, key=lambda family: order.index(family) if family in order else 99
        ):
            path = f"api/{stem}_{_slug(family)}.md" if family else f"api/{stem}.md"
            heading = f"{family} (`{title}`)" if family else f"`{title}`"
            lines = [f"# {heading}", ""]
            if not family and module.__doc__:
                lines += [inspect.getdoc(module) or "", ""]
            rows = [
                f"| [`{name}`](#{namespace}.{name}) | {_first_line(getattr(module, name))} |"
                for name in groups[family]
            ]
            lines += ["| name | |", "|---|---|", *rows, ""]
            for name in groups[family]:
                lines += [f'<a id="{namespace}.{name}"></a>', ""]
                lines += _entry(namespace, name, getattr(module, name), documented)
            pages[path] = "\n".join(lines)
            listed = ", ".join(
                f"[`{n}`]({Path(path).name}#{namespace}.{n})" for n in groups[family]
            )
            overview += [f"**[{family or title}]({Path(path).name})**: {listed}", ""]
    return {"api/index.md": "\n".join(overview), **pages}


# -- what MkDocs calls -------------------------------------------------------------------------------------------------

# Pages that are files of the repository: the path on the site, the file.
COPIES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    "conduct.md": "CODE_OF_CONDUCT.md",
}

_made: dict[str, str] = {}


def on_config(config: Any) -> Any:
    """Make the pages, and put those of the reference where the navigation says ``api/``."""
    _made.clear()
    _made.update(api_pages())
    for path, source in COPIES.items():
        if (ROOT / source).exists():
            _made[path] = _moved((ROOT / source).read_text(encoding="utf-8"))
    reference: dict[str, list[str]] = {}
    for path in _made:
        if path.startswith("api/") and path != "api/index.md":
            section = {"nn": "jaxnn", "functional": "functional"}.get(
                path[4:].split("_")[0], "The other namespaces"
            )
            reference.setdefault(section, []).append(path)
    pages = ["api/index.md", *({section: paths} for section, paths in reference.items())]
    config.nav = [
        {title: pages if entry == "api/" else entry}
        for row in config.nav
        for title, entry in row.items()
    ]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that were made."""
    from mkdocs.structure.files import File

    for path, text in _made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A link to a file outside of docs/ leads to the repository."""
    return to_repository(markdown, page.file.src_uri, config.repo_url)


def to_repository(markdown: str, path: str, address: str) -> str:
    """The text of the page `path`, with its links out of docs/ as links into the repository."""

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(path), match[1]))
        return match[0] if target.startswith("docs/") else f"]({address}/blob/main/{target}"

    return re.sub(r"\]\((\.\./[^)#]+)", link, markdown)


def _moved(text: str) -> str:
    """Links of a file in the root, as from docs/."""

    def link(match: re.Match[str]) -> str:
        target = match[1]
        return (
            f"]({target.removeprefix('docs/')}"
            if target.startswith("docs/")
            else f"](../{target}"
        )

    return re.sub(r"\]\((?!https?:|#|mailto:)([^)]+)", link, text)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The theme would load what lets the search run in pages opened as files from a server; ours lies beside them."""
    from mkdocs.utils import get_relative_url

    ours = get_relative_url("pictures/worker.js", page.url)
    return output.replace("https://unpkg.com/iframe-worker/shim", ours)
