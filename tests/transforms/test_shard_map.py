"""Every operation and layer inside ``jax.shard_map`` with its default checks: traced, and those with loops computed."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.utils import parametrizations
from jaxnn.utils.rnn import pack_padded_sequence
from parity import golden, ours
from parity.cli import RECORDING
from parity.families import FAMILIES
from parity.run import Options

SPLIT, WHOLE = jax.sharding.PartitionSpec("copy"), jax.sharding.PartitionSpec()


def _mapped(function, varies, args):
    """A call of `function` on each of two devices; the arrays of `args` that do not vary are the same on both."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("copy",))
    specs = jax.tree.map(lambda split: SPLIT if split else WHOLE, varies)

    def on_each(*args):
        own = jax.tree.map(lambda array, split: array[0] if split else array, args, varies)
        return jax.tree.map(lambda array: array[None], function(*own))

    given = jax.tree.map(lambda array, split: jnp.stack([array] * 2) if split else array, args, varies)
    return jax.shard_map(on_each, mesh=mesh, in_specs=specs, out_specs=SPLIT), given


def _traces(case, alone):
    """Trace outputs and gradients: with every array its device's own, or with the parameters and buffers shared."""
    wide = jax.enable_x64(True) if ours.is_wide(case) else contextlib.nullcontext()
    with wide:
        program, args = ours.program_of(case, "float32")
        points, arrays, state, weights, along = args
        own = {name: alone or name.startswith("input ") for name in points}, [True] * len(arrays)
        for weights_vary in (True, False):  # those of an output that varies over no device are to vary over none
            varies = (*own, dict.fromkeys(state, alone), dict.fromkeys(weights, weights_vary), {})
            mapped, given = _mapped(program, varies, args)
            try:
                return jax.eval_shape(mapped, *given)
            except ValueError as problem:
                if not weights_vary or "VJP function" not in str(problem):
                    raise


@pytest.mark.filterwarnings("ignore")  # of deprecated names and options, which are cases too
@pytest.mark.parametrize("family", FAMILIES)
def test_everything_traces(family):
    if not RECORDING.exists():
        pytest.skip("no recording: python -m parity record")
    problems = []
    cases = golden.chosen(str(RECORDING), Options(only=(family,)), 1)
    for case in {case.name: case for case in cases}.values():
        for alone in (True, False) if case.state else (True,):
            try:
                _traces(case, alone)
            except Exception as problem:
                problems.append(f"{case.id}: {type(problem).__name__}: {str(problem)[:300]}")
    assert not problems, "\n".join(problems)


def _ctc(log_probs):
    return F.ctc_loss(log_probs, jnp.array([[1, 2], [2, 1]]), jnp.array([5, 4]), jnp.array([2, 1]))


def _embedding(weight):
    return F.embedding(jnp.array([0, 2]), weight, max_norm=0.5)


def _packed(layer):
    return lambda x: layer(pack_padded_sequence(x, [5, 3]))[0].data


def _first(layer, *rest):
    return lambda x: layer(x, *rest)[0]


CALLS = {
    "rnn": (lambda: _first(nn.RNN(3, 4)), (5, 2, 3)),
    "gru": (lambda: _first(nn.GRU(3, 4, 2, bidirectional=True)), (5, 2, 3)),
    "lstm": (lambda: _first(nn.LSTM(3, 4, proj_size=2, batch_first=True)), (5, 2, 3)),
    "lstm, hx given": (lambda: _first(nn.LSTM(3, 4), (jnp.ones((1, 2, 4)),) * 2), (5, 2, 3)),
    "packed": (lambda: _packed(nn.GRU(3, 4)), (5, 2, 3)),
    "lstm cell": (lambda: _first(nn.LSTMCell(3, 4)), (2, 3)),
    "ctc": (lambda: _ctc, (5, 2, 3)),
    "max pool": (lambda: lambda x: F.max_pool2d(x, 3, 2, return_indices=True)[0], (2, 3, 8, 8)),
    "adaptive max pool": (lambda: lambda x: F.adaptive_max_pool2d(x, 3), (2, 3, 8, 8)),
    "embedding, max_norm": (lambda: _embedding, (3, 4)),
    "long attention": (lambda: lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), (1, 1, 1100, 4)),
}


@pytest.mark.parametrize("call", CALLS)
def test_values_and_gradients_are_those_of_one_device(call):
    make, shape = CALLS[call]
    function = make()
    x = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    both = jax.value_and_grad(lambda x: (function(x) ** 2).sum())
    mapped, given = _mapped(both, (True,), (x,))
    expected = jax.jit(both)(x)
    for one, other in zip(jax.tree.leaves(jax.jit(mapped)(*given)), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(one, np.stack([other] * 2))


@pytest.mark.parametrize(
    "parametrize",
    [
        lambda layer: parametrizations.spectral_norm(layer, n_power_iterations=2),
        lambda layer: parametrizations.orthogonal(layer, orthogonal_map="matrix_exp"),
        lambda layer: parametrizations.orthogonal(layer, orthogonal_map="cayley"),
        parametrizations.weight_norm,
    ],
    ids=["spectral_norm", "matrix_exp", "cayley", "weight_norm"],
)
@pytest.mark.filterwarnings("ignore:functional_call. .* dropped")
def test_parametrized_weights(parametrize):
    layer = parametrize(nn.Linear(4, 4))
    weights = {name: box.value for name, box in layer.named_parameters()}
    x = jnp.ones((2, 4))

    def gradients(weights, x):
        return jax.grad(lambda weights: (nn.functional_call(layer, weights, (x,)) ** 2).sum())(weights)

    mapped, given = _mapped(gradients, (dict.fromkeys(weights, True), True), (weights, x))
    expected = jax.jit(gradients)(weights, x)
    for name, found in jax.jit(mapped)(*given).items():
        np.testing.assert_array_equal(found, np.stack([expected[name]] * 2))
