"""Which program computes attention on which platform, and that each computes attention. No PyTorch is needed."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.attention import SDPBackend, sdpa_kernel
from jaxnn.attention.bias import causal_lower_right
from jaxnn.functional import attention_blocks, attention_kernels, attention_programs, attention_scores
from jaxnn.functional.attention_scores import Scoring

KERNELS = {"tpu": "tpu_custom_call", "cuda": "__cudnn$fmha"}


def shape(*sizes, dtype="bfloat16"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def lowered(function, *shapes, platform):
    """The program of `function` and of its gradient."""

    def both(*operands):
        output, back = jax.vjp(function, *operands)
        return output, back(output)

    return jax.jit(both).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()


def attend(**options):
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


X = shape(2, 4, 256, 64)
FEW = shape(2, 2, 256, 64)
KEYS = jnp.ones((2, 1, 1, 256), bool)
# What a kernel takes on TPU and on CUDA: function, shapes, and whether.
CALLS = {
    "plain": (attend(), (X, X, X), True, True),
    "causal": (attend(is_causal=True), (X, X, X), True, True),
    "causal from the last key": (attend(attn_mask=causal_lower_right(256, 384)), (X, shape(2, 4, 384, 64)), True, True),
    "mask of keys": (attend(attn_mask=KEYS), (X, X, X), True, True),
    "mask of queries": (attend(attn_mask=jnp.ones((256, 256), bool)), (X, X, X), False, True),
    "added mask": (attend(attn_mask=jnp.ones((4, 256, 256))), (X, X, X), False, True),
    "grouped heads": (attend(enable_gqa=True), (X, FEW, FEW), True, True),
    "uneven length": (attend(), (shape(2, 4, 201, 64),) * 3, True, True),
    "other width of values": (attend(), (X, X, shape(2, 4, 256, 32)), True, False),
    "wide": (attend(), (shape(1, 1, 128, 512),) * 3, False, False),
    "without heads": (attend(), (shape(256, 64),) * 3, True, True),
    "dropout": (attend(dropout_p=0.5, dropout_key=jax.random.key(0)), (X, X, X), False, False),
    "few queries": (attend(), (shape(2, 4, 1, 64), X, X), False, False),
    "float16": (attend(), (shape(2, 4, 256, 64, dtype="float16"),) * 3, False, True),
    "short float32": (attend(), (shape(2, 4, 256, 64, dtype="float32"),) * 3, False, False),
    "long float32": (attend(), (shape(1, 1, 1024, 64, dtype="float32"),) * 3, True, False),
    "vmap": (
        jax.vmap(attend(is_causal=True), (0, None, None)),
        (shape(3, 4, 256, 64), *(shape(4, 256, 64),) * 2),
        True,
        True,
    ),
    "checkpoint": (jax.checkpoint(attend()), (X, X, X), True, True),
}


@pytest.mark.parametrize("name", CALLS)
def test_kernels_are_taken_where_they_fit(name):
    function, shapes, *expected = CALLS[name]
    shapes = (*shapes, shapes[-1])[:3]
    for (platform, call), wanted in zip(KERNELS.items(), expected):
        text = lowered(function, *shapes, platform=platform)
        assert (call in text) is wanted, platform
        if wanted:  # forward, and back: two kernels on a TPU, and none of the scores
            assert len(re.findall(re.escape(call), text)) >= 2
            assert "4x256x256xf32" not in text or "mask" in name
    assert not any(call in lowered(function, *shapes, platform="cpu") for call in KERNELS.values())


def test_multi_head_attention_with_masks_of_keys_takes_the_kernel():
    layer = nn.TransformerEncoderLayer(64, 2, batch_first=True, dropout=0.0, dtype=jnp.bfloat16)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(x):
        return model(x, src_key_padding_mask=jnp.zeros((2, 256), bool))

    def attend(x):
        padding = jnp.zeros((2, 256), bool)
        return layer.self_attn(x, x, x, key_padding_mask=padding, need_weights=False)[0]

    for function in (forward, attend):
        assert KERNELS["tpu"] in lowered(function, shape(2, 256, 64), platform="tpu")


@pytest.mark.parametrize("batch, loops", [(2, False), (100, True)])
@pytest.mark.parametrize(
    "options",
    [{"attn_mask": jnp.ones((256, 256))}, {"dropout_p": 0.5, "dropout_key": jax.random.key(0)}],
    ids=["mask", "dropout"],
)
def test_few_scores_without_a_kernel_are_kept_for_the_gradient(batch, loops, options):
    """100 MiB of them are not: blocks compute theirs again."""
    text = lowered(attend(**options), *[shape(batch, 4, 256, 64)] * 3, platform="tpu")
    assert ("stablehlo.while" in text) is loops


def test_one_query_over_a_long_cache_keeps_a_tpus_matrix_unit_busy():
    shapes = shape(1, 2, 1, 16), shape(1, 2, 1024, 16), shape(1, 2, 1024, 16)
    text = jax.jit(attend(is_causal=True)).trace(*shapes).lower(lowering_platforms=("tpu",)).as_text()
    assert "tensor<1x2x2x1024xf32>" in text
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal(x.shape), jnp.float32) for x in shapes)
    mask = jnp.asarray(rng.random((1, 1, 1, 1024)) > 0.5)
    operands = q, k, v, mask, jax.tree.flatten(Scoring((0,), 0, 0.25))[1], (None, 0, 0.25, 0.0, True), "highest"
    got = attention_programs._twice(*operands)[0]
    np.testing.assert_allclose(got, attention_programs._at_once(*operands)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_products_of_the_gradient_take_the_operands_dtype(platform):
    text = lowered(attend(is_causal=True), *[shape(1, 2, 100, 32)] * 3, platform=platform)
    products = re.findall(r"dot_general.* : \((.*?)\)", text)
    assert len(products) >= 5 and not any("f32" in operands for operands in products)


def test_a_backend_that_cannot_run_says_why():
    x = jnp.ones((1, 1, 8, 8))
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        with pytest.raises(RuntimeError, match="CUDNN_ATTENTION has no program on cpu"):
            F.scaled_dot_product_attention(x, x, x)
        with pytest.raises(RuntimeError, match=r"cuDNN.* cannot run here: it takes bfloat16 and float16"):
            lowered(
                attend(),
                shape(1, 1, 256, 64, dtype="float32"),
                *[shape(1, 1, 256, 64, dtype="float32")] * 2,
                platform="cuda",
            )
        assert KERNELS["cuda"] in lowered(attend(), X, X, X, platform="cuda")
    with sdpa_kernel(SDPBackend.OVERRIDEABLE), pytest.raises(RuntimeError, match="has no program"):
        F.scaled_dot_product_attention(x, x, x)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]):
        assert F.scaled_dot_product_attention(x, x, x).shape == x.shape
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]):  # no order was given: ours
        assert KERNELS["tpu"] in lowered(attend(), X, X, X, platform="tpu")
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], set_priority=True):
        assert KERNELS["tpu"] not in lowered(attend(), X, X, X, platform="tpu")


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_a_program_that_xla_divides_has_no_kernel_and_one_in_shard_map_has():
    mesh = Mesh(np.array(jax.devices()[:2]), "data")
    sharded = jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=NamedSharding(mesh, PartitionSpec("data")))
    assert KERNELS["tpu"] not in lowered(attend(), *[sharded] * 3, platform="tpu")
    assert KERNELS["cuda"] not in lowered(attend(), *[sharded] * 3, platform="cuda")
    spec = PartitionSpec("data")
    for check in (True, False):
        local = jax.shard_map(attend(), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check)
        assert KERNELS["tpu"] in lowered(local, *[sharded] * 3, platform="tpu")


# -- values and gradients beside float64 -----------------------------------------------------------------------------------


RAGGED = "grouped, from the last key, ragged, rows without keys"
KEYS_ONLY = "mask of keys, causal, one entry without keys"
ADDED = "added mask of some heads, other heads of values"


def _case(name):
    """Shapes of query, key and value, and the scoring."""
    rng = np.random.default_rng(0)
    if name == RAGGED:
        return ((2, 4, 200, 16), (2, 2, 140, 16), (2, 2, 140, 24)), Scoring((), -60, 0.3)
    if name == KEYS_ONLY:
        mask = rng.random((2, 1, 1, 256)) > 0.5
        mask[0, ..., :20], mask[1] = False, False
        return ((2, 1, 130, 8), (2, 1, 256, 8), (2, 1, 256, 8)), Scoring((mask,), 0, 0.3)
    if name == ADDED:
        mask = rng.standard_normal((4, 50, 30)).astype("float32")
        return ((2, 2, 4, 50, 8), (2, 2, 2, 30, 8), (2, 2, 1, 30, 8)), Scoring(
            (mask, rng.random((2, 1, 1, 50, 30)) > 0.5), 0, 0.3
        )
    raise KeyError(name)


def _derived(forward, gradient, scoring, arrays, cotangent):
    """Output and cotangents of query, key, value and of what masks are added."""
    wanted = tuple(mask.dtype != bool for mask in scoring.masks)
    output, total = forward(*arrays, scoring)
    made = gradient(*arrays, scoring, output, total, cotangent, wanted)
    return output, *[x for x in made if x is not None]


def _blocks(arrays, scoring, cotangent):
    def gradient(q, k, v, scoring, output, total, cotangent, wanted):
        return attention_blocks.gradient_by_blocks(q, k, v, scoring, total, cotangent, wanted, "all")

    return _derived(attention_blocks.attend_by_blocks, gradient, scoring, arrays, cotangent)


def _splash(arrays, scoring, cotangent):
    def forward(*operands):
        return attention_kernels.splash(*operands, interpret=True)

    def gradient(*operands):
        return attention_kernels.splash_gradient(*operands[:-1], interpret=True)

    return _derived(forward, gradient, scoring, arrays, cotangent)


def _at_once(arrays, scoring, cotangent):
    added = [mask for mask in scoring.masks if mask.dtype != bool]

    def forward(q, k, v, *added):
        feed = iter(added)
        masks = tuple(mask if mask.dtype == bool else next(feed) for mask in scoring.masks)
        return attention_scores.attend_at_once(q, k, v, scoring._replace(masks=masks))[0]

    output, back = jax.vjp(forward, *arrays, *added)
    return output, *back(cotangent)


PROGRAMS = {"blocks": (_blocks, (RAGGED, ADDED)), "splash": (_splash, (RAGGED, KEYS_ONLY))}


@pytest.mark.parametrize(
    ("program", "name"), [(program, name) for program, (_, names) in PROGRAMS.items() for name in names]
)
def test_programs_are_as_exact_as_all_scores_at_once(program, name, monkeypatch):
    monkeypatch.setattr(attention_blocks, "BUDGET", 2**15)
    monkeypatch.setattr(attention_blocks, "_LEAST_ROWS", 16)
    shapes, scoring = _case(name)
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(size).astype("float32") for size in shapes]
    cotangent = rng.standard_normal((*shapes[0][:-1], shapes[2][-1])).astype("float32")

    def run(function, dtype):
        masks = tuple(mask if mask.dtype == bool else mask.astype(dtype) for mask in scoring.masks)
        part = scoring._replace(masks=tuple(map(jnp.asarray, masks)))
        jitted = jax.jit(lambda arrays, cotangent, part: function(arrays, scoring._replace(masks=part), cotangent))
        return jitted([jnp.asarray(x, dtype) for x in arrays], jnp.asarray(cotangent, dtype), part.masks)

    with jax.enable_x64(True):
        truth = list(map(np.asarray, run(_at_once, "float64")))
    for exact, got, plain in zip(truth, run(PROGRAMS[program][0], "float32"), run(_at_once, "float32"), strict=True):
        limit = 8 * np.abs(np.asarray(plain) - exact).max() + 1e-7
        assert np.abs(np.asarray(got) - exact).max() <= limit


def test_blocks_drop_the_same_weights_on_the_way_back(monkeypatch):
    monkeypatch.setattr(attention_blocks, "BUDGET", 2**11)
    monkeypatch.setattr(attention_blocks, "_LEAST_ROWS", 8)
    rng = np.random.default_rng(0)
    q, k, v, ct = (jnp.asarray(rng.standard_normal((1, 2, 24, 4)), jnp.float32) for _ in range(4))
    scoring = Scoring((), None, 0.5, 0.3, jax.random.key(3))

    def forward(q, k, v):
        return attention_blocks.attend_by_blocks(q, k, v, scoring)[0]

    _, total = attention_blocks.attend_by_blocks(q, k, v, scoring)
    made = attention_blocks.gradient_by_blocks(q, k, v, scoring, total, ct, (), "all")
    for got, want in zip(made, jax.vjp(forward, q, k, v)[1](ct)):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_blocks_hold_few_scores():
    x = jax.ShapeDtypeStruct((1, 4, 2048, 16), jnp.bfloat16)
    total = jax.ShapeDtypeStruct(x.shape[:-1], jnp.float32)

    def gradient(q, k, v, total, ct):
        return attention_blocks.gradient_by_blocks(q, k, v, Scoring((), 0, 0.25), total, ct, (), "all")

    memory = jax.jit(gradient).lower(x, x, x, total, x).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 8 * 2048 * 2048  # half of all scores in float32


def test_the_documentation_holds_the_table():
    page = pathlib.Path(__file__).parents[2] / "docs" / "attention.md"
    assert attention_programs.as_markdown() in page.read_text()
