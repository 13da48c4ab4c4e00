"""nn.init against torch.nn.init: same seed, same weights; what it takes, and what it refuses."""

import contextlib
import math
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import init
from jaxnn.boxes.parameter import Buffer, Parameter, empty
from jaxnn.core import random

# name, options, whether the numbers are torch's to the bit.
EXACT = [
    ("uniform_", {}),
    ("uniform_", {"a": -2.0, "b": 0.5}),
    ("xavier_uniform_", {"gain": 1.7}),
    ("kaiming_uniform_", {"a": math.sqrt(5)}),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("constant_", {"val": 0.3}),
    ("ones_", {}),
    ("zeros_", {}),
]
CLOSE = [
    ("normal_", {}),
    ("normal_", {"mean": 0.0, "std": 0.02}),
    ("trunc_normal_", {"std": 0.02}),
    ("xavier_normal_", {}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
]
MATRIX = [("eye_", {}), ("sparse_", {"sparsity": 0.3}), ("orthogonal_", {"gain": 1.5})]
# Below 16 numbers, 16, odd tails, several dimensions; torch draws in another order from 16 normal numbers on.
SHAPES = [(1, 1), (3, 5), (4, 4), (1, 17), (5, 3, 2), (33, 9), (8, 4, 3), (6, 3, 3, 3), (2, 3, 2, 2, 2), (7, 143)]
SEEDS = (0, 1, 42, 1234, 2**40 + 7)
DTYPES = ["float32", "float64", "bfloat16", "float16"]
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def precision(dtype):
    """Where float64 exists."""
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def both(name, options, shape, seed, dtype="float32", own=False):
    """What our function and torch's draw from one seed, in float64; `own`: each from a generator of its own."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed), random.manual_seed(seed)
    theirs_from = {"generator": torch.Generator().manual_seed(seed + 5)} if own else {}
    ours_from = {"generator": random.Generator().manual_seed(seed + 5)} if own else {}
    theirs = getattr(torch.nn.init, name)(torch.empty(shape, dtype=getattr(torch, dtype)), **options, **theirs_from)
    with precision(dtype):
        ours = getattr(init, name)(Parameter(empty(shape, jnp.dtype(dtype))), **options, **ours_from)
        assert ours.dtype == jnp.dtype(dtype) and ours.shape == shape
        ours = np.asarray(ours).astype(np.float64)
    # The generators must be left alike, for what is initialised next.
    np.testing.assert_array_equal(random.default_generator.host.get_state()[24:], torch.get_rng_state().numpy()[24:])
    if own:
        state = theirs_from["generator"].get_state().numpy()
        np.testing.assert_array_equal(ours_from["generator"].host.get_state()[24:], state[24:])
    return ours, theirs.double().numpy()


@every_dtype
@pytest.mark.parametrize("name, options", EXACT)
def test_uniform_families_are_torch_bit_for_bit(name, options, dtype):
    for seed in SEEDS:
        for shape in SHAPES:
            ours, theirs = both(name, options, shape, seed, dtype)
            np.testing.assert_array_equal(ours, theirs)


def assert_two_ulp(ours, theirs, dtype):
    eps = float(ml_dtypes.finfo(jnp.dtype(dtype)).eps)
    assert np.all(np.abs(ours - theirs) <= 2 * eps * np.abs(theirs))


@every_dtype
@pytest.mark.parametrize("name, options", CLOSE)
def test_normal_families_are_torch_to_two_ulp(name, options, dtype):
    for seed in SEEDS:
        for shape in SHAPES:
            assert_two_ulp(*both(name, options, shape, seed, dtype), dtype)


@every_dtype
@pytest.mark.parametrize("name, options", MATRIX)
def test_matrices(name, options, dtype):
    if name == "orthogonal_" and dtype in ("bfloat16", "float16"):
        pytest.skip("torch has no QR in this dtype")
    # The draws are torch's; the QR decomposition is another program's, right to rounding.
    room = {"orthogonal_": {"float32": 3e-6, "float64": 1e-14}.get(dtype, 0)}.get(name, 0)
    for seed in SEEDS:
        for shape in [(3, 5), (5, 3), (1, 1), (20, 20), (33, 9), (9, 33)]:
            ours, theirs = both(name, options, shape, seed, dtype)
            if room:
                np.testing.assert_allclose(ours, theirs, atol=room)
            else:
                assert_two_ulp(ours, theirs, dtype)


CONSTANT = ("constant_", "ones_", "zeros_", "eye_")


@pytest.mark.parametrize("name, options", [case for case in EXACT + CLOSE + MATRIX if case[0] not in CONSTANT])
def test_numbers_from_a_generator_of_its_own(name, options):
    for seed in SEEDS:
        for shape in [(3, 5), (20, 20), (9, 33)]:
            ours, theirs = both(name, options, shape, seed, own=True)
            np.testing.assert_allclose(ours, theirs, rtol=3e-7, atol=3e-6 if name == "orthogonal_" else 0)


def test_no_function_is_missing_here():
    torch = pytest.importorskip("torch")
    public = {name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")}
    assert public == {name for name, _ in EXACT + CLOSE + MATRIX} | {"dirac_"}


@pytest.mark.parametrize("shape", [(6, 3, 5), (3, 6, 3, 3), (8, 2, 3, 2, 3)])
def test_dirac(shape):
    for groups in (1, shape[0] // 2, shape[0]):
        if shape[0] % groups == 0:
            ours, theirs = both("dirac_", {"groups": groups}, shape, 0)
            np.testing.assert_array_equal(ours, theirs)


def test_orthogonal_of_more_dimensions_has_orthogonal_rows():
    ours, theirs = both("orthogonal_", {}, (6, 3, 2, 2), 3)
    np.testing.assert_allclose(ours, theirs, atol=3e-6)
    np.testing.assert_allclose(ours.reshape(6, 12) @ ours.reshape(6, 12).T, np.eye(6), atol=1e-6)


def test_sparse_takes_its_places_from_the_global_generator():
    torch = pytest.importorskip("torch")
    torch.manual_seed(1), random.manual_seed(1)
    theirs = torch.nn.init.sparse_(torch.empty(6, 4), 0.5, generator=torch.Generator().manual_seed(9))
    ours = init.sparse_(Parameter(empty((6, 4))), 0.5, generator=random.Generator().manual_seed(9))
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_generator_argument_leaves_the_global_one_alone():
    torch = pytest.importorskip("torch")
    random.manual_seed(0)
    before = random.get_rng_state()
    generator, other = random.Generator().manual_seed(42), torch.Generator().manual_seed(42)
    for name in ("uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "kaiming_normal_", "orthogonal_"):
        ours = getattr(init, name)(Parameter(empty((4, 5))), generator=generator)
        theirs = getattr(torch.nn.init, name)(torch.empty(4, 5), generator=other)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-6)
    np.testing.assert_array_equal(random.get_rng_state(), before)


@pytest.mark.parametrize("box", [Parameter, Buffer])
def test_the_box_holds_the_new_array(box):
    held = box(jnp.zeros((3, 4), jnp.bfloat16))
    array = held.read()
    returned = init.uniform_(array, 1, 2)
    assert held.value is returned and returned.dtype == jnp.bfloat16
    assert np.all(np.asarray(array) == 0) and np.all(np.asarray(returned).astype(float) >= 1)
    assert init.ones_(returned) is held.value  # what is returned remembers the box


def test_device_and_sharding_are_kept():
    device = jax.devices()[0]
    held = Parameter(empty((3, 4), device=device))
    assert init.zeros_(held).sharding == jax.sharding.SingleDeviceSharding(device)
    assert init.normal_(held).committed
    assert not init.normal_(Parameter(empty((3, 4)))).committed


@pytest.mark.parametrize("value", [jnp.zeros((2, 2)), np.zeros((2, 2)), empty((2, 2)), [1.0, 2.0], 3.0])
def test_what_no_box_owns_is_refused_with_the_remedy(value):
    with pytest.raises(TypeError, match="init.normal_: tensor: expected a Parameter"):
        init.normal_(value)


def test_errors():
    matrix, vector = Parameter(empty((3, 4))), Parameter(empty((3,)))
    for error, call in [
        (ValueError, lambda: init.eye_(vector)),
        (ValueError, lambda: init.dirac_(matrix)),
        (ValueError, lambda: init.dirac_(Parameter(empty((3, 4, 1))), groups=2)),
        (ValueError, lambda: init.sparse_(vector, 0.1)),
        (ValueError, lambda: init.orthogonal_(vector)),
        (ValueError, lambda: init.xavier_uniform_(vector)),
        (ValueError, lambda: init.kaiming_normal_(vector)),
        (ValueError, lambda: init.kaiming_normal_(matrix, mode="fan")),
        (ValueError, lambda: init.kaiming_normal_(matrix, nonlinearity="gelu")),
        (ValueError, lambda: init.calculate_gain("leaky_relu", True)),
        (RuntimeError, lambda: init.uniform_(matrix, 1, 0)),
        (RuntimeError, lambda: init.normal_(matrix, 0, -1)),
        (NotImplementedError, lambda: init.normal_(Parameter(jnp.zeros(3, jnp.int32), requires_grad=False))),
        (NotImplementedError, lambda: init.orthogonal_(Parameter(empty((3, 4), jnp.bfloat16)))),
        (TypeError, lambda: init.normal_(matrix, generator=jax.random.key(0))),
    ]:
        with pytest.raises(error):
            call()


def test_nothing_to_fill_warns_and_leaves_an_array():
    held = Parameter(empty((0, 3)))
    with pytest.warns(UserWarning, match="without elements"):
        assert init.kaiming_uniform_(held).shape == (0, 3)
    assert isinstance(held.value, jax.Array)
    with pytest.warns(UserWarning, match="more than 2 std"):
        init.trunc_normal_(Parameter(empty((2, 3))), mean=5.0)


@pytest.mark.parametrize("name", ["uniform", "normal", "xavier_uniform", "xavier_normal", "kaiming_uniform"])
def test_deprecated_names_warn_and_do_the_same(name):
    random.manual_seed(0)
    with pytest.warns(FutureWarning, match=f"{name} is deprecated"):
        old = getattr(init, name)(Parameter(empty((4, 5))))
    random.manual_seed(0)
    np.testing.assert_array_equal(old, getattr(init, name + "_")(Parameter(empty((4, 5)))))


@pytest.mark.parametrize("names", [("linear", 1), ("sigmoid", 1), ("tanh", 5 / 3), ("relu", 2**0.5), ("selu", 0.75)])
def test_calculate_gain(names):
    assert init.calculate_gain(names[0]) == names[1]
    assert init.calculate_gain("leaky_relu", 0.2) == math.sqrt(2 / (1 + 0.2**2))


def fill_all(key):
    with random.rng(key):
        box = Parameter(empty((40, 30)))
        return (
            init.uniform_(box, -1, 2),
            init.normal_(box, 1.0, 0.5),
            init.trunc_normal_(box, 0.0, 1.0, -1, 0.5),
            init.orthogonal_(box),
            init.sparse_(box, 0.25),
            init.constant_(box, 2.0),
        )


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_under_a_key_numbers_come_from_the_key(transform):
    before = random.get_rng_state()
    uniform, normal, truncated, orthogonal, sparse, constant = map(np.asarray, transform(fill_all)(jax.random.key(0)))
    assert -1 <= uniform.min() < -0.9 and 1.9 < uniform.max() < 2
    assert abs(normal.mean() - 1) < 0.1 and abs(normal.std() - 0.5) < 0.05
    assert truncated.min() >= -1 and truncated.max() <= 0.5
    np.testing.assert_allclose(orthogonal.T @ orthogonal, np.eye(30), atol=1e-5)
    assert np.all((sparse == 0).sum(0) == 10) and np.all(constant == 2)
    np.testing.assert_array_equal(random.get_rng_state(), before)
    other = np.asarray(transform(fill_all)(jax.random.key(1))[0])
    assert not np.array_equal(other, uniform)


def test_eval_shape_draws_nothing():
    random.manual_seed(0)
    before = random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = jax.eval_shape(lambda: init.normal_(Parameter(empty((5, 6)))))
    assert shape.shape == (5, 6)
    np.testing.assert_array_equal(random.get_rng_state(), before)


ARGUMENTS = {"sparse_": (0.3,)}
COMPLEX = ["sparse_", "normal_", "uniform_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"]


@pytest.mark.parametrize("name", COMPLEX)
@pytest.mark.parametrize("shape", [(3, 4), (5, 16)])
def test_complex_weights_are_torchs(name, shape):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    arguments = ARGUMENTS.get(name, ())
    theirs = getattr(torch.nn.init, name)(torch.empty(shape, dtype=torch.complex64), *arguments).numpy()
    nn.manual_seed(0)
    ours = getattr(nn.init, name)(nn.Parameter(jnp.zeros(shape, jnp.complex64)), *arguments)
    assert ours.dtype == jnp.complex64
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_complex_linear_layer_is_torchs():
    """torch's gradient of a real loss by a complex weight is the conjugate of JAX's."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn.manual_seed(0)
    theirs, ours = torch.nn.Linear(3, 2, dtype=torch.complex64), nn.Linear(3, 2, dtype=jnp.complex64)
    x = np.array([[1 + 2j, 3, -1j], [0.5, 1j, 2]], np.complex64)
    output = theirs(torch.tensor(x))
    np.testing.assert_allclose(ours(jnp.asarray(x)), output.detach().numpy(), rtol=1e-5)
    (output.abs() ** 2).sum().backward()
    grads = nn.grad(lambda layer: jnp.sum(jnp.abs(layer(jnp.asarray(x))) ** 2))(ours)
    np.testing.assert_allclose(jnp.conj(grads["weight"]), theirs.weight.grad.numpy(), rtol=1e-5)
