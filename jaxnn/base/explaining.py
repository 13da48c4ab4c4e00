"""`explain`: what to write for the idiom of PyTorch that an exception came of, added to it as a note.

It looks at exceptions alone; a call that succeeds does not pass here.
"""

from __future__ import annotations

import ast
import linecache
import re
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType, TracebackType
from typing import Any

import jax
import numpy as np

from jaxnn.base.idioms import IDIOMS, Idiom, code

_JAX = str(jax.__file__).removesuffix("__init__.py")
_MODULES = {"jax.numpy": "jnp", "jaxnn": "nn", "jaxnn.functional": "nn"}
_MISSING: dict[tuple[str, str], Idiom] = {(row.of, name): row for row in IDIOMS for name in row.names}
_SAID = [row for row in IDIOMS if row.meets is not None and not row.names]


def of_attribute(owner: str, name: str) -> str:
    """What to write for an attribute that `owner` ("array", "numpy", "box", "jnp", "nn") lacks; "" if no row says it."""
    row = _MISSING.get((owner, name))
    if row is None and owner == "numpy":
        row = _MISSING.get(("array", name))
        return "" if row is None else _JNP.sub(_of_numpy, row.text(name))
    return "" if row is None else row.text(name)


_JNP = re.compile(r"\bjnp\.([\w.]+)")


def _of_numpy(match: re.Match[str]) -> str:
    """NumPy's function for jnp's, where NumPy has it: on its arrays they cost a hundredth."""
    found: Any = np
    for part in match[1].split("."):
        found = getattr(found, part, None)
    return match[0] if found is None else f"np.{match[1]}"


_KEYWORDS = {"keepdim": ("keepdim=True", "keepdims=True"), "unbiased": ("unbiased=True", "ddof=1")}


def _of_keyword(row: Idiom, function: str, keyword: str) -> str:
    """What to write for torch's keyword argument of the function that was called."""
    torch, here = _KEYWORDS.get(keyword, (f"{keyword}=1", "axis=1"))
    function = function.lstrip("_")
    return row._replace(torch=f"{function}(..., {torch})", here=f"{function}(..., {here})").text()


def find(error: BaseException) -> str:
    """What to write for the idiom that `error` came of; "" where it is none of the table."""
    found = of_assignment(error) if isinstance(error, AttributeError) else ""
    if found:
        return found
    if isinstance(error, AttributeError) and error.name:
        owner = _owner(error.obj)
        found = of_attribute(owner, error.name) if owner else ""
        if found:
            return found
    text = str(error)
    for row in _SAID:
        assert row.meets is not None
        match = re.search(row.says, text) if isinstance(error, row.meets) else None
        if match and (not row.called or row.called in called(error.__traceback__)):
            return _of_keyword(row, **match.groupdict()) if match.groupdict() else row.text()
    return ""


_ON_A_TRACER = re.compile(r"'\w*Tracer' object has no attribute '(\w+)'")  # what Python says where one is set


def of_assignment(error: AttributeError) -> str:
    """What to write for ``self.weight.name = value`` inside a trace, where reading gives a tracer; "" for other errors."""
    said, traceback = _ON_A_TRACER.match(str(error)), error.__traceback__
    if said is None:
        return ""
    name, target = said[1], None
    while traceback is not None:
        target = _assigned(traceback, name) or target
        traceback = traceback.tb_next
    if target is None:
        return ""
    array = ast.unparse(target.value)
    start = f"jaxnn: {array}.{name}: inside a trace {array} is a tracer, which takes no attributes. "
    if not isinstance(target.value, ast.Attribute):
        return start + f'Set it on the parameter, model.get_parameter("...").{name} = ..., in the trace or before it'
    owner, attribute = ast.unparse(target.value.value), target.value.attr
    if name == "data":
        return start + f"Write {owner}.{attribute} = ..., which puts the array in the parameter"
    return start + f'Write {owner}.get_parameter("{attribute}").{name} = ... (get_buffer for a buffer)'


def _assigned(traceback: TracebackType, name: str) -> ast.Attribute | None:
    """The ``x.name`` that is assigned to where an exception passed through a line, if any is."""
    frame = traceback.tb_frame
    line = linecache.getline(frame.f_code.co_filename, traceback.tb_lineno, frame.f_globals)
    try:
        tree = ast.parse(line.strip())
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Store):
            return node
    return None


# What jax says of such a mesh, of two, or of types with axes in them: float32[8@data,16].
_OF_EXPLICIT = re.compile(r"of type: AxisType|is not found in mesh: \(\)|\w\[[^\]]*\d@\(?'?\w")
_EXPLICIT = (
    "jaxnn: an array lies on a mesh with Explicit axes, which jax.make_mesh makes by default. Layers leave layouts to the "
    "compiler: make the mesh with nn.parallel.init_device_mesh, or with axis_types=(jax.sharding.AxisType.Auto,) for each axis"
)


_OPEN = (
    "jaxnn: a size that the export leaves open does not decide this comparison. Give the size the least value that decides it, "
    'nn.export.Dim("name", min=...), or constraints=["name >= ..."] of jax.export.symbolic_shape; or leave only the batch open'
)


_KEY_GIVEN = re.compile(r"forward\(\) got an unexpected keyword argument '(key|rng|rngs)'")
_KEY = (
    "jaxnn: layers take no key. Write `with nn.rng(key):` around the call, inside the function that is compiled; functions "
    "such as F.dropout take key="
)


def explain(error: BaseException) -> None:
    """Add to `error`, once, what to write for the idiom that it came of."""
    try:
        if getattr(error, "_jaxnn_idiom", False):
            return
        found = find(error)
        if found:
            error.add_note(found)
        if type(error).__name__ == "ShardingTypeError" or _OF_EXPLICIT.search(str(error)):
            error.add_note(_EXPLICIT)
        if isinstance(error, jax.errors.InconclusiveDimensionOperation) and "min=" not in str(error):
            error.add_note(_OPEN)
        if isinstance(error, TypeError) and _KEY_GIVEN.search(str(error)):
            error.add_note(_KEY)
        error._jaxnn_idiom = True  # type: ignore[attr-defined]
    except Exception:  # an exception of someone's own that takes no attributes, or has no text
        return


def _owner(obj: Any) -> str:
    if isinstance(obj, jax.Array):
        return "array"
    if isinstance(obj, (np.ndarray, np.generic)):  # what a DataLoader and `nn.load` give
        return "numpy"
    if isinstance(obj, ModuleType):
        return _MODULES.get(obj.__name__, "")
    return "box" if any(kind.__name__ == "Slot" for kind in type(obj).__mro__) else ""


def called(traceback: TracebackType | None) -> set[str]:
    """The names of the methods that were being called on the lines where an exception passed through user code."""
    names: set[str] = set()
    while traceback is not None:
        code = traceback.tb_frame.f_code
        position = next_position(code, traceback.tb_lasti)
        if position is not None and not code.co_filename.startswith(_JAX):
            names |= set(_methods(code.co_filename, traceback.tb_frame.f_globals, *position, code.co_names))
        traceback = traceback.tb_next
    return names


def next_position(code: Any, instruction: int) -> tuple[int, int, int, int] | None:
    """Line, last line, column and last column of an instruction's source; None where the code does not say."""
    for at, position in enumerate(code.co_positions()):
        if at == instruction // 2:
            return position if None not in position else None
    return None


def _methods(
    file: str, module: dict[str, Any], line: int, last: int, column: int, end: int, names: Iterable[str]
) -> Iterator[str]:
    lines = [linecache.getline(file, number, module) for number in range(line, last + 1)]
    if not any(lines):  # no source, as in some shells: any method that the code mentions
        yield from names
        return
    lines[-1] = lines[-1].encode()[:end].decode(errors="ignore")
    lines[0] = lines[0].encode()[column:].decode(errors="ignore")
    try:
        tree = ast.parse("".join(lines).strip(), mode="eval")
    except SyntaxError:
        return
    if isinstance(tree.body, ast.Call) and isinstance(tree.body.func, ast.Attribute):
        yield tree.body.func.attr


def explain_uncaught() -> None:
    """Explain, from now on, what ends a script too: ``loss.backward()`` passes through no function of jaxnn.

    The interpreter's present ``sys.excepthook`` is called as before, with the note on the exception.
    """
    before = sys.excepthook
    if getattr(before, "_jaxnn", False):
        return

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        explain(error)
        before(kind, error, traceback)

    hook._jaxnn = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def table() -> str:
    """The rows as a table for the docs."""
    lines = ["| PyTorch | here | what it meets here |", "|---|---|---|"]
    for row in IDIOMS:
        name = row.names[0] if row.names else ""
        torch = code(row.torch, name)
        if len(row.names) > 1:
            torch += "; so " + ", ".join(f"`{other}`" for other in row.names[1:])
        here = code(row.here, name) + (f". {row.why}" if row.why else "")
        meets = "nothing: other numbers" if row.meets is None else row.meets.__name__
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (torch, here, meets)) + " |")
    return "\n".join(lines)
