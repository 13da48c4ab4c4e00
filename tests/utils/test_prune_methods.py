"""nn.utils.prune: amounts, containers and methods, by hand as torch's test/nn/test_pruning.py checks them."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.utils.prune as prune
from tests.utils.conftest import assert_same_state, close
from tests.utils.test_prune import LAYERS, with_mask

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
