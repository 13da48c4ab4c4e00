"""Recurrent cells and sequence functions against torch's functions of the same names."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.functional import recurrent
from jaxnn.functional._recurrent_cells import CELLS

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


def _equations(jaxpr, inside=False):
    """Every equation, and whether it is inside a loop; a custom derivative counts as its function."""
    for equation in jaxpr.eqns:
        yield equation, inside
        for value in equation.params.values():
            if hasattr(value, "jaxpr") or hasattr(value, "eqns"):
                yield from _equations(getattr(value, "jaxpr", value), inside or equation.primitive.name == "scan")


def _count(function, *args):
    """Dots outside of loops, dots inside, and the shapes that the loops carry."""
    equations = list(_equations(jax.make_jaxpr(function)(*args).jaxpr))
    dots = [inside for equation, inside in equations if equation.primitive.name.endswith("dot_general")]
    loops = [equation for equation, _ in equations if equation.primitive.name == "scan"]
    # What a loop carries comes out in the shape that its body gives it; what it stacks has one dimension more.
    pairs = [zip(loop.outvars, loop.params["jaxpr"].jaxpr.outvars) for loop in loops]
    carried = [{out.aval.shape for out, inner in pair if out.aval.shape == inner.aval.shape} for pair in pairs]
    return dots.count(False), dots.count(True), carried


def test_one_product_for_the_input_of_all_steps():
    """Outside the scan one dot over all steps; inside only the state's."""
    x, states, params = _sequence_case("lstm", 1, 1, True)
    run = _one_layer("lstm", False)
    assert _count(run, x, states, params) == (1, 1, [{(3, 5)}])


@pytest.mark.parametrize("name, proj", [("rnn_tanh", 0), ("rnn_relu", 0), ("gru", 0), ("lstm", 0), ("lstm", 3)])
def test_gradients_of_weights_are_products_over_all_steps(name, proj):
    """The loop backwards has the products of the loop forwards, and carries no gradient of a weight."""
    x, states, params = _sequence_case(name, 1, 1, True, proj)
    run = _one_layer(name, False)

    def loss(*arrays):
        return sum((result**2).sum() for result in run(*arrays))

    carries = {(3, proj or 5), (3, 5)} if name == "lstm" else {(3, 5)}
    inner = 2 if proj else 1
    outside, inside, carried = _count(jax.grad(loss, (0, 1, 2)), x, states, params)
    assert (inside, carried) == (2 * inner, [carries] * 2)
    assert outside == 3 + inner  # of the input, its gradient, and those of weight_ih, weight_hh, weight_hr
    # a constant weight costs nothing
    assert _count(jax.grad(loss), x, states, params)[0] == 2


def _plain(name, x, states, params, lengths, reverse):
    """One layer in one direction from the formulas, a step after another."""
    w_ih, w_hh, b_ih, b_hh, *w_hr = params
    states, outputs = tuple(states), [None] * len(x)
    for t in range(len(x))[:: -1 if reverse else 1]:
        ours, theirs = x[t] @ w_ih.T + b_ih, states[0] @ w_hh.T + b_hh
        if name == "lstm":
            i, f, g, o = jnp.split(ours + theirs, 4, axis=-1)
            c = jax.nn.sigmoid(f) * states[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
            new = jax.nn.sigmoid(o) * jnp.tanh(c), c
        elif name == "gru":
            (r, z, n), (hidden_r, hidden_z, hidden_n) = jnp.split(ours, 3, axis=-1), jnp.split(theirs, 3, axis=-1)
            n = jnp.tanh(n + jax.nn.sigmoid(r + hidden_r) * hidden_n)
            z = jax.nn.sigmoid(z + hidden_z)
            new = ((1 - z) * n + z * states[0],)
        else:
            new = ((jnp.tanh if name == "rnn_tanh" else jax.nn.relu)(ours + theirs),)
        if w_hr:
            new = new[0] @ w_hr[0].T, *new[1:]
        runs = (t < lengths)[:, None]
        states = tuple(jnp.where(runs, a, b) for a, b in zip(new, states))
        outputs[t] = states[0]
    return jnp.stack(outputs), *states


def _one_layer(name, bidirectional, batch_sizes=None):
    def run(x, states, params):
        states = tuple(states) if name == "lstm" else states[0]
        function = getattr(recurrent, name)
        return function(x, states, params, True, 1, 0.0, False, bidirectional, batch_sizes=batch_sizes)

    return run


def _both_directions(name, lengths):
    def run(x, states, params):
        half = len(params) // 2
        found = []
        for i, group in enumerate((params[:half], params[half:])):
            found.append(_plain(name, x, [state[i] for state in states], group, lengths, bool(i)))
        last = [jnp.stack(kind) for kind in list(zip(*found))[1:]]
        return jnp.concatenate([output for output, *_ in found], axis=-1), *last

    return run


@pytest.mark.parametrize(
    "name, proj, lengths",
    [
        ("rnn_tanh", 0, [3, 2, 1]),
        ("rnn_relu", 0, [3, 2, 1]),
        ("gru", 0, None),
        ("gru", 0, [3, 2, 1]),
        ("lstm", 0, None),
        ("lstm", 3, [3, 2, 1]),
    ],
)
def test_derivatives_in_float64_are_those_of_a_plain_loop(name, proj, lengths):
    """Forward and reverse mode, and both kinds of second derivatives, in both directions, with and without lengths."""
    with jax.enable_x64(True):
        case = _sequence_case(name, 1, 2, True, proj, steps=3)
        case = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), case)
        direction = jax.tree.map(lambda a: jnp.asarray(np.random.standard_normal(a.shape)), case)
        held = np.array(lengths or [3, 3, 3])
        batch_sizes = None if lengths is None else [int((held > t).sum()) for t in range(3)]
        steps, rows = np.nonzero(np.arange(3)[:, None] < held)

        def ours(x, *rest):
            if lengths is not None:
                x = x[steps, rows]
            return _one_layer(name, True, batch_sizes)(x, *rest)

        def theirs(*args):
            output, *last = _both_directions(name, held)(*args)
            return output if lengths is None else output[steps, rows], *last

        def derivatives(function):
            def loss(*args):
                return sum(jnp.vdot(jnp.cos(jnp.arange(a.size)), jnp.sin(a).ravel()) for a in function(*args))

            def gradient(*args):
                return jax.grad(loss, (0, 1, 2))(*args)

            def slope(*args):  # the gradient along the direction
                return sum(map(jnp.vdot, jax.tree.leaves(gradient(*args)), jax.tree.leaves(direction)))

            def run(*args):
                along = tuple(direction)
                forwards, backwards = jax.jvp(function, args, along), gradient(*args)
                return forwards, backwards, jax.jvp(gradient, args, along)[1], jax.grad(slope, (0, 1, 2))(*args)

            quick = {"xla_backend_optimization_level": 0}  # these programs are long
            return jax.jit(run, compiler_options=quick)(*case)

        for got, expected in zip(*map(jax.tree.leaves, map(derivatives, (ours, theirs))), strict=True):
            assert got.dtype == jnp.float64
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mapped", ["input", "states", "weights"])
def test_gradients_can_be_mapped(mapped):
    x, states, params = _sequence_case("lstm", 1, 2, True, 3)
    arrays = dict(zip(("input", "states", "weights"), jax.tree.map(jnp.asarray, (x, states, params))))
    pairs = arrays | {mapped: jax.tree.map(lambda a: jnp.stack([a, a * 0.5]), arrays[mapped])}

    def gradient(*args):
        return jax.grad(lambda *args: sum((a**2).sum() for a in _one_layer("lstm", True)(*args)), (0, 1, 2))(*args)

    found = jax.vmap(gradient, [0 if name == mapped else None for name in arrays])(*pairs.values())
    for i in range(2):
        one = arrays | {mapped: jax.tree.map(lambda a, i=i: a[i], pairs[mapped])}
        for got, expected in zip(*map(jax.tree.leaves, (found, gradient(*one.values()))), strict=True):
            np.testing.assert_allclose(got[i], expected, rtol=2e-5, atol=1e-5)


def test_every_transformation_of_the_derivative():
    """Forward over forward, forward and reverse Jacobians, and rematerialisation agree."""
    x, states, params = _sequence_case("gru", 1, 1, True, steps=3, batch=1, features=2, hidden=2)
    run = _one_layer("gru", False)

    def output(x):
        return run(x, states, params)[0].ravel()

    def loss(x):
        return (output(x) ** 2).sum()

    np.testing.assert_allclose(jax.jacfwd(output)(x), jax.jacrev(output)(x), rtol=1e-5, atol=1e-6)
    expected = jax.hessian(loss)(x)
    for found in (jax.jacrev(jax.jacrev(loss))(x), jax.jacfwd(jax.jacfwd(loss))(x), jax.jacrev(jax.jacfwd(loss))(x)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.grad(jax.checkpoint(loss))(x), jax.grad(loss)(x), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name, proj", [("gru", 0), ("lstm", 3)])
def test_gradients_in_low_precision(name, proj, dtype):
    case = jax.tree.map(lambda a: jnp.asarray(a, dtype), _sequence_case(name, 1, 1, True, proj))

    def gradient(case):
        def loss(*args):
            return sum(a.astype(jnp.float32).sum() for a in _one_layer(name, False)(*args))

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*case)

    wide = gradient(jax.tree.map(lambda a: a.astype(jnp.float32), case))
    for got, expected in zip(*map(jax.tree.leaves, (gradient(case), wide)), strict=True):
        assert got.dtype == dtype
        scale = np.abs(expected).max()
        np.testing.assert_allclose(got.astype(jnp.float32), expected, atol=20 * scale * float(jnp.finfo(dtype).eps))


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


@pytest.mark.parametrize("mode", CELLS)
def test_the_derivative_of_a_cell_is_that_of_its_step(mode):
    cell = CELLS[mode]
    keys = iter(jax.random.split(jax.random.key(0), 20))
    with jax.enable_x64(True):

        def arrays(count):
            return tuple(jax.random.normal(next(keys), (3, 5), jnp.float64) for _ in range(count))

        at = arrays(cell.gates + cell.apart), arrays(cell.states)
        tangents = arrays(cell.gates + cell.apart), arrays(cell.states)
        expected = jax.jvp(cell.advance, at, tangents)
        after, slopes = cell.linearize(*at)
        chex.assert_trees_all_close((after, cell.tangent(slopes, *tangents)), expected, rtol=1e-12)
