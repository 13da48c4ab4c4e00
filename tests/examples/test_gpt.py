"""examples/gpt.py: it learns, goes on bit for bit after a stop, and its options change speed, not numbers."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxnn as nn

COMPILATION = "full"  # see conftest.py

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import gpt  # noqa: E402

GATHER_TEXT, DRAW = gpt.gather_text, gpt.draw
TEXT = "the quick brown fox jumps over the lazy dog, and a lazy dog it is.\n" * 40
SMALL = (
    "--steps 24 --batch 4 --context 16 --width 16 --heads 2 --layers 2 --evaluate 6 --dropout 0.1 --lr 0.02 --sample 20"
)


@pytest.fixture(scope="module", autouse=True)
def _a_short_text_no_picture_and_quick_compilation():
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpt, "gather_text", lambda: TEXT)
        patch.setattr(gpt, "draw", lambda path, history: None)
        patch.setattr(nn, "jit", functools.partial(nn.jit, compiler_options={"xla_backend_optimization_level": 0}))
        yield


def run(out, *more):
    assert gpt.main([*SMALL.split(), *more, "--out", str(out)]) == 0
    return nn.load(out / "checkpoint.pt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run from the first step to the last."""
    return run(tmp_path_factory.mktemp("whole"))


def test_it_learns_and_draws(whole, tmp_path):
    losses = whole["history"]["losses"]
    assert len(losses) == 24 and np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    assert [step for step, _ in whole["history"]["held_out"]] == [6, 12, 18, 24]
    DRAW(tmp_path / "curves.png", whole["history"])
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_stopped_run_goes_on_bit_for_bit(whole, tmp_path, monkeypatch, capsys):
    steps = iter(range(16))
    batches = gpt.batches

    def stopped(*arguments):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return batches(*arguments)

    monkeypatch.setattr(gpt, "batches", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len(nn.load(tmp_path / "checkpoint.pt")["history"]["losses"]) == 12
    monkeypatch.setattr(gpt, "batches", batches)
    capsys.readouterr()
    again = run(tmp_path, "--resume", "--seed", "5")  # the checkpoint's seed stands
    assert again["history"] == whole["history"]
    for key, value in whole["model"].items():
        np.testing.assert_array_equal(again["model"][key], value, err_msg=key)
    np.testing.assert_array_equal(again["rng"], whole["rng"])
    written = capsys.readouterr().out.split("-" * 80)[1].strip("\n")
    assert 0 < len(written) <= 20 and set(written) <= set(TEXT) | {"\n"}


def test_scan_gives_the_same_losses(whole, tmp_path):
    scanned = run(tmp_path, "--scan")
    assert list(scanned["model"]) == list(whole["model"])
    np.testing.assert_allclose(scanned["history"]["losses"], whole["history"]["losses"], rtol=2e-4)


def test_autocast_learns_too(whole, tmp_path):
    cast = run(tmp_path, "--autocast")
    difference = np.abs(np.subtract(cast["history"]["losses"], whole["history"]["losses"]))
    assert 0 < difference.max() < 0.1
    assert all(value.dtype == np.float32 for value in cast["model"].values())


def test_what_is_missing_is_named(tmp_path, monkeypatch, capsys):
    assert gpt.main(["--resume", "--out", str(tmp_path)]) == 2
    assert "there is no" in capsys.readouterr().err
    assert gpt.main(["--device", "abacus", "--out", str(tmp_path)]) == 2
    assert "jax finds cpu" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert gpt.main(["--out", str(tmp_path)]) == 2
    assert 'tqdm is missing; this example needs: pip install "jaxnn-torch[examples]"' in capsys.readouterr().err


def test_the_text_is_pythons_own():
    text = GATHER_TEXT(200_000)
    assert len(text) == 200_000 and "Return" in text and text.isascii()
