"""What PyTorch's test_init.py checks, where tests/test_init.py, which compares numbers with torch's, does not;
and modules that are built abstractly, in shards and inside compiled functions."""

import random as python_random
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxnn as nn
import jaxnn.functional as F
from jaxnn import init


def box(*shape, dtype=jnp.float32):
    return nn.Parameter(jnp.zeros(shape, dtype))


# -- gains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["linear", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)), "sigmoid"]
)
def test_the_gain_of_what_is_linear_is_one(name):
    assert init.calculate_gain(name) == 1


@pytest.mark.parametrize("slope", [None, 0, 0.01, 10])
def test_the_gain_of_leaky_relu_is_torchs(slope):
    torch = pytest.importorskip("torch")
    assert init.calculate_gain("leaky_relu", slope) == torch.nn.init.calculate_gain("leaky_relu", slope)


@pytest.mark.parametrize("slope", [True, [1], {"a": "b"}, "text"])
def test_a_slope_is_a_number(slope):
    with pytest.raises(ValueError, match="leaky_relu|slope"):
        init.calculate_gain("leaky_relu", slope)


@pytest.mark.parametrize("length", [2, 5, 25])
def test_unknown_nonlinearities_are_refused(length):
    with pytest.raises(ValueError, match="nonlinearity"):
        init.calculate_gain("".join(python_random.Random(0).choices(string.ascii_lowercase, k=length)))


# -- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 4])
def test_constants_fill_any_shape(dims):
    held = box(*range(2, 2 + dims))
    for fill, value in (
        (lambda: init.constant_(held, 3.5), 3.5),
        (lambda: init.ones_(held), 1),
        (lambda: init.zeros_(held), 0),
    ):
        assert np.all(np.asarray(fill()) == value) and held.shape == tuple(range(2, 2 + dims))


@pytest.mark.parametrize(
    "function, dims",
    [
        *((init.eye_, dims) for dims in (0, 1, 3)),
        *((init.dirac_, dims) for dims in (1, 2, 6)),
        *((lambda tensor: init.sparse_(tensor, 0.5), dims) for dims in (1, 3)),
        *((function, dims) for function in (init.xavier_uniform_, init.xavier_normal_) for dims in (0, 1)),
        *((function, dims) for function in (init.kaiming_uniform_, init.kaiming_normal_) for dims in (0, 1)),
        *((init.orthogonal_, dims) for dims in (0, 1)),
    ],
)
def test_shapes_that_have_no_meaning_are_refused(function, dims):
    with pytest.raises(ValueError):
        function(box(*(2,) * dims))


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
def test_nothing_to_fill_warns(name):
    with pytest.warns(UserWarning, match="without elements"):
        getattr(init, name)(box(0, 1))


# -- matrices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_convolution_with_a_dirac_kernel_passes_its_channels_through(rank, groups):
    kernel = init.dirac_(box(9, 3, *(3,) * rank), groups)
    assert np.count_nonzero(kernel) == 3 * groups == float(np.sum(kernel))
    x = jax.random.normal(jax.random.key(0), (2, 3, *(5,) * rank))
    out = getattr(F, f"conv{rank}d")(x, kernel)
    inside = x[(slice(None), slice(None), *(slice(1, -1),) * rank)]
    for group in np.split(np.asarray(out), groups, axis=1):
        np.testing.assert_array_equal(group[:, :3], inside)
        assert not np.any(group[:, 3:])


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (20, 2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_orthogonal_rows_or_columns(shape, gain):
    matrix = np.asarray(init.orthogonal_(box(*shape), gain)).reshape(shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, gain**2 * np.eye(len(small)), atol=1e-6)


@pytest.mark.parametrize("std", [0.01, 0.2])
def test_sparse_columns_have_their_zeros_and_the_rest_its_spread(std):
    matrix = np.asarray(init.sparse_(box(35, 400), 0.15, std=std))
    assert np.all((matrix == 0).sum(0) == np.ceil(0.15 * 35))
    assert abs(matrix[matrix != 0].std() / std - 1) < 0.03


# -- the truncated normal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_truncated_normals_keep_their_bounds_and_many_values(dtype):
    for a, b in ((-2.0, 2.0), (2.0, 3.0)):
        drawn = np.asarray(init.trunc_normal_(box(10000, dtype=dtype), a=a, b=b)).astype(np.float64)
        assert a <= drawn.min() and drawn.max() <= b and np.all(np.isfinite(drawn))
    drawn = np.asarray(init.trunc_normal_(box(10000, dtype=dtype), a=-2.0, b=2.0)).astype(np.float64)
    enough = {jnp.float32: 5000, jnp.float16: 3000, jnp.bfloat16: 1000}[dtype]
    assert len(np.unique(drawn)) > enough and abs(drawn.mean()) < 0.05 and abs(drawn.std() - 0.88) < 0.05


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_a_narrow_truncated_normal_puts_nothing_on_far_bounds(dtype):
    drawn = np.asarray(init.trunc_normal_(box(10000, dtype=dtype), std=0.1, a=-2.0, b=2.0))
    assert not np.any(np.abs(drawn.astype(np.float64)) == 2)


def test_a_truncated_normal_from_a_generator_is_that_of_its_seed():
    drawn = init.trunc_normal_(box(5), generator=nn.Generator().manual_seed(42))
    nn.manual_seed(42)
    np.testing.assert_array_equal(drawn, init.trunc_normal_(box(5)))


# -- abstract and sharded -------------------------------------------------------------------------------------------

MESH = Mesh(np.array(jax.devices()[:2]), ("rows",))


class Net(nn.Module):
    """Layers that draw in every way a layer draws."""

    def __init__(self, device=None):
        super().__init__()
        self.embedding = nn.Embedding(6, 8, device=device)
        self.attention = nn.MultiheadAttention(8, 2, add_bias_kv=True)
        self.head = nn.utils.parametrizations.orthogonal(nn.Linear(8, 4, device=device))
        init.trunc_normal_(self.head.bias, std=0.1)


def build(key):
    with nn.rng(key):
        return Net()


def test_a_module_is_built_without_a_draw():
    before = nn.get_rng_state()
    abstract = jax.eval_shape(Net)
    np.testing.assert_array_equal(nn.get_rng_state(), before)
    real = Net()
    assert list(abstract.state_dict()) == list(real.state_dict())
    for key, value in real.state_dict().items():
        held = abstract.state_dict()[key]
        assert isinstance(held, jax.ShapeDtypeStruct) and (held.shape, held.dtype) == (value.shape, value.dtype)


def test_a_module_is_built_in_its_shards():
    key = jax.random.key(3)
    shardings = jax.tree.map(
        lambda leaf: NamedSharding(MESH, P("rows") if leaf.ndim == 2 and leaf.shape[0] % 2 == 0 else P()),
        jax.eval_shape(build, key),
    )
    sharded = jax.jit(build, out_shardings=shardings)(key)
    assert sharded.embedding.weight.sharding == NamedSharding(MESH, P("rows"))
    assert [shard.data.shape for shard in sharded.embedding.weight.addressable_shards] == [(3, 8)] * 2
    for whole in (build(key), jax.jit(build)(key)):
        for name, value in whole.state_dict().items():
            np.testing.assert_allclose(sharded.state_dict()[name], value, atol=1e-6, err_msg=name)


def test_drawn_on_the_host_and_put_in_shards_the_weights_are_those_of_the_seed():
    nn.manual_seed(7)
    sharded = Net(NamedSharding(MESH, P("rows")))
    nn.manual_seed(7)
    whole = Net()
    assert sharded.embedding.weight.sharding == NamedSharding(MESH, P("rows"))
    for name, value in whole.state_dict().items():
        np.testing.assert_allclose(sharded.state_dict()[name], value, atol=1e-6, err_msg=name)


def test_under_nn_jit_every_call_builds_another_module_and_a_seed_repeats_them():
    made = nn.jit(lambda: nn.Linear(3, 4))
    nn.manual_seed(0)
    first, second = made(), made()
    nn.manual_seed(0)
    again = made()
    assert not np.array_equal(first.weight, second.weight)
    np.testing.assert_array_equal(first.weight, again.weight)
    with pytest.raises(RuntimeError, match="nn.jit"):
        jax.jit(lambda: nn.Linear(3, 4))()
