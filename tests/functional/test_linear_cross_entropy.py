"""linear_cross_entropy: the chunked path against the whole, its options, its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.functional.linear_cross_entropy import LinearCrossEntropyOptions
from tests.oracle import assert_parity

COMPILATION = "full"  # see conftest.py


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("reduction, size", [("none", 4), ("mean", 1), ("mean", 100), ("sum", 7)])
def test_chunks_change_nothing(reduction, size):
    torch = pytest.importorskip("torch")
    options = LinearCrossEntropyOptions(batch_chunk_size=size)
    y = np.array([0, 1, 2, 3, 4, -100, 0])
    assert_parity(
        lambda x, w, b: F.linear_cross_entropy(x, w, y, linear_bias=b, reduction=reduction, options=options),
        lambda x, w, b: torch.nn.functional.linear_cross_entropy(
            x, w, torch.from_numpy(y), linear_bias=b, reduction=reduction
        ),
        draw(7, 3),
        draw(5, 3, seed=1),
        draw(5, seed=2),
        second=True,
    )


def test_scores_are_never_whole():
    x, w, y = draw(64, 8), draw(1000, 8, seed=1), jnp.zeros(64, int)
    options = LinearCrossEntropyOptions(batch_chunk_size=4)
    program = jax.jit(jax.value_and_grad(lambda x, w: F.linear_cross_entropy(x, w, y, options=options), (0, 1)))
    assert "64,1000" not in program.lower(x, w).compile().as_text()


def test_chunk_sizes_are_torchs():
    torch = pytest.importorskip("torch")
    for method in ("auto", "aspect_ratio", "aspect_ratio:2", "aspect_ratio:3"):
        for shape in [(100, 8, 1000), (5, 64, 10), (1, 1, 1), (4096, 512, 32000)]:
            theirs = torch.nn.LinearCrossEntropyOptions(chunking_method=method)
            theirs = theirs._adjust(*shape, torch.float32, torch.device("cpu")).batch_chunk_size
            assert LinearCrossEntropyOptions(chunking_method=method).chunk_size(*shape) == theirs


@pytest.mark.parametrize(
    "kwargs",
    [{"acc_policy": "x"}, {"chunking_method": "aspect_ratio:0"}, {"batch_chunk_size": 0}, {"acc_dtype": jnp.int32}],
)
def test_bad_options(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        LinearCrossEntropyOptions(**kwargs)


def test_what_is_not_cut_warns():
    x, w = jnp.asarray(draw(7, 3)), jnp.asarray(draw(5, 3, seed=1))
    with pytest.warns(UserWarning, match="options are ignored"):
        F.linear_cross_entropy(
            x, w, jnp.zeros(7, int), label_smoothing=0.1, options=LinearCrossEntropyOptions(batch_chunk_size=2)
        )


def test_errors_and_bad_classes():
    x, w, y = jnp.asarray(draw(7, 3)), jnp.asarray(draw(5, 3, seed=1)), jnp.full(7, 5)
    options = LinearCrossEntropyOptions(batch_chunk_size=2)
    for chosen in (None, options):
        with pytest.raises(IndexError):
            F.linear_cross_entropy(x, w, y, options=chosen)
        assert jnp.isnan(jax.jit(lambda y, o=chosen: F.linear_cross_entropy(x, w, y, options=o))(y))
    for arguments in [(x[None], w), (x, w[0]), (x, w[:, :2]), (x[0], w[None])]:
        with pytest.raises(RuntimeError):
            F.linear_cross_entropy(*arguments, y)
