"""nn.utils.parametrizations: weight_norm and spectral_norm, against torch with the same seeds."""

import copy
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.utils.parametrizations as parametrizations
import jaxnn.utils.parametrize as P
from tests.utils.conftest import WAYS, assert_same_state, close, traces_of

pytestmark = pytest.mark.filterwarnings("ignore:.*changed inside a jax transformation")

LAYERS = {
    "tall": (lambda nn: nn.Linear(3, 5), (2, 3)),
    "wide": (lambda nn: nn.Linear(5, 3), (2, 5)),
    "square": (lambda nn: nn.Linear(4, 4), (2, 4)),
    "conv": (lambda nn: nn.Conv2d(3, 4, 2), (2, 3, 4, 4)),
    "transposed conv": (lambda nn: nn.ConvTranspose2d(3, 4, (2, 3)), (2, 3, 4, 4)),
}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_call_and_gradients_agree(theirs, ours, x, way, atol=1e-5):
    """One call: output, gradients of all parameters, and the state afterwards."""
    import torch

    weights = numbers(*theirs(torch.from_numpy(x)).shape, seed=1)
    ours.load_state_dict(theirs.state_dict())  # that call has improved torch's singular vectors
    out = theirs(torch.from_numpy(x))
    (out * torch.from_numpy(weights)).sum().backward()

    def run(layer, x):
        def loss(layer):
            out = layer(x)
            return (out * weights).sum(), out

        return nn.value_and_grad(loss, has_aux=True)(layer)

    (_, mine), grads = way(run)(ours, jnp.asarray(x))
    close(mine, out, atol)
    for name, parameter in theirs.named_parameters():
        close(grads[name], parameter.grad, 10 * atol)
    if way is not jax.jit:
        assert_same_state(theirs, ours, atol)


# -- weight_norm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dim", [0, -2, None])
def test_weight_norm_state_is_torchs(twins, layer, dim):
    make, _ = LAYERS[layer]
    theirs, ours = twins(lambda nn, utils: utils.parametrizations.weight_norm(make(nn), dim=dim))
    assert_same_state(theirs, ours)
    assert repr(ours) == repr(theirs)
    close(ours.weight, theirs.weight)


@pytest.mark.parametrize(
    "layer, way", [("transposed conv", "nn.jit"), ("conv", "nn.jit"), ("conv", "eager"), ("conv", "jax.jit")]
)
def test_weight_norm_forward_and_gradients(twins, layer, way):
    way = WAYS[way]
    make, shape = LAYERS[layer]
    theirs, ours = twins(lambda nn, utils: utils.parametrizations.weight_norm(make(nn)))
    assert_call_and_gradients_agree(theirs, ours, numbers(*shape), way)


@pytest.mark.parametrize("name, dim", [("bias", 0), ("weight", None)])
def test_weight_norm_of_other_names_and_of_the_whole(twins, name, dim, way):
    theirs, ours = twins(lambda nn, utils: utils.parametrizations.weight_norm(nn.Linear(3, 5), name, dim))
    assert_call_and_gradients_agree(theirs, ours, numbers(2, 3), way)


def test_weight_norm_bad_dim():
    with pytest.raises(IndexError, match="dim"):
        parametrizations.weight_norm(nn.Linear(2, 3), dim=2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_weight_norm_in_low_precision(twins, dtype):
    theirs, ours = twins(lambda nn, utils: utils.parametrizations.weight_norm(nn.Linear(30, 40)))
    low = ours.to(dtype).weight
    assert low.dtype == dtype
    close(low.astype(jnp.float32), theirs.weight, 2e-3)


def test_weight_norm_reads_the_older_files(twins):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        old, ours = twins(lambda nn, utils: utils.weight_norm(nn.Linear(4, 5)))
        mine_old = nn.utils.weight_norm(nn.Linear(4, 5))
    for state in (old.state_dict(), mine_old.state_dict()):
        new = parametrizations.weight_norm(nn.Linear(4, 5))
        new.load_state_dict(state)
        close(new.weight, _value_of(state))
    nested = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)))
    nested.load_state_dict({f"0.{name}": value for name, value in old.state_dict().items()})
    close(nested[0].weight, old.weight)


def _value_of(state):
    g, v = np.asarray(state["weight_g"]), np.asarray(state["weight_v"])
    return g * v / np.linalg.norm(v, axis=1, keepdims=True)


def test_weight_norm_pickle_and_deepcopy():
    layer = parametrizations.weight_norm(nn.Linear(4, 5))
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(layer)
    x = jnp.asarray(numbers(3, 4))
    close(copy.deepcopy(layer)(x), layer(x), 0)


def test_weight_norm_compiles_once_for_two_models():
    call, count = traces_of(lambda layer, x: layer(x))
    compiled = jax.jit(call)
    for _ in range(2):
        compiled(parametrizations.weight_norm(nn.Linear(4, 5)), jnp.ones((1, 4)))
    assert count.value == 1


def test_weight_norm_of_recurrent_weights(twins, way):
    pytest.importorskip("torch")

    def make(nn, utils):
        lstm = nn.LSTM(3, 4)
        for name in ("weight_ih_l0", "weight_hh_l0"):
            utils.parametrizations.weight_norm(lstm, name)
        return lstm

    import torch

    theirs, ours = twins(make)
    assert_same_state(theirs, ours)
    x = numbers(5, 2, 3)
    close(way(lambda lstm, x: lstm(x)[0])(ours, jnp.asarray(x)), theirs(torch.from_numpy(x))[0])


# -- spectral_norm --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_spectral_norm_state_is_torchs(twins, layer):
    make, _ = LAYERS[layer]
    theirs, ours = twins(lambda nn, utils: utils.parametrizations.spectral_norm(make(nn)))
    assert_same_state(theirs, ours, 1e-5)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize(
    "layer, training, way",
    [("transposed conv", True, "nn.jit"), *(("tall", training, way) for training in (True, False) for way in WAYS)],
)
def test_spectral_norm_forward_gradients_and_buffers(twins, layer, training, way):
    way = WAYS[way]
    make, shape = LAYERS[layer]
    theirs, ours = twins(lambda nn, utils: utils.parametrizations.spectral_norm(make(nn), n_power_iterations=2))
    assert_call_and_gradients_agree(theirs.train(training), ours.train(training), numbers(*shape), way)


def test_spectral_norm_singular_vectors_move_only_in_training(way):
    layer = parametrizations.spectral_norm(nn.Linear(3, 4))
    spectral = layer.parametrizations.weight[0]
    spectral._u, spectral._v = jnp.eye(4)[0], jnp.eye(3)[0]
    call = way(lambda layer, x: layer(x))
    for training in (False, True):
        layer.train(training)
        u, v = spectral._u, spectral._v
        call(layer, jnp.ones((2, 3)))
        moved = training and way is not jax.jit
        assert np.array_equal(u, spectral._u) is not moved and np.array_equal(v, spectral._v) is not moved


def test_spectral_norm_eval_repeats_the_last_training_output(way):
    layer, x = parametrizations.spectral_norm(nn.Linear(3, 4)), jnp.asarray(numbers(2, 3))
    nn.jit(lambda layer, x: layer(x))(layer, x)
    last = layer(x)
    layer.eval()
    close(way(lambda layer, x: layer(x))(layer, x), last)
    close(layer(x), last)


def test_spectral_norm_gradients_through_two_forwards(twins, way):
    torch = pytest.importorskip("torch")
    theirs, ours = twins(lambda nn, utils: utils.parametrizations.spectral_norm(nn.Linear(3, 4)))
    x = numbers(2, 3)
    x_torch = torch.from_numpy(x)
    (theirs(x_torch) - theirs(2 * x_torch) ** 2).sum().backward()
    two = lambda layer, x: nn.grad(lambda layer: (layer(x) - layer(2 * x) ** 2).sum())(layer)  # noqa: E731
    grads = way(two)(ours, jnp.asarray(x))
    for name, parameter in theirs.named_parameters():
        close(grads[name], parameter.grad, 1e-4)


def test_spectral_norm_gradients_flow_to_the_original_only(way):
    layer = parametrizations.spectral_norm(nn.Linear(3, 4))
    grads = way(lambda layer: nn.grad(lambda layer: (layer(jnp.ones((1, 3))) ** 2).sum())(layer))(layer)
    assert set(grads) == {"bias", "parametrizations.weight.original"}
    assert np.abs(grads["parametrizations.weight.original"]).max() > 0


def test_spectral_norm_several_times_and_on_a_vector(twins):
    def make(nn, utils):
        layer = nn.Linear(5, 7)
        for name in ("weight", "weight", "bias"):
            utils.parametrizations.spectral_norm(layer, name)
        return layer

    theirs, ours = twins(make)
    assert_same_state(theirs, ours, 1e-5)
    close(ours.bias, theirs.bias)
    P.remove_parametrizations(ours, "bias")
    assert "bias" in ours._parameters and P.is_parametrized(ours, "weight")
    P.remove_parametrizations(ours, "weight")
    assert type(ours) is nn.Linear


def test_spectral_norm_removal_in_eval_keeps_the_output():
    layer, x = parametrizations.spectral_norm(nn.Linear(3, 4)), jnp.asarray(numbers(2, 3))
    before = [layer(x) for _ in range(3)][-1]
    layer.eval()
    close(P.remove_parametrizations(layer, "weight")(x), before)


def test_spectral_norm_state_dict(twins):
    theirs, ours = twins(lambda nn, utils: utils.parametrizations.spectral_norm(nn.Linear(3, 5)))
    x = jnp.asarray(numbers(2, 3))
    for _ in range(3):
        ours(x)
    state = ours.state_dict()
    assert set(state) == {
        "parametrizations.weight.original",
        "bias",
        "parametrizations.weight.0._v",
        "parametrizations.weight.0._u",
    }
    with pytest.raises(RuntimeError, match='Unexpected key.*"nonsense"'):
        ours.load_state_dict({**state, "nonsense": jnp.ones(1)})
    ours.load_state_dict({"bias": state["bias"], "nonsense": jnp.ones(1)}, strict=False)
    outputs = [ours.eval()(x), ours.train()(x), ours(x), ours.eval()(x)]
    again = parametrizations.spectral_norm(P.remove_parametrizations(ours, "weight"))
    again.load_state_dict(state)
    for before, after in zip(outputs, [again.eval()(x), again.train()(x), again(x), again.eval()(x)]):
        close(after, before)
    theirs.load_state_dict({name: __import__("torch").from_numpy(np.array(value)) for name, value in state.items()})
    close(ours.eval().parametrizations.weight.original, theirs.parametrizations.weight.original)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_spectral_norm_value(dtype, way):
    layer = nn.Linear(2, 2)
    diagonal = jnp.asarray([0.3, -0.5]).astype(dtype) * (1j if dtype == jnp.complex64 else 1)
    layer.weight = jnp.diag(diagonal)
    parametrizations.spectral_norm(layer)
    close(way(lambda layer: layer.weight)(layer), jnp.diag(diagonal / 0.5), 1e-4)


def test_spectral_norm_of_a_complex_weight_is_torchs(twins):
    torch = pytest.importorskip("torch")

    def make(nn, utils):
        layer = nn.Linear(3, 4)
        value = numbers(4, 3) + 1j * numbers(4, 3, seed=1)
        layer.weight = nn.Parameter(torch.from_numpy(value) if nn is torch.nn else value)
        return utils.parametrizations.spectral_norm(layer)

    theirs, ours = twins(make)
    assert_same_state(theirs, ours, 1e-5)


@pytest.mark.parametrize("dim, error", [(2, IndexError), (-3, IndexError)])
def test_spectral_norm_bad_dim(dim, error):
    with pytest.raises(error, match="dim"):
        parametrizations.spectral_norm(nn.Linear(2, 3), dim=dim)


@pytest.mark.parametrize("steps", [0, -1])
def test_spectral_norm_bad_steps(steps):
    with pytest.raises(ValueError, match="n_power_iterations"):
        parametrizations.spectral_norm(nn.Linear(2, 3), n_power_iterations=steps)


@pytest.mark.parametrize("function", [parametrizations.spectral_norm, parametrizations.orthogonal])
def test_no_such_parameter(function):
    for name in ("foo", "bias"):
        with pytest.raises(ValueError, match=name):
            function(nn.Linear(2, 3, bias=False), name)


def test_spectral_norm_draws_from_a_jax_key_inside_transforms():
    build = jax.jit(lambda weight, key: _built(weight, key).parametrizations.weight[0]._u)
    weight = jnp.asarray(numbers(4, 3))
    u = build(weight, jax.random.key(0))
    close(np.abs(u), np.abs(np.linalg.svd(weight)[0][:, 0]), 1e-3)


def _built(weight, key):
    layer = nn.utils.skip_init(nn.Linear, 3, 4)
    layer.weight = weight
    with nn.rng(key):
        return parametrizations.spectral_norm(layer)


def test_gan_training_step_trains_under_jit():
    critic = nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 8)), nn.ReLU(), nn.Linear(8, 1))
    optimizer = nn.optim.SGD(critic, lr=0.1)
    real, fake = jnp.asarray(numbers(16, 3)) + 2, jnp.asarray(numbers(16, 3, seed=1)) - 2

    @nn.jit
    def step(critic, optimizer, real, fake):
        loss, grads = nn.value_and_grad(lambda critic: (critic(fake) - critic(real)).mean())(critic)
        optimizer.step(critic, grads)
        return loss

    losses = [float(step(critic, optimizer, real, fake)) for _ in range(20)]
    assert losses[-1] < losses[0] - 1
    for _ in range(20):
        weight = critic[0].weight
    assert abs(float(jnp.linalg.norm(weight, 2)) - 1) < 0.01
