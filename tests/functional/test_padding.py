"""pad: crops, ranks and values that PyTorch's databases do not hold."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.lowering.evaluating import Evaluation
from tests.oracle import assert_parity

MODES = ("constant", "reflect", "replicate", "circular")


def _random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pad", [(1, 2, 0, 3), (-1, 2, 2, -2), (-1, -1, 0, 0), (4, 4, -3, 1)], ids=str)
def test_values_and_gradients(mode, pad):
    torch = pytest.importorskip("torch")
    x = _random(2, 3, 4, 5)
    assert_parity(lambda x: F.pad(x, pad, mode), lambda x: torch.nn.functional.pad(x, pad, mode), x)


@hypothesis.given(
    mode=st.sampled_from(MODES), size=st.integers(1, 5), before=st.integers(-6, 6), after=st.integers(-6, 6)
)
@hypothesis.settings(max_examples=150)
def test_every_pad_of_one_dimension(mode, size, before, after):
    torch = pytest.importorskip("torch")
    kept = size + min(before, 0) + min(after, 0)
    hypothesis.assume(not (mode == "circular" and max(before, after) > kept))  # torch reads what it has not written
    x = np.arange(2.0 * size, dtype=np.float32).reshape(2, size)
    try:
        expected = torch.nn.functional.pad(torch.from_numpy(x), (before, after), mode).numpy()
    except RuntimeError:
        with pytest.raises(RuntimeError, match="pad: pad"):
            F.pad(x, (before, after), mode)
    else:
        np.testing.assert_array_equal(F.pad(x, (before, after), mode), expected)


@pytest.mark.parametrize("mode", MODES)
def test_every_rank_and_number_of_pads(mode):
    torch = pytest.importorskip("torch")
    for ndim in range(7):
        x = np.ones((2, 3, 2, 3, 2, 3)[:ndim], np.float32)
        for count in range(9):
            pad = (1,) * count
            try:
                expected = tuple(torch.nn.functional.pad(torch.from_numpy(x), pad, mode).shape)
            except (RuntimeError, NotImplementedError) as error:
                with pytest.raises(type(error), match="pad: "):
                    F.pad(x, pad, mode)
            else:
                assert F.pad(x, pad, mode).shape == expected


@pytest.mark.parametrize("dtype", ["int8", "int32", "bool", "complex64", "float16", "bfloat16"])
@pytest.mark.parametrize("mode", MODES)
def test_dtypes(mode, dtype):
    x = jnp.arange(4).astype(dtype)[None]
    if dtype == "bool" and mode in ("reflect", "replicate"):
        with pytest.raises(NotImplementedError):
            F.pad(x, (1, 1), mode)
        return
    out = F.pad(x, (1, 1), mode)
    ends = {"constant": (0, 0), "reflect": (1, 2), "replicate": (0, 3), "circular": (3, 0)}[mode]
    assert out.dtype == x.dtype
    np.testing.assert_array_equal(out, np.asarray([[ends[0], 0, 1, 2, 3, ends[1]]]).astype(x.dtype))


def test_value():
    ints = jnp.arange(2)
    assert F.pad(ints, (1, 0), value=1.5).tolist() == [1, 0, 1]
    assert F.pad(ints > 5, (1, 0), value=2.5).tolist() == [True, False, False]
    assert F.pad(jnp.ones(1), (1, 0), value=float("inf"))[0] == jnp.inf
    traced = jax.jit(lambda x, v: F.pad(x, (1, 0), value=v))(jnp.ones(1), jnp.array(3.0))
    assert traced.tolist() == [3.0, 1.0]
    for value, error in ((300, RuntimeError), (float("nan"), RuntimeError), (2j, TypeError), ("a", TypeError)):
        with pytest.raises(error, match="pad: value"):
            F.pad(ints.astype(jnp.int8), (1, 1), value=value)
    with pytest.raises(RuntimeError, match="pad: value"):
        F.pad(jnp.ones(1, jnp.float16), (1, 1), value=1e6)
    with pytest.raises(RuntimeError, match="pad: value"):
        F.pad(jnp.ones((1, 3)), (1, 1), "reflect", 1.0)
    F.pad(jnp.ones((1, 3)), (1, 1), "reflect", 0)


@pytest.mark.parametrize("pad", [1, (1.0, 1.0), (True, 1), "11", None])
def test_pad_must_be_ints(pad):
    with pytest.raises(TypeError, match="pad: pad"):
        F.pad(jnp.ones(3), pad)


def test_mode_must_be_known():
    with pytest.raises(NotImplementedError, match="pad: mode"):
        F.pad(jnp.ones((2, 3)), (1, 1), "mirror")


def test_empty_dimensions():
    assert F.pad(jnp.ones((0, 2, 4)), (1, 1), "reflect").shape == (0, 2, 6)
    assert F.pad(jnp.ones((1, 0, 4)), (1, 1), "circular").shape == (1, 0, 6)
    assert F.pad(jnp.ones((1, 2, 0)), (1, 1)).shape == (1, 2, 2)
    for shape in ((1, 0, 4), (1, 2, 0), (0, 4)):
        with pytest.raises(RuntimeError, match="empty"):
            F.pad(jnp.ones(shape), (0, 0), "replicate")


@pytest.mark.parametrize("mode", MODES)
def test_no_gather_and_no_scatter(mode):
    x = jnp.ones((2, 3, 8, 8))
    backward = jax.make_jaxpr(jax.grad(lambda x: (F.pad(x, (2, 3, 1, 2), mode) ** 2).sum()))(x)
    assert "gather" not in str(backward) and "scatter" not in str(backward)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_gradients_in_16_bits_are_summed_in_32(mode, dtype):
    """What is copied more than once sums its gradients, and is rounded once: as exact as in torch, or more."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, weight = (np.asarray(rng.standard_normal((16, 3, n, n)).astype(jnp.dtype(dtype))) for n in (5, 11))

    def in_torch(kind):
        leaf = torch.tensor(x.astype(np.float64)).to(kind).requires_grad_()
        torch.nn.functional.pad(leaf, (3, 3, 3, 3), mode).backward(torch.tensor(weight.astype(np.float64)).to(kind))
        return leaf.grad.double().numpy()

    ours = jax.vjp(lambda x: F.pad(x, (3, 3, 3, 3), mode), jnp.asarray(x))[1](jnp.asarray(weight))[0]
    truth = in_torch(torch.float64)
    mine, theirs = (np.abs(g - truth) for g in (np.asarray(ours, np.float64), in_torch(getattr(torch, dtype))))
    assert mine.max() <= 1.01 * theirs.max()
    roundoff = 2.0 ** (-8 if dtype == "bfloat16" else -11)
    assert (mine <= 1.01 * roundoff * np.abs(truth) + 1e-6).all()  # rounded once


@pytest.mark.parametrize("mode, plain", [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
def test_other_platforms_pad_around_the_whole_array(mode, plain):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    elsewhere = Evaluation("tpu", {}, lambda equation: False, "the test")
    for ends in ((1, 1, 1, 1), (2, 0, 0, 3), (3, 3, 0, 0), (0, 0, 0, 0)):
        wanted = np.pad(x, [(0, 0), (0, 0), ends[2:], ends[:2]], mode=plain)
        np.testing.assert_array_equal(elsewhere(lambda x, ends=ends: F.pad(x, ends, mode))(x), wanted)
        grad = jax.grad(lambda x, ends=ends, wanted=wanted: (F.pad(x, ends, mode) * wanted).sum())
        np.testing.assert_allclose(jax.jit(elsewhere(grad))(x), jax.jit(grad)(x), rtol=1e-5, atol=1e-5)
