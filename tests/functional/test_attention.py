"""Scaled dot product attention and multi-head attention: what the databases do not hold."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.attention import SDPBackend, sdpa_kernel
from jaxnn.attention.bias import causal_lower_right, causal_upper_left

torch = pytest.importorskip("torch")
TF = torch.nn.functional

from tests.oracle import assert_parity  # noqa: E402

RNG = np.random.default_rng(0)
Q = RNG.standard_normal((2, 4, 3, 8)).astype("float32")
K = RNG.standard_normal((2, 4, 5, 8)).astype("float32")
V = RNG.standard_normal((2, 4, 5, 6)).astype("float32")
EMPTY_ROW = np.ones((3, 5), bool)
EMPTY_ROW[1] = False


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_query_without_keys_gets_zeros_and_no_gradient(kind):
    mask = EMPTY_ROW if kind == "bool" else np.where(EMPTY_ROW, 0, -np.inf).astype("float32")

    def ours(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, jnp.asarray(mask))

    def theirs(q, k, v):
        other = torch.from_numpy(mask)
        return TF.scaled_dot_product_attention(q, k, v, other if kind == "bool" else other.to(q.dtype))

    assert not ours(Q, K, V)[:, :, 1].any()
    assert_parity(ours, theirs, Q, K, V)


def test_grouped_heads_with_value_heads_of_their_own():
    def ours(q, k, v):
        return F.scaled_dot_product_attention(q, k[:, :2], v[:, :1], is_causal=True, enable_gqa=True)

    def theirs(q, k, v):
        return TF.scaled_dot_product_attention(q, k[:, :2], v[:, :1], is_causal=True, enable_gqa=True)

    assert_parity(ours, theirs, Q, K, V)


def test_learned_mask_and_second_derivative():
    mask = RNG.standard_normal((4, 3, 5)).astype("float32")
    assert_parity(F.scaled_dot_product_attention, TF.scaled_dot_product_attention, Q, K, V, mask, second=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype):
    assert_parity(
        F.scaled_dot_product_attention,
        TF.scaled_dot_product_attention,
        Q,
        K,
        V,
        is_causal=True,
        dtype=dtype,
        grad=False,
    )


@pytest.mark.parametrize(
    "q, k, v, mask, options",
    [
        (Q, K[:, :, :0], V[:, :, :0], None, {}),  # no keys
        (Q[:, :, :0], K, V, None, {}),  # no queries
        (Q[..., :0], K[..., :0], V, None, {}),  # scores of nothing: equal weights
        (Q[0, 0], K[0, 0], V[0, 0], None, {}),  # neither batch nor heads
        (Q, K[:1], V[:1], None, {}),  # batch of keys broadcast
        (Q[0], K, V, None, {}),  # and of queries
        (Q, K, V, EMPTY_ROW[:, :1], {}),  # a mask of one column
        (Q, K, V, None, {"scale": 0.0}),
        (Q, K, V, None, {"dropout_p": 1.0}),
        (Q, K, V, None, {"dropout_p": -0.5}),
        (Q, K, V, np.full((3, 5), np.inf, "float32"), {}),
        (Q * np.nan, K, V, None, {}),
    ],
)
def test_edges_as_torch(q, k, v, mask, options):
    arrays = [a for a in (q, k, v, mask) if a is not None]
    expected = TF.scaled_dot_product_attention(*map(torch.from_numpy, arrays), **options).numpy()
    result = F.scaled_dot_product_attention(*map(jnp.asarray, arrays), **options)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize(
    "q, k, v, mask, options",
    [
        (Q, K, V, EMPTY_ROW, {"is_causal": True}),
        (Q, K, V, EMPTY_ROW.astype("int32"), {}),
        (Q, K, V, EMPTY_ROW.astype("float16"), {}),
        (Q, K, V, EMPTY_ROW[0], {}),
        (Q, K, V, EMPTY_ROW[:, :4], {}),
        (Q, K, V, np.ones((7, 1, 1, 3, 5), bool), {}),
        (Q, K[..., :4], V, None, {}),
        (Q, K, V[:, :, :3], None, {}),
        (Q, K.astype("float16"), V, None, {}),
        (Q.astype("int32"), K.astype("int32"), V.astype("int32"), None, {}),
        (Q + 0j, K + 0j, V + 0j, None, {}),
        (Q[0, 0, 0], K, V, None, {}),
        (Q, K[:, :3], V[:, :3], None, {}),
        (Q, K[:, :3], V[:, :3], None, {"enable_gqa": True}),
        (Q[0, 0], K[0, 0], V[0, 0], None, {"enable_gqa": True}),
        (Q, K, V, None, {"dropout_p": 1.5}),
    ],
)
def test_rejects_what_torch_rejects(q, k, v, mask, options):
    arrays = [a for a in (q, k, v, mask) if a is not None]
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        TF.scaled_dot_product_attention(*map(torch.from_numpy, arrays), **options)
    with pytest.raises(theirs.type, match="scaled_dot_product_attention: "):
        F.scaled_dot_product_attention(*map(jnp.asarray, arrays), **options)
    with pytest.raises(theirs.type):
        jax.eval_shape(lambda *a: F.scaled_dot_product_attention(*a, **options), *map(jnp.asarray, arrays))


def test_causal_bias_is_the_mask_it_stands_for():
    for bias in (causal_upper_left(3, 5), causal_lower_right(3, 5)):
        result = F.scaled_dot_product_attention(Q, K, V, bias)
        np.testing.assert_allclose(result, F.scaled_dot_product_attention(Q, K, V, bias._materialize()), atol=1e-6)
    with pytest.raises(ValueError, match="is_causal"):
        F.scaled_dot_product_attention(Q, K, V, causal_upper_left(3, 5), is_causal=True)
    with pytest.warns(UserWarning, match="nothing to attend"):
        bias = causal_lower_right(5, 3)
    assert not F.scaled_dot_product_attention(K, Q, Q, bias)[:, :, :2].any()


@pytest.mark.parametrize("rows, keys", [(300, 70), (1300, 1400), (1100, 40)])
@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": True}, {"attn_mask": False}])
def test_blockwise_gives_the_same(options, rows, keys):
    shapes = (1, 2, rows, 8), (1, 1, keys, 8), (1, 1, keys, 4)
    q, k, v = (RNG.standard_normal(shape) for shape in shapes)
    if "attn_mask" in options:
        full = options["attn_mask"]
        mask = RNG.random((2, rows, keys)) > 0.5 if full else RNG.standard_normal((1, keys))
        options = {"attn_mask": mask}

    def loss(q, k, v):
        output = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)
        return (output**2).sum(), output

    results = []
    with jax.enable_x64(True):
        for backends in (SDPBackend.MATH, [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            with sdpa_kernel(backends):
                results.append(jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(q, k, v))
    chex.assert_trees_all_close(*results, rtol=1e-9, atol=1e-11)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere all scores are computed at once")
def test_long_sequences_take_linear_memory_on_the_cpu():
    def peak(length):
        x = jax.ShapeDtypeStruct((1, 2, length, 16), jnp.float32)
        gradients = jax.grad(lambda *qkv: (F.scaled_dot_product_attention(*qkv, is_causal=True) ** 2).sum(), (0, 1, 2))
        return jax.jit(gradients).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert peak(4096) < 6 * peak(1024)  # 16 times as many scores
    with sdpa_kernel(SDPBackend.MATH):
        assert peak(4096) > 10 * peak(1024)


def test_no_backend_raises():
    with sdpa_kernel([]), pytest.raises(RuntimeError, match="at least one"):
        F.scaled_dot_product_attention(Q, K, V)
    with pytest.raises(AssertionError, match="backends"):
        with sdpa_kernel("math"):
            pass


def test_dropout_scales_what_stays_and_draws_from_the_generator():
    v = np.broadcast_to(np.eye(50, dtype="float32"), (1, 50, 50))
    q = k = np.zeros((1, 50, 4), "float32")
    weights = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25) * 50
    assert set(np.round(np.unique(weights), 4)) == {np.float32(0), np.round(np.float32(1 / 0.75), 4)}
    assert abs(float(weights.mean()) - 1) < 0.1
    nn.manual_seed(1)
    first = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25)
    second = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25)
    nn.manual_seed(1)
    assert (first == F.scaled_dot_product_attention(q, k, v, dropout_p=0.25)).all()
    assert (first != second).any()


def test_vmap_and_traced_scale():
    def attend(q, k, v, scale):
        return F.scaled_dot_product_attention(q, k, v, scale=scale)

    scales = jnp.asarray([0.5, 2.0])
    result = jax.vmap(attend)(Q, K, V, scales)
    for i in range(2):
        np.testing.assert_allclose(result[i], attend(Q[i], K[i], V[i], float(scales[i])), atol=1e-6)


def test_strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for dtype in (jnp.bfloat16, jnp.float32):
            q, k, v = (jnp.asarray(x, dtype) for x in (Q, K, V))
            assert F.scaled_dot_product_attention(q, k, v, jnp.asarray(EMPTY_ROW), dropout_p=0.1).dtype == dtype


def test_autocast_runs_in_the_lower_dtype():
    with nn.autocast(dtype=jnp.bfloat16):
        assert F.scaled_dot_product_attention(Q, K, V).dtype == jnp.bfloat16


# -- multi_head_attention_forward -------------------------------------------------------------------------------------

E, H = 8, 2
X = RNG.standard_normal((4, 3, E)).astype("float32")
Y = RNG.standard_normal((5, 3, E)).astype("float32")
W = RNG.standard_normal((3 * E, E)).astype("float32") / 3
B = RNG.standard_normal(3 * E).astype("float32")
OW, OB = RNG.standard_normal((E, E)).astype("float32"), RNG.standard_normal(E).astype("float32")


def run(lib, x=X, y=Y, add_zero_attn=False, heads=H, **options):
    convert = torch.from_numpy if lib is TF else jnp.asarray
    options = {name: convert(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    bias_k, bias_v = options.pop("bias_k", None), options.pop("bias_v", None)
    x = convert(x)
    y = x if y is None else convert(y)
    weights = [convert(a) for a in (W, B)]
    last = [convert(a) for a in (OW, OB)]
    return lib.multi_head_attention_forward(
        x, y, y, E, heads, *weights, bias_k, bias_v, add_zero_attn, 0.0, *last, training=False, **options
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"y": None, "need_weights": False},
        {"attn_mask": RNG.random((4, 5)) > 0.7, "average_attn_weights": False},
        {"attn_mask": RNG.standard_normal((3 * H, 4, 5)).astype("float32"), "add_zero_attn": True},
        {"bias_k": B[None, None, :E], "bias_v": B[None, None, E : 2 * E], "key_padding_mask": RNG.random((3, 5)) > 0.7},
        {
            "static_k": RNG.standard_normal((3 * H, 7, 4)).astype("float32"),
            "static_v": np.ones((3 * H, 7, 4), "float32"),
        },
        {"y": None, "attn_mask": np.triu(np.ones((4, 4), bool), 1), "is_causal": True, "need_weights": False},
        {"y": None, "attn_mask": np.triu(np.ones((4, 4), bool), 1), "is_causal": True},
        {"key_padding_mask": np.ones((3, 5), bool)},  # NaN in the weights' path,
        {"key_padding_mask": np.ones((3, 5), bool), "need_weights": False},  # zeros in the other
    ],
)
def test_multi_head_as_torch(options):
    expected, expected_weights = run(TF, **options)
    output, weights = run(F, **options)
    np.testing.assert_allclose(output, expected.numpy(), rtol=1e-5, atol=1e-5)
    assert (weights is None) == (expected_weights is None)
    if weights is not None:
        np.testing.assert_allclose(weights, expected_weights.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"attn_mask": np.ones((4, 4), bool)},
        {"attn_mask": np.ones((4, 5), np.int32)},
        {"attn_mask": np.ones((5,), bool)},
        {"attn_mask": np.ones((3, 4, 5), bool)},
        {"key_padding_mask": np.ones((3, 4), bool)},
        {"key_padding_mask": np.ones((5,), bool)},
        {"is_causal": True},
        {"heads": 3},
        {"x": X[0, 0]},
        {"x": X[0]},
        {"x": X[..., :4]},
        {"y": Y[..., :4]},
        {"bias_k": B[None, None, :E]},
        {"static_k": np.ones((5, 7, 4), "float32")},
    ],
)
def test_multi_head_rejects_what_torch_rejects(options):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        run(TF, **options)
    with pytest.raises(theirs.type, match="multi_head_attention_forward: "):
        run(F, **options)


def test_mismatched_masks_warn():
    masks = {"attn_mask": np.zeros((4, 5), "float32"), "key_padding_mask": np.zeros((3, 5), bool)}
    with pytest.warns(UserWarning, match="mismatched key_padding_mask"):
        run(F, **masks)


def test_self_attention_is_one_projection():
    x, w = jnp.asarray(X), jnp.asarray(W)

    def dots(key):
        def forward(x, key):
            key = x if key is None else key
            return F.multi_head_attention_forward(
                x, key, key, E, H, w, None, None, None, False, 0.0, jnp.asarray(OW), None
            )

        return str(jax.make_jaxpr(forward)(x, key)).count("dot_general[")

    assert dots(None) == 4  # in, scores, values, out
    assert dots(jnp.asarray(Y)) == 5


@pytest.mark.parametrize("shape", [(4, 1, 1, 8, 20), (1, 1, 1, 3, 5)])
def test_values_of_width_one_leave_no_noise_where_a_row_is_saturated(shape):
    """One query that sees one key: the weight is 1 whatever the scores, so that nothing goes back to query and key."""
    batch, heads, queries, width, keys = shape
    rng = np.random.default_rng(0)
    query, key, value, cotangent = (
        jnp.asarray(rng.standard_normal((batch, heads, *size)), jnp.float32)
        for size in ((queries, width), (keys, width), (keys, 1), (queries, 1))
    )
    run = jax.jit(
        lambda q, k, ct: jax.vjp(lambda q, k: F.scaled_dot_product_attention(q, k, value, is_causal=True), q, k)[1](ct)
    )
    for gradient in run(query, key, cotangent):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(("need_weights", "error"), [(False, RuntimeError), (True, ValueError)])
def test_a_dropout_above_one_is_rejected_as_in_torch(need_weights, error):
    x = np.ones((4, 6), np.float32)
    with pytest.raises(error):
        torch.nn.MultiheadAttention(6, 3, dropout=2.0)(*[torch.tensor(x)] * 3, need_weights=need_weights)
    with pytest.raises(error, match="probability"):
        nn.MultiheadAttention(6, 3, dropout=2.0)(*[jnp.asarray(x)] * 3, need_weights=need_weights)
