"""RNN, LSTM, GRU and their cells: weights and draws as torch's, packed batches, state, dropout, errors, repr."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

# torch says so whenever an LSTM has a projection.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")

OPTIONS = [
    ("RNN", (4, 6, 2, "relu", False), {}),
    ("RNN", (4, 6), {"nonlinearity": "relu", "bidirectional": True, "num_layers": 2}),
    ("GRU", (4, 6, 2), {"bidirectional": True, "batch_first": True}),
    ("LSTM", (4, 6, 2, False, True, 0.5, True, 3), {}),
    ("LSTM", (4, 6), {"proj_size": 2}),
]
X = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)


def _pair(name, args, kwargs):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, name)(*args, **kwargs).eval()
    ours = getattr(nn, name)(*args, **kwargs).eval()
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    return torch, ours, theirs


def _close(ours, theirs):
    ours = ours if isinstance(ours, (tuple, list)) else [ours]
    theirs = theirs if isinstance(theirs, (tuple, list)) else [theirs]
    for mine, its in zip(ours, theirs, strict=True):
        if isinstance(mine, (tuple, list)):
            _close(mine, its)
        elif mine is None:
            assert its is None
        else:
            np.testing.assert_allclose(np.asarray(mine), its.detach().numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name, args, kwargs", [*OPTIONS, ("RNNCell", (4, 6), {}), ("LSTMCell", (4, 6, False), {})])
def test_same_seed_same_weights_names_and_repr(name, args, kwargs):
    torch = pytest.importorskip("torch")
    torch.manual_seed(5)
    nn.manual_seed(5)
    theirs, ours = getattr(torch.nn, name)(*args, **kwargs), getattr(nn, name)(*args, **kwargs)
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for key, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, expected[key].numpy())
    assert repr(ours) == repr(theirs)
    if hasattr(theirs, "all_weights"):
        shapes = [[tuple(w.shape) for w in group] for group in theirs.all_weights]
        assert [[w.shape for w in group] for group in ours.all_weights] == shapes
        assert ours._flat_weights_names == theirs._flat_weights_names
        assert [w.shape for w in ours._flat_weights] == [tuple(w.shape) for w in theirs._flat_weights]
        ours.flatten_parameters()


def test_repr_of_cells():
    assert repr(nn.RNNCell(4, 6, False, "relu")) == "RNNCell(4, 6, bias=False, nonlinearity=relu)"
    assert repr(nn.GRUCell(4, 6)) == "GRUCell(4, 6)"


@pytest.mark.parametrize("name, args, kwargs", OPTIONS)
def test_packed_unsorted_with_and_without_state(name, args, kwargs):
    torch, ours, theirs = _pair(name, args, kwargs)
    mine = pack_padded_sequence(X, [2, 5, 3], enforce_sorted=False)
    its = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(X), [2, 5, 3], enforce_sorted=False)
    output, hidden = ours(mine)
    assert isinstance(output, PackedSequence)
    _close((output, hidden), theirs(its))
    state = jax.tree.map(lambda h: np.random.standard_normal(h.shape).astype(np.float32), hidden)
    _close(ours(mine, state), theirs(its, jax.tree.map(torch.tensor, state)))


def test_gradients_of_weights_through_a_packed_pipeline():
    torch, ours, theirs = _pair("LSTM", (4, 6, 2), {"bidirectional": True, "batch_first": True})
    lengths, x = [2, 5, 3], X.swapaxes(0, 1)

    def loss(model, x):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, (h, c) = model(packed)
        padded, _ = pad_packed_sequence(output, batch_first=True, padding_value=2.0)
        return (padded**3).sum() + (h * c).sum()

    gradients = nn.jit(nn.grad(loss))(ours, x)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(x), lengths, True, False)
    output, (h, c) = theirs(packed)
    ((torch.nn.utils.rnn.pad_packed_sequence(output, True, 2.0)[0] ** 3).sum() + (h * c).sum()).backward()
    for name, parameter in theirs.named_parameters():
        np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name, args, kwargs", OPTIONS)
def test_unbatched(name, args, kwargs):
    torch, ours, theirs = _pair(name, args, kwargs)
    output, hidden = ours(X[:, 0])
    _close((output, hidden), theirs(torch.tensor(X[:, 0])))
    _close(
        ours(X[:, 0], hidden),
        theirs(torch.tensor(X[:, 0]), jax.tree.map(lambda h: torch.tensor(np.asarray(h)), hidden)),
    )


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("batched", [True, False])
def test_cells(name, batched):
    torch, ours, theirs = _pair(name, (4, 6), {})
    x = X[0] if batched else X[0, 0]
    hidden = ours(x)
    _close(hidden, theirs(torch.tensor(x)))
    given = jax.tree.map(lambda h: torch.tensor(np.asarray(h)), hidden)
    _close(ours(x, hidden), theirs(torch.tensor(x), given))


def test_dropout_moves_with_the_stream_and_only_in_training():
    model = nn.GRU(4, 6, 2, dropout=0.5)
    step = nn.jit(lambda model, x: model(x)[0])
    first, second = step(model, X), step(model, X)
    assert not np.array_equal(first, second)
    nn.manual_seed(7)
    first = step(model, X)
    nn.manual_seed(7)
    np.testing.assert_array_equal(step(model, X), first)
    packed = pack_padded_sequence(X, [5, 3, 1])
    assert not np.array_equal(model(packed)[0].data, model(packed)[0].data)
    model.eval()
    np.testing.assert_array_equal(step(model, X), step(model, X))
    jax.jit(lambda model: model(X)[0])(model)  # draws nothing, so plain jit takes it
    with pytest.raises(Exception, match="key|rng"):
        jax.jit(lambda model: model(X)[0])(model.train())


def test_warns_where_dropout_does_nothing():
    with pytest.warns(UserWarning, match="num_layers=1") as caught:
        nn.LSTM(4, 6, dropout=0.5)
    assert caught[0].filename == __file__


def test_weights_stay_live():
    """Assignments, ties and functional_call reach the next call: no copy of the weights is kept."""
    model = nn.RNN(4, 6, bias=False)
    before = model(X)[0]
    model.weight_hh_l0 = jnp.zeros((6, 6))
    after = model(X)[0]
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(after, np.tanh(X @ model.weight_ih_l0.T), rtol=1e-4, atol=1e-6)
    zeros = {name: jnp.zeros_like(box.value) for name, box in model.named_parameters()}
    assert not np.asarray(nn.functional_call(model, zeros, (X,))[0]).any()
    nn.init.zeros_(model.all_weights[0][0])
    assert not np.asarray(model.weight_ih_l0).any()


def test_subclass_hooks_are_used():
    class Loud(nn.GRU):
        def permute_hidden(self, hx, permutation):
            self.seen = permutation is not None
            return super().permute_hidden(hx, permutation)

    model = Loud(4, 6)
    model(pack_padded_sequence(X, [1, 5, 2], enforce_sorted=False))
    assert model.seen


def test_autocast_runs_in_the_lower_dtype():
    for model in (nn.LSTM(4, 6, 2), nn.GRU(4, 6), nn.LSTMCell(4, 6), nn.RNNCell(4, 6)):
        x = jnp.asarray(X if isinstance(model, nn.RNNBase) else X[0])
        with nn.autocast():
            for given in (x, x.astype(jnp.bfloat16)):
                assert {leaf.dtype for leaf in jax.tree.leaves(model(given))} == {jnp.dtype(jnp.bfloat16)}


def test_compiles_once_and_takes_modules_as_pytrees():
    model, traces = nn.LSTM(4, 6, 2, bidirectional=True), []

    @nn.jit
    def run(model, packed):
        traces.append(1)
        return model(packed)

    packed = pack_padded_sequence(X, [5, 3, 1])
    for _ in range(3):
        output, _ = run(model, packed)
    assert len(traces) == 1
    np.testing.assert_allclose(output.data, model(packed)[0].data, rtol=1e-5, atol=1e-6)
    stacked = jax.tree.map(lambda a: jnp.stack([a, a * 0.5]), model)
    mapped = jax.vmap(lambda m: m(X)[0])(stacked)
    np.testing.assert_allclose(mapped[0], model(X)[0], rtol=1e-5, atol=1e-6)


def _state(*shape):
    return jnp.zeros(shape)


@pytest.mark.parametrize(
    "error, match, call",
    [
        (ValueError, "LSTM: input: expected a 2D or 3D", lambda: nn.LSTM(4, 6)(X[0, 0])),
        (ValueError, "dtype float32.*astype", lambda: nn.LSTM(4, 6)(X.astype(np.float16))),
        (RuntimeError, "input_size=4", lambda: nn.GRU(4, 6)(X[..., :3])),
        (RuntimeError, "at least one time step", lambda: nn.GRU(4, 6)(X[:0])),
        (RuntimeError, "at least one time step", lambda: nn.GRU(4, 6, batch_first=True)(X[:, :0])),
        (RuntimeError, "hx.*3D for 3D", lambda: nn.RNN(4, 6)(X, _state(3, 6))),
        (RuntimeError, "hx.*2D for 2D", lambda: nn.RNN(4, 6)(X[0], _state(1, 3, 6))),
        (RuntimeError, r"\(1, 3, 6\), got \[1, 3, 5\]", lambda: nn.RNN(4, 6)(X, _state(1, 3, 5))),
        (RuntimeError, r"hx\[1\].*\(1, 3, 6\)", lambda: nn.LSTM(4, 6)(X, (_state(1, 3, 6), _state(1, 2, 6)))),
        (RuntimeError, "3D for 3D", lambda: nn.LSTM(4, 6)(X, (_state(1, 3, 6), _state(3, 6)))),
        (IndexError, "pair", lambda: nn.LSTM(4, 6)(X, _state(1, 3, 6))),
        (IndexError, "pair", lambda: nn.LSTM(4, 6)(X, (_state(1, 3, 6),))),
        (RuntimeError, "one dtype", lambda: nn.RNN(4, 6)(X, _state(1, 3, 6).astype(jnp.float16))),
        (RuntimeError, "hx", lambda: nn.GRU(4, 6)(pack_padded_sequence(X, [5, 3, 1]), _state(1, 2, 6))),
        (TypeError, "input", lambda: nn.RNN(4, 6)([1.0])),
        (ValueError, "RNNCell: input", lambda: nn.RNNCell(4, 6)(X)),
        (ValueError, "GRUCell: hx", lambda: nn.GRUCell(4, 6)(X[0], _state(1, 3, 6))),
        (RuntimeError, "nonlinearity", lambda: nn.RNNCell(4, 6, nonlinearity="foo")(X[0])),
        (RuntimeError, "hx", lambda: nn.LSTMCell(4, 6)(X[0], (_state(2, 6), _state(2, 6)))),
        (ValueError, "nonlinearity", lambda: nn.RNN(4, 6, nonlinearity="foo")),
        (ValueError, "proj_size.*only LSTM", lambda: nn.GRU(4, 6, proj_size=2)),  # type: ignore[call-arg]
        (TypeError, "unexpected", lambda: nn.RNN(4, 6, foo=2)),  # type: ignore[call-arg]
        (ValueError, "proj_size", lambda: nn.LSTM(4, 6, proj_size=6)),
        (ValueError, "mode", lambda: nn.RNNBase("FOO", 4, 6)),
        (ValueError, "dropout", lambda: nn.LSTM(4, 6, 2, dropout=True)),
        (ValueError, "dropout", lambda: nn.LSTM(4, 6, 2, dropout=1.5)),
        (TypeError, "bias", lambda: nn.LSTM(4, 6, 1, 1)),  # type: ignore[arg-type]
        (TypeError, "input_size", lambda: nn.LSTM(4.0, 6)),  # type: ignore[arg-type]
        (ValueError, "num_layers", lambda: nn.LSTM(4, 6, num_layers=0)),
        (NotImplementedError, "forward", lambda: nn.RNNBase("GRU", 4, 6)(X)),
    ],
)
def test_errors(error, match, call):
    with pytest.raises(error, match=match) as raised:
        call()
    assert raised.type is error
