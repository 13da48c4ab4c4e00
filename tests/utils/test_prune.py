"""nn.utils.prune: the behaviours that torch's test/nn/test_pruning.py checks, and those of JAX."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.utils.prune as prune
from tests.utils.conftest import assert_same_state, close, traces_of

LAYERS = {"Linear": lambda nn: nn.Linear(5, 7), "Conv3d": lambda nn: nn.Conv3d(2, 2, 2)}
CALLS = {
    "random_unstructured": lambda p, m: p.random_unstructured(m, "weight", 0.3),
    "random_unstructured, a number, twice": lambda p, m: p.random_unstructured(
        p.random_unstructured(m, "weight", 3), "weight", 4
    ),
    "random_unstructured of a bias": lambda p, m: p.random_unstructured(m, "bias", 0.5),
    "l1_unstructured, twice": lambda p, m: p.l1_unstructured(p.l1_unstructured(m, "weight", 0.3), "weight", 0.3),
    "random_structured": lambda p, m: p.random_structured(m, "weight", 1, 1),
    "random_structured, twice": lambda p, m: p.random_structured(
        p.random_structured(m, "weight", 0.5, 0), "weight", 1, -1
    ),
    "ln_structured, 1": lambda p, m: p.ln_structured(m, "weight", 1, 1, 0),
    "ln_structured, 2": lambda p, m: p.ln_structured(m, "weight", 0.4, 2, -1),
    "ln_structured, 3": lambda p, m: p.ln_structured(m, "weight", 0.4, 3.0, 1),
    "ln_structured, inf": lambda p, m: p.ln_structured(m, "weight", 1, float("inf"), 1),
    "ln_structured, -inf": lambda p, m: p.ln_structured(m, "weight", 1, -float("inf"), 1),
    "three methods": lambda p, m: p.ln_structured(
        p.l1_unstructured(p.random_unstructured(m, "weight", 0.3), "weight", 0.2), "weight", 1, 2, 0
    ),
    "identity": lambda p, m: p.identity(m, "weight"),
    "nothing": lambda p, m: p.random_structured(p.l1_unstructured(m, "weight", 0), "weight", 0.0, 0),
    "everything": lambda p, m: p.l1_unstructured(m, "weight", 1.0),
}


@pytest.fixture
def x():
    return jnp.asarray(np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32))


def with_mask(mask):
    """A pruning method that gives this mask."""

    class Given(prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t, default_mask):
            return mask

    return Given


# -- the same as torch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("call", CALLS)
def test_state_and_weight_are_torchs(twins, layer, call):
    theirs, ours = twins(lambda nn, utils: CALLS[call](utils.prune, LAYERS[layer](nn)))
    assert_same_state(theirs, ours, 0)
    assert repr(ours) == repr(theirs)
    close(ours.weight, theirs.weight, 0)
    close(ours.bias, theirs.bias, 0)


def test_gradients_are_torchs(twins, x, way):
    torch = pytest.importorskip("torch")
    theirs, ours = twins(lambda nn, utils: utils.prune.random_unstructured(nn.Linear(5, 7), "weight", 0.4))
    (theirs(torch.from_numpy(np.array(x))) ** 2).sum().backward()
    grads = way(lambda layer, x: nn.grad(lambda layer: (layer(x) ** 2).sum())(layer))(ours, x)
    assert set(grads) == {"bias", "weight_orig"}
    close(grads["weight_orig"], theirs.weight_orig.grad, 1e-5)
    assert not np.asarray(grads["weight_orig"])[np.asarray(ours.weight_mask) == 0].any()


def test_global_pruning_is_torchs(twins):
    def make(nn, utils):
        model = nn.Sequential(nn.Linear(10, 4), nn.ReLU(), nn.Linear(4, 3))
        utils.prune.random_unstructured(model[2], "weight", 2)
        pairs = [(model[0], "weight"), (model[0], "bias"), (model[2], "weight")]
        utils.prune.global_unstructured(pairs, utils.prune.L1Unstructured, amount=0.4)
        utils.prune.global_unstructured(pairs, utils.prune.RandomUnstructured, amount=5)
        return model

    theirs, ours = twins(make)
    assert_same_state(theirs, ours, 0)


# -- forward --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("layer", LAYERS)
def test_original_mask_and_product(layer, name, way):
    layer = LAYERS[layer](nn)
    box, original = layer._parameters[name], getattr(layer, name)
    prune.random_unstructured(layer, name, amount=0.5)
    mask = getattr(layer, name + "_mask")
    assert layer._parameters[name + "_orig"] is box  # optimizers keep it
    assert mask.shape == original.shape and name not in layer._parameters
    close(way(lambda layer: getattr(layer, name))(layer), original * mask, 0)


def test_a_mask_of_ones_changes_nothing(x, way):
    layer = nn.Linear(5, 7)
    run = way(lambda layer, x: (layer(x), nn.grad(lambda layer: layer(x).sum())(layer)))
    out, grads = run(layer, x)
    prune.identity(layer, "weight")
    for _ in range(2):
        pruned, pruned_grads = run(layer, x)
        close(pruned, out, 0)
    close(pruned_grads["weight_orig"], grads["weight"], 0)
    close(pruned_grads["bias"], grads["bias"], 0)


def test_forward_by_hand(way):
    layer = nn.Linear(5, 2)
    mask = jnp.zeros((2, 5)).at[1, 0].set(1).at[0, 3].set(1)
    with_mask(mask).apply(layer, "weight")
    out = way(lambda layer, x: layer(x))(layer, jnp.ones((1, 5)))
    close(out[0], jnp.stack([layer.weight_orig[0, 3], layer.weight_orig[1, 0]]) + layer.bias)


def test_forward_follows_every_change(x, way):
    layer = prune.l1_unstructured(nn.Linear(5, 7), "weight", 0.5)
    call = way(lambda layer, x: layer(x))
    call(layer, x)
    layer.weight_orig = 2 * layer.weight_orig
    close(layer.weight, layer.weight_orig * layer.weight_mask, 0)
    close(call(layer, x), x @ (layer.weight_orig * layer.weight_mask).T + layer.bias)
    layer.weight_mask = 1 - layer.weight_mask
    close(call(layer, x), x @ (layer.weight_orig * layer.weight_mask).T + layer.bias)
    out = nn.functional_call(layer, {"weight_orig": jnp.zeros((7, 5))}, (x,))
    close(out, jnp.broadcast_to(layer.bias, (3, 7)), 0)


def test_training_leaves_pruned_weights_alone(x):
    layer = nn.Linear(5, 7)
    early = nn.optim.SGD(layer, lr=0.5)
    prune.l1_unstructured(layer, "weight", 0.5)
    late = nn.optim.SGD(layer, lr=0.5)

    @nn.jit
    def step(layer, optimizer, x):
        grads = nn.grad(lambda layer: (layer(x) ** 2).mean())(layer)
        optimizer.step(layer, grads)

    for optimizer in (early, late):
        before, pruned = layer.weight_orig, np.asarray(layer.weight_mask) == 0
        step(layer, optimizer, x)
        changed = np.asarray(before != layer.weight_orig)
        assert not changed[pruned].any() and changed[~pruned].all()


@pytest.mark.parametrize("jit", [nn.jit, jax.jit])
def test_layers_pruned_alike_compile_once(x, jit):
    call, count = traces_of(lambda layer, x: layer(x))
    compiled = jit(call)
    for seed in range(3):
        nn.manual_seed(seed)
        layer = prune.ln_structured(prune.l1_unstructured(nn.Linear(5, 7), "weight", 0.5), "weight", 1, 2, 0)
        assert len(jax.tree.leaves(layer)) == 3
        close(compiled(layer, x), layer(x))
    assert count.value == 1


def test_a_given_mask_is_no_data_of_the_tree(x):
    layer = prune.custom_from_mask(nn.Linear(5, 7), "weight", jnp.ones((7, 5), int).at[0].set(0))
    assert {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(layer)} == {
        ".bias",
        ".weight_orig",
        ".weight_mask",
    }
    grads = jax.grad(lambda layer: layer(x).sum())(layer)
    assert not grads.weight_orig[0].any()


# -- removal, failure, files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("layer", LAYERS)
def test_removal_makes_the_pruning_final(layer, name, way):
    layer = LAYERS[layer](nn)
    box = layer._parameters[name]
    prune.random_unstructured(layer, name, amount=0.5)
    assert prune.is_pruned(layer) and prune.is_pruned(nn.Sequential(layer))
    value = getattr(layer, name)
    prune.remove(layer, name)
    assert layer._parameters[name] is box and not prune.is_pruned(layer)
    assert not {name + "_orig", name + "_mask"} & set(layer.state_dict()) and type(layer) in (nn.Linear, nn.Conv3d)
    close(way(lambda layer: getattr(layer, name))(layer), value, 0)


def test_removal_keeps_the_output(x, way):
    layer = prune.l1_unstructured(nn.Linear(5, 7), "weight", 0.4)
    call = way(lambda layer, x: layer(x))
    before = call(layer, x)
    prune.remove(layer, "weight")
    close(call(layer, x), before, 0)


@pytest.mark.parametrize("name", ["weight", "foo"])
def test_removal_of_what_is_not_pruned(name):
    with pytest.raises(ValueError, match=name):
        prune.remove(nn.Linear(5, 7), name)


@pytest.mark.parametrize("again", [False, True])
def test_a_failure_changes_nothing(again):
    class Failing(prune.L1Unstructured):
        def compute_mask(self, t, default_mask):
            raise RuntimeError("HA!")

    layer = nn.Linear(5, 7)
    if again:
        prune.l1_unstructured(layer, "weight", 0.5)
    before, cls = dict(layer.state_dict()), type(layer)
    with pytest.raises(RuntimeError, match="HA!"):
        Failing.apply(layer, "weight", amount=0.9)
    assert type(layer) is cls and prune.is_pruned(layer) is again
    assert list(before) == list(layer.state_dict())


@pytest.mark.parametrize("name, error", [("foo", AttributeError), ("bias", TypeError), ("in_features", TypeError)])
def test_pruning_nothing(name, error):
    with pytest.raises(error):
        prune.identity(nn.Linear(5, 7, bias=False), name)


def test_the_pruned_weight_cannot_be_assigned():
    layer = prune.identity(nn.Linear(5, 7), "weight")
    with pytest.raises(AttributeError, match="computed at every read"):
        layer.weight = jnp.ones((7, 5))


@pytest.mark.parametrize("call", ["three methods", "random_unstructured of a bias"])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_and_pickles(call, how, x):
    layer = CALLS[call](prune, nn.Linear(5, 7))
    other = how(layer)
    assert type(other) is type(layer) and prune.is_pruned(other)
    close(other(x), layer(x), 0)
    prune.custom_from_mask(other, "weight", jnp.zeros((7, 5)))
    assert layer(x).std() > 0
    close(how(other)(x), other(x), 0)


def test_files(x, tmp_path):
    def build():
        return nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 1))

    model = build()
    prune.l1_unstructured(model[0], "weight", 0.9)
    assert {"0.weight_orig", "0.weight_mask"} < set(model.state_dict()) and "0.weight" not in model.state_dict()
    nn.save(model.state_dict(), tmp_path / "pruned.safetensors")
    again = build()
    prune.identity(again[0], "weight")
    again.load_state_dict(nn.load(tmp_path / "pruned.safetensors"))
    close(again(x), model(x), 0)
    prune.remove(model[0], "weight")
    fresh = build()
    fresh.load_state_dict(model.state_dict())
    close(fresh(x), model(x), 0)


def test_recurrent_weights(twins, way):
    torch = pytest.importorskip("torch")
    theirs, ours = twins(lambda nn, utils: utils.prune.l1_unstructured(nn.LSTM(3, 4), "weight_ih_l0", 0.5))
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    close(way(lambda lstm, x: lstm(x)[0])(ours, jnp.asarray(x)), theirs(torch.from_numpy(x))[0])
    prune.remove(ours, "weight_ih_l0")
    assert {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"} == set(dict(ours.named_parameters()))


def test_random_masks_from_a_jax_key():
    def mask(seed):
        with nn.rng(jax.random.key(seed)):
            return prune.random_unstructured(nn.Linear(5, 7), "weight", 0.5).weight_mask

    close(mask(0), mask(0), 0)
    assert not np.array_equal(mask(0), mask(1))
