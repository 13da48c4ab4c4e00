"""``parity rejects``: what PyTorch rejects is rejected in every family, and a difference is found."""

import numpy as np
import pytest

import jaxnn.functional as F
from parity import rejects
from parity.cli import main
from parity.rejects_calls import FAMILIES, Call

pytest.importorskip("torch")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_short_seed(family, capsys):
    assert main(["rejects", "--seed", "1", "--count", "60", "--only", family]) == 0, capsys.readouterr().out


def test_a_difference_is_found(monkeypatch, capsys):
    monkeypatch.setattr(F, "pixel_shuffle", lambda x, factor: x)
    assert main(["rejects", "--count", "20", "--only", "shuffle"]) == 1
    assert "pixel_shuffle(" in capsys.readouterr().out


_X = np.ones((1, 2, 6), np.float32)
_PLANE = np.ones((2, 6, 6), np.float32)
_ONCE_TAKEN = {
    "lp_pool1d": (Call("lp_pool1d", (_X, 2.0, (2,))), TypeError),
    "lp_pool2d": (Call("lp_pool2d", (_PLANE, 2.0, (2,))), ValueError),
    "fractional ratio": (Call("fractional_max_pool2d", (_PLANE, 2), {"output_ratio": 0.5}), TypeError),
    "fractional kernel": (Call("fractional_max_pool2d", (_PLANE, (2,), 2)), RuntimeError),
    "fractional room": (Call("fractional_max_pool3d", (np.ones((1, 3, 3, 3), np.float32), 3, 1)), RuntimeError),
    "unpool of ints": (
        Call("max_unpool2d", (np.ones((1, 1, 1), np.int64), np.zeros((1, 1, 1), np.int64), 2)),
        NotImplementedError,
    ),
    "unpool stride": (Call("max_unpool2d", (_PLANE, np.zeros((2, 6, 6), np.int64), 2, (1,))), IndexError),
    "bag of int16": (
        Call("embedding_bag", (np.zeros((1, 2), np.int16), np.ones((3, 3), np.float32))),
        RuntimeError,
    ),
    "ctc lengths": (
        Call("ctc_loss", (np.ones((2, 1, 3), np.float32), np.ones((1, 1), np.int64), (3,), (1,))),
        RuntimeError,
    ),
    "attention batch": (
        Call(
            "MultiheadAttention",
            (np.ones((2, 1, 2), np.float32), *[np.ones((2, 3, 2), np.float32)] * 2),
            {},
            ((2, 1), {}),
        ),
        RuntimeError,
    ),
}


@pytest.mark.parametrize("name", _ONCE_TAKEN)
def test_what_was_taken_or_failed_in_another_kind(name):
    call, kind = _ONCE_TAKEN[name]
    ours, theirs = rejects.ours_of(call), rejects.theirs_of(call)
    assert type(ours.error) is type(theirs.error) is kind, (ours, theirs)


def test_what_was_rejected_or_failed_is_taken():
    empty = np.ones((4, 0), np.float32)
    for call in (
        Call("cosine_embedding_loss", (empty, empty, np.ones(4, np.float32))),
        Call("affine_grid", (np.ones((2, 3, 4), np.float32), (2, 0, 3, 3, 1))),
    ):
        assert rejects.agree(rejects.ours_of(call), rejects.theirs_of(call)), call
