"""Models in the style of public libraries, ported as they stand and proved: keys, weights, outputs, gradients, state, nn.jit."""

from collections import Counter
from pathlib import Path

import pytest

from jaxnn.port import port_source
from jaxnn.port.proving.check import check
from jaxnn.port.proving.reference import reference

pytest.importorskip("torch", reason="the originals run under torch")

FOLDER = Path(__file__).parent / "models"
CASES = [
    ("decoder", "padded"),
    ("decoder", "generating"),
    ("encoder", "text"),
    ("encoder", "image"),
    ("speech", "speech"),
]


def _function(text, name, function):
    space = {"__name__": f"{name}_model"}
    exec(compile(text, f"{name}.py", "exec"), space)
    return space[function]


@pytest.mark.parametrize(("file", "function"), CASES)
def test_a_model_is_ported_and_proved(file, function):
    text = (FOLDER / f"{file}.py").read_text()
    ported = port_source(text, f"{file}.py")
    assert "torch" not in ported.text.replace("torch_dtype", "")
    proof = check(_function(ported.text, file, function), reference(_function(text, file, function)))
    differs = {name: one.text for name, one in proof.checks.items() if one.status in ("differs", "failed")}
    assert not differs
    held = {name for name, one in proof.checks.items() if one.status == "held"}
    assert held >= {
        "keys",
        "weights",
        "forward",
        "gradients",
        "jit",
        "training",
        "training gradients",
        "state",
        "jit state",
    }


def test_nearly_all_is_idiomatic():
    """Over the three files 93 % are lines of jax.numpy and jaxnn, nothing is left open or refused."""
    sites = [
        site
        for file in sorted({file for file, _ in CASES})
        for site in port_source((FOLDER / f"{file}.py").read_text(), f"{file}.py").sites
    ]
    counts = Counter(site.status for site in sites)
    assert [site for site in sites if not site.decided] == []
    assert counts["exact"] + counts["changed"] >= 0.93 * len(sites)
