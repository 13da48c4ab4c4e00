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


# -- amounts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "amount, error", [("many", TypeError), (1.1, ValueError), (20.0, ValueError), (-10, ValueError)]
)
def test_bad_amounts(amount, error):
    for method in (prune.RandomUnstructured, prune.L1Unstructured, prune.RandomStructured):
        with pytest.raises(error, match="amount"):
            method(amount)
    with pytest.raises(error, match="amount"):
        prune.LnStructured(amount, 2)


@pytest.mark.parametrize("amount", [0.34, 1500, 0, 0.0, 1, 1.0])
def test_good_amounts(amount):
    prune.RandomUnstructured(amount)


@pytest.mark.parametrize("amount, size, count", [(0, 15, 0), (10, 15, 10), (1, 15, 1), (1.0, 15, 15), (0.4, 17, 7)])
def test_an_amount_is_a_number_or_a_share(amount, size, count):
    assert prune._compute_nparams_toprune(amount, size) == count


def test_more_than_there_is_raises_and_changes_nothing():
    layer = nn.Linear(4, 2)
    with pytest.raises(ValueError, match="amount.*at most 8"):
        prune.l1_unstructured(layer, "weight", 9)
    with pytest.raises(ValueError, match="amount.*at most 2"):
        prune.ln_structured(layer, "weight", 3, n=2, dim=0)
    assert list(layer.state_dict()) == ["weight", "bias"] and type(layer) is nn.Linear


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


# -- several methods ------------------------------------------------------------------------------------------------


def test_pruning_again_makes_a_container():
    layer = nn.Conv3d(2, 2, 2)
    prune.l1_unstructured(layer, "weight", amount=0.1)
    first = layer.weight_mask
    prune.ln_structured(layer, "weight", amount=0.3, n=2, dim=0)
    (hook,) = [entry.function for entry in layer._hook_list("forward_pre")]
    assert isinstance(hook, prune.PruningContainer) and hook._tensor_name == "weight" and len(hook) == 2
    assert isinstance(hook[0], prune.L1Unstructured) and isinstance(hook[1], prune.LnStructured)
    assert not np.asarray(layer.weight_mask)[np.asarray(first) == 0].any()
    prune.ln_structured(layer, "weight", amount=0.1, n=float("inf"), dim=1)
    (hook,) = [entry.function for entry in layer._hook_list("forward_pre")]
    assert [type(method).__name__ for method in hook] == ["L1Unstructured", "LnStructured", "LnStructured"]


def test_container_takes_methods_of_its_name_only():
    container = prune.PruningContainer()
    container._tensor_name = "test"
    assert len(container) == 0
    mine, other = prune.L1Unstructured(2), prune.L1Unstructured(2)
    mine._tensor_name, other._tensor_name = "test", "another"
    container.add_pruning_method(mine)
    with pytest.raises(ValueError, match="'test'.*'another'"):
        container.add_pruning_method(other)
    for wrong in (10, "ugh"):
        with pytest.raises(TypeError, match="BasePruningMethod"):
            container.add_pruning_method(wrong)
    assert len(container) == 1


T = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
DEFAULT = np.array([[1, 1, 1, 0], [1, 1, 0, 1]])


@pytest.mark.parametrize(
    "method, expected",
    [
        (prune.L1Unstructured(amount=2), [[0, 0, 1, 0], [1, 1, 0, 1]]),
        (prune.LnStructured(amount=1, n=2, dim=0), [[0, 0, 0, 0], [1, 1, 0, 1]]),
        (prune.LnStructured(amount=1, n=2, dim=1), [[0, 1, 1, 0], [0, 1, 0, 1]]),
        (prune.LnStructured(amount=1, n=2, dim=-1), [[0, 1, 1, 0], [0, 1, 0, 1]]),
        (prune.CustomFromMask(jnp.array([[0, 1, 1, 1], [1, 1, 1, 0]])), [[0, 1, 1, 0], [1, 1, 0, 0]]),
    ],
)
def test_container_prunes_what_is_left(method, expected):
    container = prune.PruningContainer()
    container._tensor_name = method._tensor_name = "test"
    container.add_pruning_method(method)
    mask = container.compute_mask(jnp.asarray(T), jnp.asarray(DEFAULT))
    assert mask.dtype == jnp.float32
    close(mask, expected, 0)


def test_structured_methods_skip_channels_that_are_gone():
    layer = nn.Linear(4, 3)
    layer.weight = jnp.arange(1.0, 13).reshape(3, 4)
    prune.ln_structured(layer, "weight", amount=1, n=1, dim=0)
    prune.ln_structured(layer, "weight", amount=1, n=1, dim=0)
    close(layer.weight_mask.sum(1), [0, 0, 4], 0)


@pytest.mark.parametrize("kind, error", [("sideways", ValueError), ("structured", AttributeError)])
def test_own_methods_without_a_type_or_dim(kind, error):
    method = with_mask(jnp.ones((2, 4)))
    method.PRUNING_TYPE = kind
    layer = prune.identity(nn.Linear(4, 2), "weight")
    with pytest.raises(error):
        method.apply(layer, "weight")
    assert len(layer._hook_list("forward_pre")) == 1 and prune.is_pruned(layer)


# -- methods by hand ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scores, first, second",
    [
        (None, [[0, 2, 3, 4], [-4, -3, -2, 0]], [[0, 0, 3, 4], [-4, -3, 0, 0]]),
        ([[4, 2, 1, 3], [-3, -1, -2, -4]], [[1, 2, 0, 4], [-4, 0, -2, -1]], [[1, 0, 0, 4], [-4, 0, 0, -1]]),
    ],
)
def test_l1_unstructured_and_importance_scores(scores, first, second):
    layer = nn.Linear(4, 2)
    layer.weight = jnp.array([[1.0, 2, 3, 4], [-4, -3, -2, -1]])
    scores = None if scores is None else jnp.array(scores, jnp.float32)
    for expected in (first, second):
        prune.l1_unstructured(layer, "weight", amount=2, importance_scores=scores)
        close(layer.weight, expected, 0)


def test_equal_magnitudes_are_pruned_to_the_amount():
    t = jnp.asarray(2 * np.random.default_rng(0).integers(-1, 2, (10, 7)))
    mask = prune.L1Unstructured(amount=0.2).compute_mask(t, default_mask=jnp.ones_like(t))
    assert int((mask == 0).sum()) == 14


def test_random_structured_prunes_whole_channels():
    t = jnp.ones((5, 4, 2))
    mask = prune.RandomStructured(amount=0.6, dim=2).compute_mask(t, default_mask=jnp.ones_like(t))
    assert sorted(np.asarray((mask == 0).sum((0, 1))).tolist()) == [0, 20]


CONV = np.array([[[[1.0, 2.0], [1.0, 2.5]], [[0.5, 1.0], [0.1, 0.1]], [[-3.0, -5.0], [0.1, -1.0]]]], np.float32)
SCORES = np.array([[[[10.0, 1], [10, 1]], [[30, 3], [30, 3]], [[-20, -2], [-20, -2]]]], np.float32)


@pytest.mark.parametrize("scores, channel, column", [(None, 1, 0), (jnp.asarray(SCORES), 0, 1)])
def test_ln_structured_by_hand(scores, channel, column):
    layer = nn.Conv2d(3, 1, 2)
    layer.weight = jnp.asarray(CONV)
    expected = np.ones_like(CONV)
    expected[:, channel] = 0
    prune.ln_structured(layer, "weight", amount=1, n=2, dim=1, importance_scores=scores)
    close(layer.weight_mask, expected, 0)
    expected[..., column] = 0
    prune.ln_structured(layer, "weight", amount=1, n=1, dim=-1, importance_scores=scores)
    close(layer.weight_mask, expected, 0)


@pytest.mark.parametrize("n", ["nuc", "fro"])
def test_norms_of_matrices(twins, n):
    theirs, ours = twins(lambda nn, utils: utils.prune.ln_structured(nn.Conv1d(3, 4, 5), "weight", 2, n, 1))
    assert_same_state(theirs, ours, 0)


@pytest.mark.parametrize("n, layer", [("nuc", "Linear"), ("foo", "Linear"), ("fro", "Conv3d"), ("nuc", "Conv3d")])
def test_bad_norms(n, layer):
    with pytest.raises(RuntimeError, match="prune: n:"):
        prune.ln_structured(LAYERS[layer](nn), "weight", 1, n, 0)


@pytest.mark.parametrize("method", [prune.RandomStructured(1, dim=2), prune.LnStructured(1, 2, dim=-3)])
def test_structured_errors(method):
    with pytest.raises(IndexError, match="dim"):
        method.compute_mask(jnp.ones((3, 4)), jnp.ones((3, 4)))
    with pytest.raises(ValueError, match="2 dimensions"):
        method.compute_mask(jnp.ones(3), jnp.ones(3))


def test_custom_from_mask_combines_with_what_was_pruned():
    method = prune.CustomFromMask(mask=jnp.array([[0, 1, 1, 0], [0, 0, 1, 1]]))
    default = jnp.array([[0, 0, 0, 0], [1, 1, 1, 1]])
    close(method.compute_mask(jnp.ones((2, 4)), default), [[0, 0, 0, 0], [0, 0, 1, 1]], 0)
    with pytest.raises(AssertionError, match="shape"):
        prune.custom_from_mask(nn.Linear(4, 2), "weight", jnp.ones(3))


@pytest.mark.parametrize(
    "scores, expected",
    [
        (None, [[0, 0, 1, 0], [1, 1, 0, 1]]),
        (T, [[0, 0, 1, 0], [1, 1, 0, 1]]),
        (np.array([[1, 2, 3, 4], [1.5, 1.6, 1.7, 1.8]], np.float32), [[0, 1, 1, 0], [0, 1, 0, 1]]),
    ],
)
def test_prune_of_an_array(scores, expected):
    method = prune.L1Unstructured(amount=2)
    scores = None if scores is None else jnp.asarray(scores)
    pruned = method.prune(jnp.asarray(T), jnp.asarray(DEFAULT), importance_scores=scores)
    close(pruned, T * np.array(expected), 0)
    assert pruned.dtype == jnp.float32


def test_importance_scores_of_another_shape():
    with pytest.raises(AssertionError, match="importance_scores"):
        prune.l1_unstructured(nn.Linear(4, 2), "weight", 1, importance_scores=jnp.ones(3))
    with pytest.raises(AssertionError, match="importance_scores"):
        prune.L1Unstructured(1).prune(jnp.ones((2, 4)), importance_scores=jnp.ones(3))


@pytest.mark.parametrize("with_scores", [False, True])
def test_global_pruning_by_hand(with_scores):
    first, second = nn.Linear(4, 2), nn.Linear(3, 1)
    first.weight = jnp.array([[1.0, 2, 3, 4], [-4, -3, -2, -1]])
    second.weight = jnp.array([[0.0, 0.1, -2]])
    pairs = ((first, "weight"), (second, "weight"))
    scores = {
        (first, "weight"): jnp.array([[4.0, 2, 1, 3], [-3, -1, -2, -4]]),
        (second, "weight"): jnp.array([[0.0, 10, -0.2]]),
    }
    prune.global_unstructured(
        (pair for pair in pairs),
        pruning_method=prune.L1Unstructured,
        amount=4,
        importance_scores=scores if with_scores else None,
    )
    close(first.weight, [[1, 2, 0, 4], [-4, 0, -2, -1]] if with_scores else [[0, 2, 3, 4], [-4, -3, -2, 0]], 0)
    close(second.weight, [[0, 0.1, 0]] if with_scores else [[0, 0, -2]])


def test_global_pruning_errors():
    pair = (nn.Linear(4, 2), "weight")
    with pytest.raises(TypeError, match="parameters"):
        prune.global_unstructured(3, prune.L1Unstructured, amount=1)
    with pytest.raises(TypeError, match="importance_scores"):
        prune.global_unstructured([pair], prune.L1Unstructured, importance_scores=[1], amount=1)
    with pytest.raises(TypeError, match="unstructured"):
        prune.global_unstructured([pair], prune.LnStructured, amount=1, n=2)


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
