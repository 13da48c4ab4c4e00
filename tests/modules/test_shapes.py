"""The shapes that the layers' docstrings name: each layer has them, and torch's recorded results are of them."""

import functools
import inspect
import re

import pytest

import jaxnn as nn
from parity import record
from parity.case import Slot
from parity.cli import RECORDING

LAYERS = {
    name: value
    for name in dir(nn)
    if isinstance(value := getattr(nn, name), type)
    and issubclass(value, nn.Module)
    and value.forward is not nn.Module.forward
    and name not in ("RNNBase", "Container")
}


def text_of(layer):
    """What stands under "Shape:" in the docstring, in one line."""
    found = re.search(r"^Shape:\n((?: {4}.*\n)+)", inspect.cleandoc(layer.__doc__) + "\n", re.MULTILINE)
    return None if found is None else " ".join(found[1].split())


def test_every_layers_docstring_says_its_shapes():
    assert len(LAYERS) > 130
    assert not [name for name, layer in LAYERS.items() if not text_of(layer)]


def alternatives(text):
    """The shapes in ``(N, C, L) or (C, L)``, each a list of names."""
    return [[size.strip() for size in shape.split(",") if size.strip()] for shape in re.findall(r"\(([^()]*)\)", text)]


def sizes(names, shape):
    """What each name of a shape stands for; None where the shape is of other rank. A star is any number of sizes."""
    names = ["*" if name in ("...", "*normalized_shape") else name for name in names]
    if "*" not in names:
        return dict(zip(names, shape)) if len(names) == len(shape) else None
    first, rest = names.index("*"), len(names) - names.index("*") - 1
    if len(shape) < first + rest or "*" in names[first + 1 :]:
        return {} if "*" in names[first + 1 :] else None
    return dict(zip(names[:first], shape)) | dict(zip(names[first + 1 :], shape[len(shape) - rest :]))


def agree(text, given, result):
    """Whether shapes are of one of the forms in a text ``A or B to A' or B'`` or ``A to the same``."""
    left, _, right = re.match(r"(.*?)( to (.*?))?\.(?: [A-Z]|$)", text).group(1, 2, 3)
    lefts, rights = alternatives(left), alternatives(right)
    for number, names in enumerate(lefts):
        known = sizes(names, given)
        if known is None:
            continue
        if right == "the same":
            return given == result
        forms = [rights[number]] if len(rights) == len(lefts) else rights
        found = [sizes(form, result) for form in forms]
        if any(f is not None and all(known.get(name, size) == size for name, size in f.items()) for f in found):
            return True
    return False


@functools.cache
def recorded():
    """Of each layer, the shapes of its input and of torch's first result."""
    if not RECORDING.exists():
        pytest.skip("no recording: python -m parity record")
    found = {}
    for case in record.load(RECORDING)[1]:
        is_call = case.make is not None and case.error is None and case.args and isinstance(case.args[0], Slot)
        outputs = [value.truth for key, value in case.expected.items() if key.startswith("output")]
        if is_call and outputs:
            found.setdefault(case.name, []).append((case.arrays[case.args[0].index].shape, outputs[0].shape))
    return found


# The text begins with a shape, so that it can be read by `agree`. The rest name their arguments.
READABLE = sorted(name for name, layer in LAYERS.items() if (text_of(layer) or "").startswith("("))


def test_the_shapes_are_those_of_torchs_results():
    checked = {name: shapes for name, shapes in recorded().items() if name in READABLE}
    wrong = [
        (n, text_of(LAYERS[n]), *pair)
        for n, pairs in checked.items()
        for pair in pairs
        if not agree(text_of(LAYERS[n]), *pair)
    ]
    assert not wrong, "\n".join(
        f"{name}: {text}: torch gives {given} -> {result}" for name, text, given, result in wrong
    )
    assert len(checked) > 60


def test_a_wrong_text_is_found():
    assert agree("(N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).", (2, 3, 8), (2, 3, 4))
    assert not agree("(N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).", (2, 3, 8), (2, 4, 4))
    assert not agree("(N, C, L) or (C, L) to (N, C, L_out) or (C, L_out).", (2, 3, 8, 8), (2, 3, 4, 4))
    assert not agree("(*) to the same.", (2, 3), (2,))
