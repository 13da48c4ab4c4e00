"""The functions of ``jaxnn.tensor`` beside torch's: values, gradients, dtypes, and eager against jit."""

import jax
import numpy as np
import pytest

from jaxnn import tensor as T
from tests.oracle import assert_parity

torch = pytest.importorskip("torch", reason="torch is the oracle")

rng = np.random.default_rng(0)
SIX, SQUARE = rng.standard_normal((4, 6)), rng.standard_normal((2, 5, 5))
TIES = np.array([[1.0, 3.0, 3.0, -2.0], [2.0, 2.0, 0.0, 2.0]])
UNIQUE = rng.permutation(24).reshape(4, 6).astype(np.float32)
INDEX = np.array([[0, 2, 1], [3, 0, 0]])
ROWS = np.array([3, 0, 3])
MASK = np.array([[True, False, True, False, True, False]])
WINDOW = np.hanning(9)[:-1]
SIGNAL = rng.standard_normal((2, 32))


def method(name):
    return lambda x, *args, **kwargs: getattr(x, name)(*args, **kwargs)


def plain(function):
    """torch's named results as tuples, which JAX knows."""

    def call(*args):
        result = function(*args)
        return result if isinstance(result, torch.Tensor) else tuple(result)

    return call


CASES = {
    "split": [(torch.split, T.split, (SIX, 4)), (torch.split, T.split, (SIX, [1, 0, 5], -1))],
    "chunk": [(torch.chunk, T.chunk, (SIX, 4, 1)), (torch.chunk, T.chunk, (SIX, 9))],
    "squeeze": [(torch.squeeze, T.squeeze, (SIX[:, None, :, None],)), (torch.squeeze, T.squeeze, (SIX[:1, None], (0, -1)))],
    "expand": [(method("expand"), T.expand, (SIX[:, :1], 2, -1, 3)), (method("expand"), T.expand, (SIX[0], (3, 6)))],
    "view": [(method("view"), T.view, (SIX, 2, -1)), (method("view"), T.view, (SIX, (3, 8)))],
    "unfold": [(method("unfold"), T.unfold, (SIX, 1, 3, 2)), (method("unfold"), T.unfold, (SIX, -2, 4, 1))],
    "unflatten": [(method("unflatten"), T.unflatten, (SIX, 1, (2, -1)))],
    "diag_embed": [(torch.diag_embed, T.diag_embed, (SIX, -1, 0, 2))],
    "max": [
        (torch.max, T.max, (TIES,)),
        (torch.max, T.max, (TIES, 1)),
        (torch.max, T.max, (UNIQUE, 0, True)),
        (torch.max, T.max, (SIX, SIX[::-1].copy())),
    ],
    "min": [(torch.min, T.min, (TIES, -1)), (torch.min, T.min, (TIES,))],
    "median": [(torch.median, T.median, (UNIQUE,)), (torch.median, T.median, (UNIQUE, 1, True))],
    "topk": [(torch.topk, T.topk, (UNIQUE, 3, 0)), (torch.topk, T.topk, (UNIQUE, 2, 1, False))],
    "sort": [(torch.sort, T.sort, (UNIQUE, 0, True)), (torch.sort, T.sort, (UNIQUE,))],
    "norm": [
        (torch.norm, T.norm, (SIX,)),
        (torch.norm, T.norm, (SIX, 1, 1, True)),
        (torch.norm, T.norm, (SIX * np.array([[0.0], [1], [1], [1]]), 2, 1)),
        (torch.norm, T.norm, (SIX, "fro", (0, 1))),
        (torch.norm, T.norm, (SIX, 3.0, (0, 1), True)),
        (torch.norm, T.norm, (TIES, float("inf"), 1)),
        (torch.norm, T.norm, (SQUARE, "nuc", (1, 2))),
    ],
    "cdist": [
        (torch.cdist, T.cdist, (SQUARE, SQUARE[:, :3])),
        (torch.cdist, T.cdist, (SQUARE, SQUARE + 1, 1.0)),
        (torch.cdist, T.cdist, (SIX, SIX[:2] + 2, float("inf"))),
        (torch.cdist, T.cdist, (rng.standard_normal((30, 4)), rng.standard_normal((3, 4)))),
    ],
    "gather": [(torch.gather, T.gather, (SIX, 0, INDEX)), (torch.gather, T.gather, (SIX, -1, INDEX))],
    "scatter": [
        (torch.scatter, T.scatter, (SIX, 1, np.array([[0, 2, 1], [3, 1, 0]]), SIX[2:, 3:])),
        (torch.scatter, T.scatter, (SIX, 0, INDEX, 2.5)),
    ],
    "scatter_add": [(torch.scatter_add, T.scatter_add, (SIX, 0, INDEX, SIX[2:, 3:]))],
    "scatter_reduce": [
        (
            lambda x, i, s, include_self=include_self, reduce=reduce: torch.scatter_reduce(
                x, 1, i, s, reduce, include_self=include_self
            ),
            lambda x, i, s, include_self=include_self, reduce=reduce: T.scatter_reduce(x, 1, i, s, reduce, include_self),
            (SIX, INDEX, SIX[2:, 3:]),
        )
        for reduce, include_self in (("sum", False), ("prod", True), ("mean", True), ("amax", True), ("amin", False))
    ],
    "index_add": [(method("index_add"), lambda x, d, i, s: T.index_add(x, d, i, s, alpha=1), (SIX, 0, ROWS, SIX[:3] + 1))],
    "index_copy": [(torch.index_copy, T.index_copy, (SIX, 1, ROWS[:2], SIX[:, :2] + 1))],
    "index_fill": [(torch.index_fill, T.index_fill, (SIX, -1, ROWS, 2.0))],
    "masked_scatter": [(torch.masked_scatter, T.masked_scatter, (SIX, MASK, SQUARE.reshape(-1)))],
    "stft": [
        (
            lambda x, w: torch.view_as_real(torch.stft(x, 8, 3, window=w, normalized=True, return_complex=True)),
            lambda x, w: T.stft(x, 8, 3, window=w, normalized=True, return_complex=False),
            (SIGNAL, WINDOW),
        ),
        (
            lambda x: torch.view_as_real(torch.stft(x, 10, 4, 6, center=False, onesided=False, return_complex=True)),
            lambda x: T.stft(x, 10, 4, 6, center=False, onesided=False, return_complex=False),
            (SIGNAL[0],),
        ),
    ],
    "istft": [
        (
            lambda x, y: torch.istft(torch.complex(x, y), 10, 4),  # all frequencies, and no symmetry
            lambda x, y: T.istft(jax.lax.complex(x, y), 10, 4),
            (SIGNAL.reshape(-1)[:60].reshape(10, 6), SIGNAL.reshape(-1)[4:].reshape(10, 6)),
        ),
        (
            lambda x, w: torch.istft(torch.stft(x, 8, 2, window=w, return_complex=True)[..., 1:] ** 2, 8, 2, window=w),
            lambda x, w: T.istft(T.stft(x, 8, 2, window=w, return_complex=True)[..., 1:] ** 2, 8, 2, window=w),
            (SIGNAL, WINDOW),
        ),
        (
            lambda x: torch.istft(torch.stft(x, 8, 4, normalized=True, return_complex=True), 8, 4, normalized=True, length=29),
            lambda x: T.istft(T.stft(x, 8, 4, normalized=True, return_complex=True), 8, 4, normalized=True, length=29),
            (SIGNAL,),
        ),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*scatter_reduce.*is in beta", "ignore:A window was not provided")
def test_numbers_are_torchs(name):
    for theirs, ours, args in CASES[name]:
        assert_parity(ours, plain(theirs), *args)
