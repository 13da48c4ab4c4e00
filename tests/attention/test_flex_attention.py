"""flex_attention and BlockMask against torch's eager implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.attention.flex_attention as ours
import jaxnn.functional as F

torch = pytest.importorskip("torch")

import torch.nn.attention.flex_attention as theirs  # noqa: E402

RNG = np.random.default_rng(0)
L, S = 40, 50
Q = RNG.standard_normal((2, 4, L, 8)).astype("float32")
K = RNG.standard_normal((2, 2, S, 8)).astype("float32")
V = RNG.standard_normal((2, 2, S, 6)).astype("float32")
DOCUMENT = np.sort(RNG.integers(0, 4, S))
BIAS = RNG.standard_normal((4, L, S)).astype("float32")

MASKS = {
    "causal": lambda lib, convert: lambda b, h, q, kv: q >= kv,
    "document": lambda lib, convert: lambda b, h, q, kv: convert(DOCUMENT)[q] == convert(DOCUMENT)[kv],
    "batch and head": lambda lib, convert: lambda b, h, q, kv: (q + h >= kv) & (b <= q),
    "empty rows": lambda lib, convert: lambda b, h, q, kv: q < 20,
    "window": lambda lib, convert: lib.and_masks(lambda b, h, q, kv: q >= kv, lambda b, h, q, kv: q - kv < 7),
    "global": lambda lib, convert: lib.or_masks(lambda b, h, q, kv: q == kv, lambda b, h, q, kv: kv < 3),
    "all": lambda lib, convert: lib.noop_mask,
}


@pytest.fixture(autouse=True)
def _torch_without_compilation(monkeypatch):
    monkeypatch.setattr(theirs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def both(name, **options):
    return (
        theirs.create_block_mask(MASKS[name](theirs, torch.from_numpy), 2, 4, L, S, device="cpu", **options),
        ours.create_block_mask(MASKS[name](ours, jnp.asarray), 2, 4, L, S, **options),
    )


def assert_same(expected, result):
    for a, b in zip(expected.as_tuple()[:-1], result.as_tuple()[:-1]):
        if isinstance(a, torch.Tensor):
            assert b.dtype == jnp.int32
            np.testing.assert_array_equal(a.numpy(), b)
        else:
            assert a == b


@pytest.mark.parametrize("name", MASKS)
def test_block_mask(name):
    expected, result = both(name, BLOCK_SIZE=(16, 8), compute_dq_write_order=True)
    assert_same(expected, result)
    np.testing.assert_array_equal(expected.to_dense().numpy(), result.to_dense())
    assert expected.sparsity() == pytest.approx(result.sparsity())
    assert expected.shape == result.shape and expected.numel() == result.numel()
    assert_same(expected[0], result[0])
    assert_same(expected[:, 1:2], result[:, 1:2])


def test_block_mask_text():
    expected, result = both("causal", BLOCK_SIZE=(16, 8))
    assert str(expected).splitlines()[:4] == str(result).splitlines()[:4]
    shapes = repr(expected).replace("torch.Size([", "(").replace("])", ")")
    assert shapes == repr(result)


def test_adjust_crops():
    result = both("window", BLOCK_SIZE=(16, 8))[1]._adjust(20, 24)
    whole = ours.create_block_mask(MASKS["window"](ours, jnp.asarray), 2, 4, 20, 24, BLOCK_SIZE=(16, 8))
    np.testing.assert_array_equal(result.to_dense(), whole.to_dense())
    expected, result = (mask._adjust(20, 24) for mask in both("causal", BLOCK_SIZE=(16, 8)))
    np.testing.assert_array_equal(result.to_dense(), expected.to_dense().numpy())


def test_block_mask_is_a_pytree():
    mask = both("causal")[1]
    assert_jitted = jax.jit(lambda mask, q: ours.flex_attention(q, K, V, block_mask=mask, enable_gqa=True))
    np.testing.assert_allclose(
        assert_jitted(mask, Q), ours.flex_attention(Q, K, V, block_mask=mask, enable_gqa=True), atol=1e-6
    )
    assert mask.to(jax.devices()[0]).mask_mod is mask.mask_mod


@pytest.mark.parametrize("name", ["document", "batch and head", "empty rows"])
def test_attention(name):
    scores = (
        lambda score, b, h, q, kv: score - (h + 1) * 0.1 * (q - kv),
        lambda score, b, h, q, kv: score + (BIAS_T if isinstance(score, torch.Tensor) else jnp.asarray(BIAS))[h, q, kv],
    )
    BIAS_T = torch.from_numpy(BIAS)
    expected_mask, mask = both(name)
    for score in scores:
        expected, aux = theirs.flex_attention(
            *(torch.from_numpy(x).double() for x in (Q, K, V)),
            score,
            expected_mask,
            enable_gqa=True,
            return_aux=theirs.AuxRequest(lse=True),
        )
        result, own = ours.flex_attention(
            Q, K, V, score, mask, enable_gqa=True, return_aux=ours.AuxRequest(lse=True, max_scores=True)
        )
        np.testing.assert_allclose(result, expected.numpy(), atol=1e-5)
        np.testing.assert_allclose(own.lse, aux.lse.numpy(), atol=2e-5)
        assert (own.max_scores <= own.lse).all()


def test_gradient_reaches_what_score_mod_closes_over():
    def flex(q, bias):
        out = ours.flex_attention(q, K, V, lambda score, b, h, i, j: score + bias[h, i, j], enable_gqa=True)
        return (out**2).sum()

    def plain(q, bias):
        return (F.scaled_dot_product_attention(q, K, V, bias[None], enable_gqa=True) ** 2).sum()

    for a, b in zip(jax.grad(flex, (0, 1))(Q, jnp.asarray(BIAS)), jax.grad(plain, (0, 1))(Q, jnp.asarray(BIAS))):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_gradient_is_finite_in_empty_rows():
    mask = both("empty rows")[1]

    def loss(q):
        out, aux = ours.flex_attention(q, K, V, block_mask=mask, enable_gqa=True, return_aux=ours.AuxRequest(lse=True))
        return out.sum() + jnp.where(jnp.isfinite(aux.lse), aux.lse, 0.0).sum()

    assert jnp.isfinite(jax.grad(loss)(jnp.asarray(Q))).all()


def test_blocks_count_without_a_rule():
    mask = ours.BlockMask.from_kv_blocks(
        jnp.ones((1, 1, 2), jnp.int32), jnp.zeros((1, 1, 2, 2), jnp.int32), BLOCK_SIZE=4
    )
    q = jnp.asarray(Q[:, :2, :8])
    k, v = jnp.asarray(K[:, :, :8]), jnp.asarray(V[:, :, :8])
    expected = F.scaled_dot_product_attention(q, k[:, :, :4], v[:, :, :4])
    np.testing.assert_allclose(ours.flex_attention(q, k, v, block_mask=mask), expected, atol=1e-6)


@pytest.mark.parametrize(
    "error, call",
    [
        (ValueError, lambda: ours.flex_attention(Q, K, V)),
        (NotImplementedError, lambda: ours.flex_attention(Q[0], K[0], V[0])),
        (ValueError, lambda: ours.flex_attention(Q[:, :3], K, V, enable_gqa=True)),
        (ValueError, lambda: ours.flex_attention(Q[..., :3], K, V, enable_gqa=True)),
        (ValueError, lambda: ours.flex_attention(Q, K[:1], V[:1], enable_gqa=True)),
        (ValueError, lambda: ours.flex_attention(Q[:, :, :8], K, V, block_mask=both("all")[1], enable_gqa=True)),
        (RuntimeError, lambda: ours.flex_attention(Q, K, V, block_mask=both("all")[1][0], enable_gqa=True)),
        (ValueError, lambda: ours.flex_attention(Q, K, V, enable_gqa=True, kernel_options={"BACKEND": "x"})),
        (AssertionError, lambda: ours.create_block_mask(lambda a, b: a, 1, 1, 2, 2)),
        (RuntimeError, lambda: ours.or_masks(1)),
    ],
)
def test_errors(error, call):
    with pytest.raises(error):
        call()


def test_long_sequences_hold_the_scores_of_some_queries(monkeypatch):
    """Values, auxiliary outputs and gradients, those of a captured array too, are those of all scores at once."""
    mask = ours.create_block_mask(MASKS["window"](ours, jnp.asarray), 2, 4, L, S, BLOCK_SIZE=(16, 8))

    def loss(q, k, v, bias):
        output, aux = ours.flex_attention(
            q,
            k,
            v,
            lambda score, b, h, i, j: score + bias[h, i, j] * b,
            mask,
            enable_gqa=True,
            return_aux=ours.AuxRequest(True, True),
        )
        return (output**2).sum() + jnp.where(jnp.isneginf(aux.lse), 0, aux.lse).sum(), (output, aux)

    def run():
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(Q, K, V, BIAS)

    whole = run()
    monkeypatch.setattr(ours, "_LONG", 16)
    monkeypatch.setattr(ours, "_LEAST_ROWS", 16)
    monkeypatch.setattr(ours, "_BUDGET", 0)
    for got, want in zip(jax.tree.leaves(run()), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_a_causal_block_mask_leaves_the_platforms_kernel_its_place():
    """Other rules have none; and a mask that hides more blocks than its rule says is no causal one."""
    x = jax.ShapeDtypeStruct((1, 2, 256, 64), jnp.bfloat16)
    causal = ours.create_block_mask(lambda b, h, q, kv: q >= kv, None, None, 256, 256)

    def has_kernel(mask):
        call = jax.jit(lambda q, k, v: ours.flex_attention(q, k, v, block_mask=mask))
        return "tpu_custom_call" in call.trace(x, x, x).lower(lowering_platforms=("tpu",)).as_text()

    assert has_kernel(causal)
    assert has_kernel(ours.create_block_mask(lambda b, h, q, kv: kv <= q, 1, 2, 256, 256, separate_full_blocks=False))
    for rule in (lambda b, h, q, kv: kv >= q, lambda b, h, q, kv: q > kv, lambda b, h, q, kv: q >= kv + h):
        assert not has_kernel(ours.create_block_mask(rule, 1, 2, 256, 256))
    fewer = ours.BlockMask.from_kv_blocks(
        causal.kv_num_blocks, causal.kv_indices, BLOCK_SIZE=(128, 128), mask_mod=causal.mask_mod, seq_lengths=(256, 256)
    )
    assert not has_kernel(fewer)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((1, 2, size, 16)), jnp.float32) for size in (200, 130, 130))
    mask = ours.create_block_mask(lambda b, h, q, kv: q >= kv, None, None, 200, 130)
    expected = ours.flex_attention(q, k, v, lambda s, b, h, i, j: s, block_mask=mask)
    np.testing.assert_allclose(ours.flex_attention(q, k, v, block_mask=mask), expected, rtol=1e-5, atol=1e-6)


def test_without_functions_it_is_attention_by_the_platforms_kernel():
    x = jax.ShapeDtypeStruct((1, 2, 256, 64), jnp.bfloat16)
    text = jax.jit(ours.flex_attention).trace(x, x, x).lower(lowering_platforms=("tpu",)).as_text()
    assert "tpu_custom_call" in text
    x = jax.ShapeDtypeStruct((1, 2, 4096, 16), jnp.float32)
    gradient = jax.grad(lambda q, k, v: ours.flex_attention(q, k, v, lambda s, b, h, i, j: s * 2).sum(), (0, 1, 2))
    memory = jax.jit(gradient).lower(x, x, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 2 * 4096**2  # one array of all scores
