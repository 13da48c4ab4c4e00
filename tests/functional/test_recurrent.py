"""Recurrent cells and sequence functions against torch's functions of the same names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional import recurrent

GATES = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}


def _normal(*shape, scale=1.0):
    return (np.random.standard_normal(shape) * scale).astype(np.float32)


def _sequence_case(name, layers, directions, bias, proj=0, steps=6, batch=3, features=4, hidden=5):
    out = proj or hidden
    params = []
    for layer in range(layers):
        for _ in range(directions):
            rows, below = GATES[name] * hidden, features if layer == 0 else out * directions
            params += [_normal(rows, below, scale=0.5), _normal(rows, out, scale=0.5)]
            params += [_normal(rows), _normal(rows)] if bias else []
            params += [_normal(proj, hidden)] if proj else []
    states = [_normal(layers * directions, batch, out), _normal(layers * directions, batch, hidden)]
    return _normal(steps, batch, features), states[: 2 if name == "lstm" else 1], params


@pytest.mark.parametrize(
    "name, biases", [("rnn_tanh", (True, False)), ("rnn_relu", (False, True)), ("gru", (False, True)), ("lstm", (0, 0))]
)
def test_cells(name, biases):
    torch = pytest.importorskip("torch")
    from tests.oracle import assert_parity

    rows = GATES[name] * 5
    arrays = [_normal(3, 4), _normal(3, 5), _normal(rows, 4), _normal(rows, 5)]
    arrays += [_normal(rows) if given else None for given in biases]
    if name == "lstm":
        arrays.insert(2, _normal(3, 5))

        def form(function):
            return lambda x, h, c, *weights: function(x, (h, c), *weights)

        assert_parity(form(recurrent.lstm_cell), form(torch.lstm_cell), *arrays, jit=False)
    else:
        assert_parity(getattr(recurrent, f"{name}_cell"), getattr(torch, f"{name}_cell"), *arrays, jit=False)


@pytest.mark.parametrize(
    "name, layers, bidirectional, bias, proj, lengths",
    [
        ("rnn_tanh", 1, True, True, 0, [4, 1, 1]),
        ("rnn_relu", 2, False, True, 0, [6, 6, 5]),
        ("gru", 1, True, False, 0, [6, 3, 1]),
        ("gru", 1, False, True, 0, [6, 6, 6]),
        ("lstm", 1, True, False, 3, [6, 3, 1]),
    ],
)
def test_packed_sequences(name, layers, bidirectional, bias, proj, lengths):
    """Values, and the gradients of input, states and every weight, through packing."""
    torch = pytest.importorskip("torch")
    from tests.oracle import assert_parity

    x, states, params = _sequence_case(name, layers, 2 if bidirectional else 1, bias, proj)
    options = (bias, layers, 0.0, False, bidirectional)

    def split(arrays):
        states, params = list(arrays[: -len(weights)]), list(arrays[-len(weights) :])
        return states if name == "lstm" else states[0], params

    def ours(x, *arrays):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
        return getattr(recurrent, name)(packed.data, *split(arrays), *options, batch_sizes=packed.batch_sizes)

    def theirs(x, *arrays):
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths)
        return getattr(torch, name)(packed.data, packed.batch_sizes, *split(arrays), *options)

    weights = params
    assert_parity(ours, theirs, x, *states, *params, jit=False)


def test_batch_first_is_only_a_layout():
    x, states, params = _sequence_case("gru", 2, 1, True)
    options = (params, True, 2, 0.0, False, False)
    output, last = recurrent.gru(x, states[0], *options)
    swapped, last_swapped = recurrent.gru(x.swapaxes(0, 1), states[0], *options, True)
    np.testing.assert_array_equal(output, swapped.swapaxes(0, 1))
    np.testing.assert_array_equal(last, last_swapped)


def test_every_array_can_be_mapped():
    x, states, params = _sequence_case("lstm", 1, 2, True, 3)
    arrays = (x, states, params)
    pairs = jax.tree.map(lambda a: jnp.stack([jnp.asarray(a), jnp.asarray(a) * 0.5]), arrays)

    def run(x, states, params):
        return recurrent.lstm(x, states, params, True, 1, 0.0, False, True)

    mapped = jax.vmap(run)(*pairs)
    for i in range(2):
        one = run(*jax.tree.map(lambda a, i=i: a[i], pairs))
        for got, expected in zip(mapped, one):
            np.testing.assert_allclose(got[i], expected, rtol=2e-5, atol=2e-6)


def test_one_product_for_the_input_of_all_steps():
    """Outside the scan one dot over all steps; inside only the state's."""
    x, states, params = _sequence_case("lstm", 1, 1, True)
    jaxpr = jax.make_jaxpr(lambda *a: recurrent.lstm(*a, True, 1, 0.0, False, False))(x, tuple(states), params)
    text = str(jaxpr)
    assert text.count("dot_general") == 2 and text.count("scan[") == 1 and "transpose" not in text


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_keeps_the_state_in_float32(dtype):
    """A GRU that adds little at each of many steps: with a state rounded at each step it would stand still."""
    w_ih, w_hh = jnp.zeros((3, 1), dtype), jnp.zeros((3, 1), dtype)
    bias = jnp.array([0, 6.5, 20], dtype)
    x, h = jnp.zeros((400, 1, 1), dtype), jnp.zeros((1, 1, 1), dtype)
    output, last = recurrent.gru(x, h, [w_ih, w_hh, bias, jnp.zeros_like(bias)], True, 1, 0.0, False, False)
    z = 1 / (1 + np.exp(-6.5))
    assert output.dtype == last.dtype == dtype
    np.testing.assert_allclose(float(last[0, 0, 0]), 1 - z**400, rtol=1e-2)


def test_dropout_lies_between_layers_only():
    x, states, params = _sequence_case("gru", 2, 1, True)
    key = jax.random.key(0)
    plain = recurrent.gru(x, states[0], params, True, 2, 0.5, False, False)
    dropped = recurrent.gru(x, states[0], params, True, 2, 0.5, True, False, key=key)
    again = recurrent.gru(x, states[0], params, True, 2, 0.5, True, False, key=key)
    np.testing.assert_array_equal(dropped[0], again[0])
    np.testing.assert_array_equal(dropped[1][0], plain[1][0])
    assert not np.allclose(dropped[1][1], plain[1][1])
    assert not (np.asarray(dropped[0]) == 0).any()
    one = recurrent.gru(x, states[0][:1], params[:4], True, 1, 0.5, True, False)
    np.testing.assert_array_equal(one[1], plain[1][:1])


def test_dropout_of_one_leaves_the_second_layer_its_biases():
    torch = pytest.importorskip("torch")
    x, states, params = _sequence_case("lstm", 2, 1, True)
    options = (True, 2, 1.0, True, False, False)
    ours = recurrent.lstm(x, states, params, *options)
    theirs = torch.lstm(torch.tensor(x), [*map(torch.tensor, states)], [*map(torch.tensor, params)], *options)
    for mine, its in zip(ours, theirs):
        np.testing.assert_allclose(mine, its, rtol=2e-5, atol=1e-6)


def test_state_past_the_end_is_frozen_even_where_it_is_huge():
    """A relu network that grows without bound: steps past a sequence's end must not touch value or gradient."""
    params = [jnp.ones((1, 1)), jnp.full((1, 1), 1e4)]

    def last(x):
        batch_sizes = [2] + [1] * 19
        return recurrent.rnn_relu(x, jnp.ones((1, 2, 1)), params, False, 1, 0.0, False, False, batch_sizes=batch_sizes)[
            1
        ]

    x = jnp.ones((21, 1)).at[0].set(-1e6)
    value, pull = jax.vjp(last, x)
    assert value[0, 1, 0] == 10001.0
    gradient = pull(jnp.zeros((1, 2, 1)).at[0, 1, 0].set(1.0))[0]
    np.testing.assert_array_equal(gradient[:2, 0], [0.0, 1.0])
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("jit", [False, True])
def test_errors(jit):
    x, states, params = _sequence_case("lstm", 1, 1, True)
    wrap = jax.jit if jit else lambda f: f

    def run(x=x, states=states, params=params, **kwargs):
        return wrap(lambda x: recurrent.lstm(x, states, params, True, 1, 0.0, False, False, **kwargs))(x)

    with pytest.raises(RuntimeError, match="lstm: hx"):
        run(states=states[:1])
    with pytest.raises(RuntimeError, match="lstm: params"):
        run(params=[])
    with pytest.raises(RuntimeError, match="lstm: input.*time step"):
        run(x=x[:0])
    with pytest.raises(RuntimeError, match="one dtype"):
        run(states=[state.astype(np.float16) for state in states])
    with pytest.raises(RuntimeError, match="batch_sizes"):
        run(x=x.reshape(18, 4), batch_sizes=[2, 3])
    with pytest.raises(RuntimeError, match="gru_cell: hx"):
        wrap(lambda x: recurrent.gru_cell(x, jnp.ones((2, 5)), jnp.ones((15, 4)), jnp.ones((15, 5))))(x[0])
    with pytest.raises(RuntimeError, match="gru_cell: input"):
        wrap(lambda x: recurrent.gru_cell(x, jnp.ones((3, 5)), jnp.ones((15, 3)), jnp.ones((15, 5))))(x[0])
    with pytest.raises(TypeError, match="gru_cell: input"):
        recurrent.gru_cell([1.0], jnp.ones((3, 5)), jnp.ones((15, 3)), jnp.ones((15, 5)))  # type: ignore


def test_traced_batch_sizes_are_refused():
    x, states, params = _sequence_case("lstm", 1, 1, True)
    sizes = jnp.full(6, 3)
    run = jax.jit(
        lambda sizes: recurrent.lstm(x.reshape(18, 4), states, params, True, 1, 0.0, False, False, batch_sizes=sizes)
    )
    with pytest.raises(TypeError, match="batch_sizes.*traced.*NumPy"):
        run(sizes)


def test_strict_promotion():
    x, states, params = _sequence_case("lstm", 2, 1, True, 3)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for dtype in (jnp.float32, jnp.bfloat16):
            cast = jax.tree.map(lambda a, dtype=dtype: jnp.asarray(a, dtype), (x.reshape(18, 4)[:10], states, params))
            results = recurrent.lstm(*cast, True, 2, 0.5, True, False, batch_sizes=[3, 2, 2, 1, 1, 1])
            assert {result.dtype for result in results} == {jnp.dtype(dtype)}
