"""examples/tutorial: one training script in PyTorch and in jaxnn: few changed lines, PyTorch's losses, one program."""

import difflib
import functools
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import jaxnn as nn

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "tutorial"
OPTIONS = ["--epochs", "4", "--batch", "64"]


def source(name):
    return (FOLDER / name).read_text().splitlines()


def side_by_side():
    """Both scripts line by line, as docs/training_script.md shows them."""
    lines = difflib.unified_diff(source("train_torch.py"), source("train.py"), lineterm="", n=1000)
    return "\n".join(list(lines)[3:])


def test_the_page_shows_both_scripts():
    assert f"```diff\n{side_by_side()}\n```" in (ROOT / "docs" / "training_script.md").read_text()


def test_how_many_lines_change():
    """25 of PyTorch's lines are no more: imports, the seed, files, devices, a tensor call, and the gradient step."""
    changed = [line for line in side_by_side().splitlines() if line.startswith("-")]
    assert len(source("train_torch.py")) > 170 and len(changed) <= 25


def script(name):
    """The script as a module, on 389 of the images: two steps to an epoch."""
    for package in ("sklearn", "tensorboardX"):
        pytest.importorskip(package)
    if name == "train_torch":
        pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn, "jit", functools.partial(nn.jit, compiler_options={"xla_backend_optimization_level": 0}))
        spec.loader.exec_module(module)
    load = module.load_digits

    def few():
        digits = load()
        digits.images, digits.target = digits.images[:389], digits.target[:389]
        return digits

    module.load_digits = few
    return module


def test_it_learns_resumes_and_keeps_what_is_frozen(tmp_path):
    train = script("train")
    losses, accuracies = train.main([*OPTIONS, "--out", str(tmp_path)])
    assert len(losses) == 8 and len(accuracies) == 4 and np.isfinite(losses).all()
    assert train.train_step.compiled._cache_size() == 1
    assert next(tmp_path.glob("events.out.tfevents.*")).stat().st_size > 500
    resumed, _ = train.main(
        [*OPTIONS, "--epochs", "6", "--resume", str(tmp_path / "checkpoint.pt"), "--out", str(tmp_path)]
    )
    assert len(resumed) == 4
    before = nn.load(tmp_path / "checkpoint.pt")["model"]
    train.main(["--epochs", "1", "--freeze", "--amp", "--out", str(tmp_path / "frozen")])
    nn.manual_seed(0)
    train.random_split(train.Digits(), [128, 261])
    started, after = train.Net().state_dict(), nn.load(tmp_path / "frozen" / "checkpoint.pt")["model"]
    assert (np.asarray(after["stem.conv.weight"]) == np.asarray(started["stem.conv.weight"])).all()
    assert (np.asarray(after["head.weight"]) != np.asarray(started["head.weight"])).any()
    assert (np.asarray(before["stem.conv.weight"]) != np.asarray(started["stem.conv.weight"])).any()


def test_the_losses_are_pytorchs_also_after_the_others_checkpoint(tmp_path):
    """Measured over 120 steps of all images: 2.4e-7 at most."""
    ours, theirs = script("train"), script("train_torch")
    run = {}
    for name, module in (("ours", ours), ("theirs", theirs)):
        run[name] = module.main([*OPTIONS, "--out", str(tmp_path / name)])
    np.testing.assert_allclose(run["ours"][0], run["theirs"][0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(run["ours"][1], run["theirs"][1], rtol=0, atol=1e-2)
    more = [*OPTIONS, "--epochs", "6"]
    after = {
        (name, other): module.main(
            [*more, "--resume", str(tmp_path / other / "checkpoint.pt"), "--out", str(tmp_path / "more")]
        )[0]
        for name, module in (("ours", ours), ("theirs", theirs))
        for other in ("ours", "theirs")
    }
    expected = after["theirs", "theirs"]
    assert len(expected) == 4
    for losses in after.values():
        np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)
