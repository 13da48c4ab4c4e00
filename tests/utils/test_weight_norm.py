"""The older, hook-based nn.utils.weight_norm and spectral_norm: torch's test_nn.py's behaviours."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.utils import remove_spectral_norm, remove_weight_norm, spectral_norm, weight_norm
from tests.utils.conftest import WAYS, assert_same_state, close, traces_of
from tests.utils.test_parametrizations import LAYERS, assert_call_and_gradients_agree, numbers

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*changed inside a jax transformation"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated"),
    pytest.mark.filterwarnings("ignore:LSTM with projections"),
]
X = jnp.asarray(numbers(3, 5))


# -- weight_norm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer, dim, way",
    [("wide", 1, "nn.jit"), ("square", None, "jax.jit"), ("transposed conv", 1, "nn.jit")]
    + [("tall", 0, "eager"), ("conv", 0, "jax.jit"), ("conv", None, "nn.jit")],
)
def test_weight_norm_is_torchs(twins, layer, dim, way):
    make, shape = LAYERS[layer]
    theirs, ours = twins(lambda nn, utils: utils.weight_norm(make(nn), dim=dim))
    assert_same_state(theirs, ours)
    assert repr(ours) == repr(theirs)
    assert_call_and_gradients_agree(theirs, ours, numbers(*shape), WAYS[way])


def test_weight_norm_and_its_removal_keep_the_output(way):
    layer = nn.Linear(5, 7)
    box, before = layer._parameters["weight"], layer(X)
    weight_norm(layer)
    assert layer.weight_v.shape == (7, 5) and layer.weight_g.shape == (7, 1)
    assert "weight" not in layer._parameters and set(layer.state_dict()) == {"bias", "weight_g", "weight_v"}
    close(way(lambda layer, x: layer(x))(layer, X), before)
    remove_weight_norm(layer)
    assert type(layer) is nn.Linear and not hasattr(layer, "weight_g") and not hasattr(layer, "weight_v")
    assert isinstance(layer._parameters["weight"], nn.Parameter) and layer._parameters["weight"] is not box
    close(layer(X), before)
    assert set(layer.state_dict()) == {"bias", "weight"}


def test_weight_norm_follows_every_change(way):
    layer = weight_norm(nn.Linear(5, 7))
    call = way(lambda layer, x: layer(x))
    first = call(layer, X)
    layer.weight_g = 2 * layer.weight_g
    close(layer.weight, 2 * layer.weight_v)  # as soon as it is read; g was norm(v)
    close(call(layer, X) - layer.bias, 2 * (first - layer.bias), 1e-4)
    out = nn.functional_call(layer, {"weight_g": jnp.zeros_like(layer.weight_g)}, (X,))
    close(out, jnp.broadcast_to(layer.bias, out.shape))


@pytest.mark.parametrize("jit", [nn.jit, jax.jit])
def test_weight_norm_is_no_data_of_the_tree_and_compiles_once(jit):
    call, count = traces_of(lambda layer, x: layer(x))
    compiled = jit(call)
    for seed in range(3):
        nn.manual_seed(seed)
        layer = weight_norm(nn.Linear(5, 7))
        assert len(jax.tree.leaves(layer)) == 3
        close(compiled(layer, X), layer(X))
    assert count.value == 1
    assert type(layer).__name__ == "Linear" and isinstance(layer, nn.Linear)


def test_weight_norm_twice_raises():
    layer = weight_norm(nn.Linear(5, 7))
    with pytest.raises(RuntimeError, match="weight_norm hook already"):
        weight_norm(layer)
    weight_norm(layer, "bias")
    remove_weight_norm(layer)
    with pytest.raises(ValueError, match="weight_norm hook"):
        remove_weight_norm(layer)
    assert set(layer.state_dict()) == {"bias_g", "bias_v", "weight"}


def test_weight_norm_in_half_precision():
    layer = weight_norm(nn.Linear(5, 7).half())
    assert layer.weight.dtype == layer.weight_g.dtype == jnp.float16
    assert layer(X.astype(jnp.float16)).dtype == jnp.float16


@pytest.mark.parametrize("attach", [weight_norm, spectral_norm])
def test_lazy_parameters_are_refused(attach):
    with pytest.raises(ValueError, match="no shape yet"):
        attach(nn.LazyLinear(3))


@pytest.mark.parametrize("attach, error", [(weight_norm, AttributeError), (spectral_norm, KeyError)])
def test_unknown_names(attach, error):
    with pytest.raises(error):
        attach(nn.Linear(5, 7), "foo")


@pytest.mark.parametrize("attach, error", [(weight_norm, TypeError), (spectral_norm, ValueError)])
def test_a_name_that_is_none(attach, error):
    layer = nn.Linear(5, 7, bias=False)
    with pytest.raises(error, match="None"):
        attach(layer, "bias")
    assert type(layer) is nn.Linear


@pytest.mark.parametrize("attach", [weight_norm, spectral_norm])
def test_the_computed_weight_cannot_be_assigned(attach):
    layer = attach(nn.Linear(5, 7))
    with pytest.raises(AttributeError, match="computed at every read"):
        layer.weight = jnp.ones((7, 5))


@pytest.mark.parametrize("attach", [weight_norm, spectral_norm])
@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_and_pickles(attach, how):
    layer = attach(nn.Linear(5, 7)).eval()
    other = how(layer)
    assert type(other) is type(layer) and set(other.state_dict()) == set(layer.state_dict())
    close(other(X), layer(X), 0)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hr_l0"])
def test_recurrent_weights(twins, kind, name, way):
    torch = pytest.importorskip("torch")
    if name == "weight_hr_l0" and kind != "LSTM":
        return
    options = {"proj_size": 2} if name == "weight_hr_l0" else {}
    theirs, ours = twins(lambda nn, utils: utils.weight_norm(getattr(nn, kind)(3, 4, **options), name))
    assert_same_state(theirs, ours)
    x = numbers(5, 2, 3)
    close(way(lambda rnn, x: rnn(x)[0])(ours, jnp.asarray(x)), theirs(torch.from_numpy(x))[0])
    assert len(list(remove_weight_norm(ours, name).parameters())) == len(ours._flat_weights)


# -- spectral_norm --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
def test_spectral_norm_state_is_torchs(twins, layer):
    theirs, ours = twins(lambda nn, utils: utils.spectral_norm(LAYERS[layer][0](nn)))
    assert_same_state(theirs, ours)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize(
    "layer, training, way",
    [("transposed conv", True, "nn.jit"), *(("tall", training, way) for training in (True, False) for way in WAYS)],
)
def test_spectral_norm_forward_gradients_and_buffers(twins, layer, training, way):
    make, shape = LAYERS[layer]
    theirs, ours = twins(lambda nn, utils: utils.spectral_norm(make(nn), n_power_iterations=3))
    theirs(__import__("torch").from_numpy(numbers(*shape)))
    assert_call_and_gradients_agree(theirs.train(training), ours.train(training), numbers(*shape), WAYS[way], 2e-5)


def test_spectral_norm_registers_and_unregisters():
    layer = nn.Linear(5, 7)
    box = layer._parameters["weight"]
    spectral_norm(layer)
    assert layer.weight_u.shape == (7,) and layer.weight_v.shape == (5,)
    assert layer._parameters["weight_orig"] is box
    assert {"weight_u", "weight_v"} == set(layer._buffers)
    assert layer.weight.shape == layer.weight_orig.shape and "weight" not in layer._buffers
    weight = layer.weight
    remove_spectral_norm(layer)
    assert type(layer) is nn.Linear and set(layer.state_dict()) == {"bias", "weight"}
    close(layer.weight, weight)
    assert not any(layer._hook_list(kind) for kind in ("forward_pre", "state_dict", "load_state_dict_pre"))
    with pytest.raises(ValueError, match="spectral_norm hook"):
        remove_spectral_norm(layer)


def test_spectral_norm_twice_raises():
    layer = spectral_norm(nn.Linear(5, 7))
    with pytest.raises(RuntimeError, match="spectral_norm hook already"):
        spectral_norm(layer)


@pytest.mark.parametrize("steps", [0, -2])
def test_spectral_norm_bad_steps(steps):
    with pytest.raises(ValueError, match="n_power_iterations"):
        spectral_norm(nn.Linear(5, 7), n_power_iterations=steps)


def test_spectral_norm_singular_vectors_move_only_in_training(way):
    layer = spectral_norm(nn.Linear(5, 7))
    call = way(lambda layer, x: layer(x))
    for training in (False, True):
        layer.train(training)
        before = layer.weight_u, layer.weight_v
        call(layer, X)
        moved = training and way is not jax.jit
        assert all(np.array_equal(a, b) is not moved for a, b in zip(before, (layer.weight_u, layer.weight_v)))


def test_spectral_norm_eval_repeats_the_last_training_output(way):
    layer = spectral_norm(nn.Linear(5, 7))
    last = [nn.jit(lambda layer, x: layer(x))(layer, X) for _ in range(2)][-1]
    layer.eval()
    for _ in range(2):
        close(way(lambda layer, x: layer(x))(layer, X), last)


def test_spectral_norm_removal_keeps_the_output():
    layer = spectral_norm(nn.Linear(5, 7))
    before = [layer(X) for _ in range(3)][-1]
    close(remove_spectral_norm(layer)(X), before)


def test_spectral_norm_value():
    layer = nn.Linear(4, 4)
    layer.weight = jnp.diag(jnp.array([3.0, 1.0, 0.5, -0.2]))
    spectral_norm(layer, n_power_iterations=30)
    layer(jnp.ones((1, 4)))
    close(layer.weight, np.diag([1, 1 / 3, 1 / 6, -1 / 15]))


def test_spectral_norm_dim_of_transposed_convolutions():
    layer = spectral_norm(nn.ConvTranspose2d(3, 4, (5, 6)))
    assert layer.weight_u.shape == (4,)
    layer(jnp.ones((2, 3, 10, 12)))


def test_spectral_norm_state_dict_has_its_version(twins):
    theirs, ours = twins(lambda nn, utils: utils.spectral_norm(nn.Linear(3, 5)))
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata
    ours.load_state_dict(ours.state_dict())
    with pytest.raises(RuntimeError, match='Unexpected key.*"nonsense"'):
        ours.load_state_dict({**ours.state_dict(), "nonsense": jnp.ones(1)})


@pytest.mark.parametrize("calls", [0, 3])
def test_spectral_norm_reads_files_without_v(twins, calls):
    torch = pytest.importorskip("torch")
    theirs, ours = twins(lambda nn, utils: utils.spectral_norm(nn.Linear(3, 5)))
    x = numbers(2, 3)
    for _ in range(calls):
        theirs(torch.from_numpy(x))
    old = theirs.state_dict()
    old["weight"] = (theirs.weight if calls else theirs.weight / 2).detach().clone()
    del old["weight_v"], old._metadata[""]["spectral_norm"]
    theirs.load_state_dict(old)
    ours.load_state_dict(old)
    assert_same_state(theirs, ours, 1e-4)
    nested = nn.Sequential(spectral_norm(nn.Linear(3, 5)))
    nested.load_state_dict({f"0.{name}": value for name, value in old.items()})
    close(nested.eval()(jnp.asarray(x)), theirs.eval()(torch.from_numpy(x)), 1e-4)


def test_spectral_norm_reads_new_files_that_lost_their_metadata():
    layer = spectral_norm(nn.Linear(3, 5))
    layer.load_state_dict(dict(layer.state_dict()))


@pytest.mark.parametrize("missing", ["weight_orig", "weight_u", "weight"])
def test_spectral_norm_reports_missing_keys_of_old_files(missing):
    layer = spectral_norm(nn.Linear(3, 5))
    old = {**dict(layer.state_dict()), "weight": layer.weight}
    del old["weight_v"], old[missing]
    with pytest.raises(RuntimeError, match=f'Missing key.*"{missing}"'):
        layer.load_state_dict(old)


def test_spectral_norm_compiles_once_for_two_models():
    call, count = traces_of(lambda layer, x: layer(x))
    compiled = nn.jit(call)
    for _ in range(2):
        compiled(spectral_norm(nn.Linear(5, 7)), X)
    assert count.value == 1


def test_hooks_of_both_kinds_on_one_module(way):
    layer = nn.utils.parametrizations.weight_norm(spectral_norm(nn.Linear(5, 5)), "bias")
    weight, bias = layer.weight, layer.bias
    layer.eval()
    close(way(lambda layer, x: layer(x))(layer, X), X @ weight.T + bias)
    nn.utils.parametrize.remove_parametrizations(layer, "bias")
    close(remove_spectral_norm(layer)(X), X @ weight.T + bias)
    assert type(layer) is nn.Linear


def test_a_hook_taken_out_by_hand_is_named():
    layer = weight_norm(nn.Linear(5, 7))
    layer._hook_table()["forward_pre"].clear()
    layer._hooks_changed()
    with pytest.raises(AttributeError, match="hook that computes it"):
        layer(X)
