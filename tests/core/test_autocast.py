"""autocast: the dtype that every function of ``functional`` returns, next to torch's lists.

torch has one list for each kind of device. jaxnn treats all devices alike and follows the CUDA list (read here from
torch's own header); the results are compared with torch's CPU autocast, and where CPU and CUDA differ the difference
is listed with its reason.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.base.autocast import autocast
from jaxnn.base.modes import autocast_state


class Arrays:
    """Random inputs for either library: floating ones in `dtype`, positive, and integers."""

    def __init__(self, library, dtype):
        self.library, self.dtype = library, dtype

    def __call__(self, *shape, low=0.1, high=0.9):
        values = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
        if self.library is jnp:
            return jnp.asarray(values, self.dtype)
        return self.library.from_numpy(values).to(getattr(self.library, self.dtype))

    def ints(self, *shape, high=3):
        values = np.random.default_rng(1).integers(0, high, shape)
        return jnp.asarray(values) if self.library is jnp else self.library.from_numpy(values)


def _unary(name):
    return lambda F, a: getattr(F, name)(a(2, 4))


def _pair(name, **kwargs):
    return lambda F, a: getattr(F, name)(a(2, 4), a(2, 4), **kwargs)


def _pool(name, rank, *args, **kwargs):
    return lambda F, a: getattr(F, name)(a(1, 2, *(6,) * rank), *args, **kwargs)


def _conv(name, rank):
    return lambda F, a: getattr(F, name)(a(1, 2, *(4,) * rank), a(2, 2, *(3,) * rank), a(2))


def _unpool(name, rank):
    def call(F, a):
        pooled, indices = getattr(F, f"max_pool{rank}d")(a(1, 2, *(4,) * rank), 2, return_indices=True)
        return getattr(F, name)(pooled, indices, 2)

    return call


_UNARY = """celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu relu6 rrelu selu
sigmoid silu softplus softshrink softsign tanh tanhshrink""".split()
_PAIRS = """binary_cross_entropy binary_cross_entropy_with_logits cosine_similarity gaussian_nll_loss
hinge_embedding_loss huber_loss l1_loss mse_loss multilabel_soft_margin_loss pairwise_distance poisson_nll_loss
smooth_l1_loss soft_margin_loss""".split()

CALLS = {
    **{name: _unary(name) for name in _UNARY},
    **{name: _pair(name) for name in _PAIRS},
    "gaussian_nll_loss": lambda F, a: F.gaussian_nll_loss(a(2, 4), a(2, 4), a(2, 4)),
    "kl_div": _pair("kl_div", reduction="sum"),
    "softmax": lambda F, a: F.softmax(a(2, 4), dim=1),
    "softmin": lambda F, a: F.softmin(a(2, 4), dim=1),
    "log_softmax": lambda F, a: F.log_softmax(a(2, 4), dim=1),
    "gumbel_softmax": lambda F, a: F.gumbel_softmax(a(2, 4), dim=1),
    "threshold": lambda F, a: F.threshold(a(2, 4), 0.5, 0.0),
    "conv_tbc": lambda F, a: F.conv_tbc(a(4, 1, 2), a(3, 2, 2), a(2)),
    "prelu": lambda F, a: F.prelu(a(2, 4), a(4)),
    "linear": lambda F, a: F.linear(a(2, 4), a(3, 4), a(3)),
    "bilinear": lambda F, a: F.bilinear(a(2, 4), a(2, 3), a(5, 4, 3)),
    **{f"conv{rank}d": _conv(f"conv{rank}d", rank) for rank in (1, 2, 3)},
    **{f"conv_transpose{rank}d": _conv(f"conv_transpose{rank}d", rank) for rank in (1, 2, 3)},
    **{f"avg_pool{rank}d": _pool(f"avg_pool{rank}d", rank, 2) for rank in (1, 2, 3)},
    **{f"max_pool{rank}d": _pool(f"max_pool{rank}d", rank, 2) for rank in (1, 2, 3)},
    **{f"lp_pool{rank}d": _pool(f"lp_pool{rank}d", rank, 2, 2) for rank in (1, 2, 3)},
    **{f"adaptive_avg_pool{rank}d": _pool(f"adaptive_avg_pool{rank}d", rank, 2) for rank in (1, 2, 3)},
    **{f"adaptive_max_pool{rank}d": _pool(f"adaptive_max_pool{rank}d", rank, 2) for rank in (1, 2, 3)},
    **{f"fractional_max_pool{rank}d": _pool(f"fractional_max_pool{rank}d", rank, 2, 2) for rank in (2, 3)},
    **{f"max_unpool{rank}d": _unpool(f"max_unpool{rank}d", rank) for rank in (1, 2, 3)},
    "batch_norm": lambda F, a: F.batch_norm(a(3, 4), None, None, training=True),
    "instance_norm": lambda F, a: F.instance_norm(a(3, 4, 5)),
    "layer_norm": lambda F, a: F.layer_norm(a(3, 4), (4,)),
    "group_norm": lambda F, a: F.group_norm(a(3, 4, 2), 2),
    "rms_norm": lambda F, a: F.rms_norm(a(3, 4), (4,)),
    "local_response_norm": lambda F, a: F.local_response_norm(a(3, 4, 5), 2),
    "normalize": lambda F, a: F.normalize(a(3, 4)),
    "dropout": lambda F, a: F.dropout(a(3, 4), 0.5, True),
    "dropout1d": lambda F, a: F.dropout1d(a(3, 4, 5), 0.5, True),
    "dropout2d": lambda F, a: F.dropout2d(a(3, 4, 5, 5), 0.5, True),
    "dropout3d": lambda F, a: F.dropout3d(a(3, 4, 5, 5, 5), 0.5, True),
    "alpha_dropout": lambda F, a: F.alpha_dropout(a(3, 4), 0.5, True),
    "feature_alpha_dropout": lambda F, a: F.feature_alpha_dropout(a(3, 4, 5), 0.5, True),
    "embedding": lambda F, a: F.embedding(a.ints(2, 3), a(5, 4)),
    "embedding_bag": lambda F, a: F.embedding_bag(a.ints(2, 3), a(5, 4)),
    "pad": lambda F, a: F.pad(a(2, 4), (1, 1)),
    "fold": lambda F, a: F.fold(a(1, 8, 4), (3, 3), (2, 2)),
    "unfold": lambda F, a: F.unfold(a(1, 2, 3, 3), (2, 2)),
    "pixel_shuffle": lambda F, a: F.pixel_shuffle(a(1, 4, 2, 2), 2),
    "pixel_unshuffle": lambda F, a: F.pixel_unshuffle(a(1, 1, 4, 4), 2),
    "channel_shuffle": lambda F, a: F.channel_shuffle(a(1, 4, 2, 2), 2),
    "native_channel_shuffle": lambda F, a: F.native_channel_shuffle(a(1, 4, 2, 2), 2),
    "interpolate": lambda F, a: F.interpolate(a(1, 2, 3, 3), scale_factor=2, mode="bilinear"),
    "upsample": lambda F, a: F.upsample(a(1, 2, 3, 3), scale_factor=2),
    "upsample_nearest": lambda F, a: F.upsample_nearest(a(1, 2, 3, 3), scale_factor=2),
    "upsample_bilinear": lambda F, a: F.upsample_bilinear(a(1, 2, 3, 3), scale_factor=2),
    "grid_sample": lambda F, a: F.grid_sample(a(1, 2, 3, 3), a(1, 2, 2, 2), align_corners=False),
    "affine_grid": lambda F, a: F.affine_grid(a(1, 2, 3), (1, 2, 4, 4), align_corners=False),
    "pdist": lambda F, a: F.pdist(a(3, 4)),
    "scaled_dot_product_attention": lambda F, a: F.scaled_dot_product_attention(a(1, 3, 4), a(1, 3, 4), a(1, 3, 4)),
    "multi_head_attention_forward": lambda F, a: F.multi_head_attention_forward(
        a(3, 1, 4), a(3, 1, 4), a(3, 1, 4), 4, 2, a(12, 4), a(12), None, None, False, 0.0, a(4, 4), a(4)
    ),
    "cross_entropy": lambda F, a: F.cross_entropy(a(2, 4), a.ints(2)),
    "nll_loss": lambda F, a: F.nll_loss(a(2, 4), a.ints(2)),
    "grouped_mm": lambda F, a: F.grouped_mm(a(2, 4, 16), a(2, 16, 8)),
    "linear_cross_entropy": lambda F, a: F.linear_cross_entropy(a(2, 4), a(3, 4), a.ints(2)),
    "multi_margin_loss": lambda F, a: F.multi_margin_loss(a(2, 4), a.ints(2)),
    "multilabel_margin_loss": lambda F, a: F.multilabel_margin_loss(a(2, 4), a.ints(2, 4)),
    "cosine_embedding_loss": lambda F, a: F.cosine_embedding_loss(a(2, 4), a(2, 4), a.ints(2)),
    "margin_ranking_loss": lambda F, a: F.margin_ranking_loss(a(2, 4), a(2, 4), a(2, 4)),
    "triplet_margin_loss": lambda F, a: F.triplet_margin_loss(a(2, 4), a(2, 4), a(2, 4)),
    "triplet_margin_with_distance_loss": lambda F, a: F.triplet_margin_with_distance_loss(a(2, 4), a(2, 4), a(2, 4)),
    "ctc_loss": lambda F, a: F.ctc_loss(a(4, 2, 3), 1 + a.ints(2, 2, high=2), (4, 4), (2, 2)),
}
_CUDA = "in CUDA's float32 list, not in the CPU's"
_CUDA_PARTS = "made in torch of parts (sum, norm, log, pow) that CUDA runs in float32"
_CPU = "in the CPU's float32 list for lack of bfloat16 kernels there; CUDA follows the input"

# What a bfloat16 input gives where it is not what torch's CPU autocast gives, and why.
DIFFERENT = {
    **dict.fromkeys(
        "softmax log_softmax softmin softplus layer_norm rms_norm group_norm cosine_similarity pdist interpolate "
        "upsample upsample_nearest upsample_bilinear".split(),
        ("float32", _CUDA),
    ),
    **dict.fromkeys(
        "normalize local_response_norm gumbel_softmax pairwise_distance lp_pool1d lp_pool2d "
        "gaussian_nll_loss multilabel_soft_margin_loss triplet_margin_with_distance_loss".split(),
        ("float32", _CUDA_PARTS),
    ),
    **dict.fromkeys(
        "max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d fractional_max_pool2d fractional_max_pool3d max_unpool1d "
        "max_unpool2d max_unpool3d grid_sample".split(),
        ("bfloat16", _CPU),
    ),
}
# Functions of torch that need no row: no floating result, or another name for a row (in-place forms).
NO_ROW = {"one_hot", "scaled_mm", "ScalingType", "SwizzleType"}  # integers, float8 and names of scales


def _result(functional, arrays, call):
    result = call(functional, arrays)
    while isinstance(result, (tuple, list)):
        result = result[0]
    return str(result.dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_result_dtype(name, dtype):
    torch = pytest.importorskip("torch")
    if not hasattr(F, name):
        pytest.skip(f"functional has no {name} yet")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        try:
            theirs = _result(torch.nn.functional, Arrays(torch, dtype), CALLS[name])
        except NotImplementedError:  # torch's CPU has no bfloat16 kernel, and does not cast: pdist
            theirs = "none"
    expected = DIFFERENT[name][0] if name in DIFFERENT and dtype == "bfloat16" else theirs
    with autocast("cpu", dtype=jnp.bfloat16):
        assert _result(F, Arrays(jnp, dtype), CALLS[name]) == expected
    if name in DIFFERENT and dtype == "bfloat16":
        assert expected != theirs, "no difference any more: take the row out of DIFFERENT"


def test_every_function_has_a_row():
    torch = pytest.importorskip("torch")
    public = {name for name in dir(F) if not name.startswith("_") and callable(getattr(F, name))}
    shared = {name for name in public if hasattr(torch.nn.functional, name) and not name.endswith("_")}
    assert {name for name in shared if not name.endswith("_with_indices")} - NO_ROW <= set(CALLS)


def test_policies_are_those_of_torchs_header():
    """Each operation that has the name of an entry of torch's CUDA lists is decorated with that list."""
    torch = pytest.importorskip("torch")
    header = pathlib.Path(torch.__file__).parent / "include/ATen/autocast_mode.h"
    if not header.exists():
        pytest.skip("this torch comes without headers")
    text = header.read_text()
    kinds = {"LOWER_PRECISION_FP": "lower", "FP32": "float32", "FP32_SET_OPT_DTYPE": "float32", "PROMOTE": "promote"}
    compared = 0
    for kind, policy in kinds.items():
        entries = text.split(f"#define AT_FORALL_{kind}(_)", 1)[1].split("\n\n", 1)[0]
        for entry in set(re.findall(r"_\((\w+)", entries)):
            operation = getattr(F, {"grid_sampler": "grid_sample"}.get(entry, entry), None)
            if hasattr(operation, "__jaxnn_op__"):
                assert operation.__jaxnn_op__["autocast"] == policy, entry
                compared += 1
    assert compared > 25


def test_float64_and_integers_are_left_alone():
    with autocast(dtype=jnp.bfloat16):
        assert F.mse_loss(jnp.arange(3.0), jnp.arange(3)).dtype == jnp.float32
        assert F.embedding(jnp.arange(3), jnp.ones((4, 2))).dtype == jnp.float32
        with jax.enable_x64(True):
            assert F.mse_loss(jnp.ones(3, jnp.float64), jnp.ones(3, jnp.float64)).dtype == jnp.float64


def test_is_part_of_jits_key_and_nests():
    function = jax.jit(lambda x, y: F.linear(x, y))
    x, y = jnp.ones((2, 3)), jnp.ones((4, 3))
    assert function(x, y).dtype == jnp.float32
    with autocast(dtype=jnp.bfloat16):
        assert function(x, y).dtype == jnp.bfloat16
        with autocast(enabled=False):
            assert function(x, y).dtype == jnp.float32
        with autocast(dtype=jnp.float16):
            assert function(x, y).dtype == jnp.float16
        assert function(x, y).dtype == jnp.bfloat16
    assert autocast_state.value is None and function(x, y).dtype == jnp.float32


def test_gradients_come_back_in_the_parameters_dtype():
    x, y = jnp.ones((2, 3)), jnp.ones((4, 3))
    with autocast(dtype=jnp.bfloat16):
        grads = jax.grad(lambda x, y: F.mse_loss(F.linear(x, y), jnp.zeros((2, 4))), (0, 1))(x, y)
    assert [grad.dtype for grad in grads] == [jnp.float32, jnp.float32]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="dtype"):
        autocast(dtype=jnp.float32)
    with pytest.raises(ValueError, match="device_type"):
        autocast(jnp.bfloat16)
