"""The examples in docstrings run as a reader pastes them: each with its own imports, in an empty namespace."""

import doctest
import gc
import importlib
import inspect
import re
from pathlib import Path

import pytest

import jaxnn

# porting and testing convert torch's models: their examples need torch.
NEEDS_TORCH = {"jaxnn.porting.arrays", "jaxnn.porting.convert", "jaxnn.testing.compare"}


ROOT = Path(__file__).parent.parent


def modules():
    """The modules with a prompt in their text, found without importing them."""
    paths = (path for path in (ROOT / "jaxnn").rglob("*.py") if ">>> " in path.read_text())
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return sorted(name.removesuffix(".__init__") for name in names)


def examples(module):
    """The docstrings with examples of what `module` defines, and its own."""
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module), module, globs={})
    return [test for test in found if test.examples]


@pytest.mark.filterwarnings("default")  # an example may show what warns
@pytest.mark.parametrize("module", modules())
def test_examples_give_what_they_say(module, tmp_path, monkeypatch):
    if module in NEEDS_TORCH:
        pytest.importorskip("torch", reason="the examples convert a torch model")
    monkeypatch.chdir(tmp_path)  # for those that write a file
    report = []
    for test in examples(module):
        jaxnn.manual_seed(0)
        test.globs = {"__name__": "__main__"}
        doctest.DocTestRunner(verbose=False).run(test, out=report.append)
        gc.collect(0)
    assert not report, "".join(report)


# Modules whose public names a user looks up. Others (the files within these) are reached through them.
PUBLIC = (
    "jaxnn",
    "jaxnn.amp",
    "jaxnn.attention",
    "jaxnn.functional",
    "jaxnn.grad",
    "jaxnn.init",
    "jaxnn.optim",
    "jaxnn.optim.lr_scheduler",
    "jaxnn.optim.swa_utils",
    "jaxnn.parallel",
    "jaxnn.tensor",
    "jaxnn.utils",
    "jaxnn.utils.data",
    "jaxnn.utils.parametrizations",
    "jaxnn.utils.parametrize",
    "jaxnn.utils.prune",
    "jaxnn.utils.rnn",
)
# What is raised, read or passed on as it is: the text says all.
WITHOUT = {
    *("Container", "RNNBase", "RNNCellBase", "NLLLoss2d", "UninitializedBuffer", "LinearCrossEntropyOptions"),
    *("DeletedArrayError", "NotPorted", "TraceLeakError"),
    *("get_float32_matmul_precision", "is_autocast_enabled", "is_grad_enabled", "is_inference_mode_enabled"),
    *("initial_seed", "set_rng_state", "set_float32_matmul_precision"),
    *("ScalingType", "SwizzleType", "SDPBackend", "upsample", "upsample_bilinear", "upsample_nearest"),
    *("convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"),
    *("register_optimizer_step_post_hook", "register_optimizer_step_pre_hook"),
}


# The classes behind prune's functions, which have the examples, and what a call of one of these makes.
WITHOUT |= {"CustomFromMask", "Identity", "L1Unstructured", "LnStructured", "RandomStructured", "RandomUnstructured"}
WITHOUT |= {"PruningContainer", "ParametrizationList"}


def _public(module):
    for name in dir(module):
        value = getattr(module, name)
        if not name.startswith("_") and callable(value) and not inspect.ismodule(value):
            if name not in WITHOUT or module.__name__ == "jaxnn" and name == "Identity":
                yield name, value


def _family(name):
    """One name for those whose docstrings refer to one another: another rank, lazy, in place, with indices."""
    name = name.removeprefix("Lazy").removeprefix("native_").removesuffix("_with_indices").rstrip("_")
    return re.sub(r"[123]d", "", name)


@pytest.mark.parametrize("module", PUBLIC)
def test_what_a_newcomer_looks_up_has_an_example(module):
    names = dict(_public(importlib.import_module(module)))
    shown = {_family(name) for name, value in names.items() if ">>> " in (value.__doc__ or "")}
    missing = [name for name in names if _family(name) not in shown]
    assert shown and not missing
