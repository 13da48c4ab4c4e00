"""Writing into what a module owns, filling what none owns, dtypes, dispatch, and names without a counterpart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import tensor as T


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(jnp.ones((2, 3)))
        self.register_buffer("seen", jnp.zeros(3))
        self.cache = jnp.zeros(3)


def test_a_write_reaches_parameter_buffer_and_attribute():
    model = Model()
    read = T.write(model.weight, 5, index=0)
    assert model.weight.tolist() == [[5, 5, 5], [1, 1, 1]] and read is model.weight
    read = T.write(read, read * 2)  # what came back is still owned
    assert model.weight.tolist() == [[10, 10, 10], [2, 2, 2]] == read.tolist()
    T.write(model.seen, jnp.arange(3))
    T.write(model.cache, -1.0, (slice(1, None),))
    assert model.seen.tolist() == [0, 1, 2] and model.seen.dtype == jnp.float32 and model.cache.tolist() == [0, -1, -1]
    box = model.get_parameter("weight")
    assert T.write(box, 0) is box and not model.weight.any()


def test_a_write_inside_compiled_code_comes_out():
    model = Model()

    @nn.jit
    def step(model):
        T.write(model.seen, model.seen + 1)

    step(model), step(model)
    assert model.seen.tolist() == [2, 2, 2]


def test_a_write_to_what_no_module_owns_is_refused():
    model = Model()
    for plain in (jnp.zeros(3), model.weight + 0, np.zeros(3)):
        with pytest.raises(TypeError, match=r"no module owns. Arrays do not change in place"):
            T.write(plain, 1.0)
    with pytest.raises(IndexError):
        T.write(model.weight, 1.0, 7)
    assert model.weight.tolist() == [[1, 1, 1], [1, 1, 1]]


def _own_init(tensor):
    T.write(tensor, 2.0)
    return nn.init.normal_(tensor, std=0.5)


def test_filled_gives_torchs_numbers_and_writes_nothing():
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    nn.manual_seed(0), torch.manual_seed(0)
    ours = T.filled(nn.init.kaiming_uniform_, jnp.zeros((4, 5)), a=5**0.5)
    theirs = torch.nn.init.kaiming_uniform_(torch.empty(4, 5), a=5**0.5)
    np.testing.assert_array_equal(np.asarray(ours), theirs.numpy())
    assert T.filled(_own_init, (4, 5)).shape == (4, 5)
    model = Model()
    assert not T.filled(nn.init.zeros_, model.weight).any() and model.weight.all()  # nothing is written
    weight = T.write(model.weight, T.filled(nn.init.constant_, model.weight, 3.0) * 2)
    assert weight is model.weight and model.weight[0, 0] == 6
    assert not T.filled(nn.init.zeros_, model.get_parameter("weight")).any() and model.weight.all()
    weight = nn.Parameter(T.filled(nn.init.ones_, (2,)))
    assert weight.tolist() == [1, 1]
    with pytest.raises(TypeError, match="an array or a shape"):
        T.filled(nn.init.ones_, "3")


def test_init_of_an_array_that_no_module_owns_names_the_way_out():
    with pytest.raises(TypeError, match=r"filled\(nn.init.normal_, array"):
        nn.init.normal_(jnp.zeros(3))


def test_to():
    x, layer = jnp.zeros(2), nn.Linear(2, 2)
    assert T.to(x, "cuda:0", jnp.float16).dtype == jnp.float16 and T.to(x, dtype=np.int32).dtype == jnp.int32
    assert (
        T.to(x, other=jnp.zeros(1, jnp.int32)).dtype == jnp.int32
        and T.to(x, layer.get_parameter("weight")).dtype == x.dtype
    )
    assert T.to(layer, jnp.bfloat16) is layer and layer.weight.dtype == jnp.bfloat16
    with pytest.raises(TypeError, match="64-bit mode"):
        T.to(x, jnp.float64)


def test_dispatch_takes_torchs_methods_of_arrays_and_all_others_as_they_are():
    x = jnp.arange(6.0).reshape(2, 3)
    assert [piece.shape for piece in T.dispatch(x, "split")(2, dim=1)] == [(2, 2), (2, 1)]
    assert T.dispatch("a b", "split")(" ") == ["a", "b"] and T.dispatch([1, 2], "index")(2) == 1
    assert T.dispatch(x, "transpose")(0, 1).shape == (3, 2)
    assert T.dispatch(x, "repeat")(2, 1).shape == (4, 3) and T.dispatch(x, "std")(1).tolist() == [1, 1]
    assert T.dispatch(x, "max")(1).indices.tolist() == [2, 2] and T.dispatch(x, "size")(0) == 2
    assert T.dispatch(x.shape, "numel")() == 6 and T.dispatch(nn.Linear(2, 3), "eval")().training is False
    names = {"a"}
    T.dispatch(names, "add")("b")
    assert names == {"a", "b"} and T.dispatch(x, "add")(x, alpha=2)[0, 1] == 3


def test_dispatch_in_place_reaches_the_box_or_is_refused():
    model = Model()
    assert T.dispatch(model.weight, "mul_")(3) is model.weight and model.weight[0, 0] == 3
    with pytest.raises(T.NotPorted, match="does not change in place"):
        T.dispatch(jnp.zeros(3), "mul_")(3)
    with pytest.raises(T.NotPorted, match="no method 'cholesky_inverse'"):
        T.dispatch(jnp.zeros(3), "cholesky_inverse")


def test_what_has_no_counterpart_fails_when_used():
    stream = T.not_ported("torch.cuda.Stream", "model.py:12")
    inner = stream.current
    assert stream is not None and not isinstance(3, stream) and "torch.cuda.Stream" in repr(stream)
    for use in (inner, lambda: stream + 1, lambda: [*stream], lambda: bool(stream), lambda: stream[0]):
        with pytest.raises(T.NotPorted, match=r"torch.cuda.Stream.*reached from model.py:12"):
            use()

    class Function(T.not_ported("torch.autograd.Function")):
        scale = 3

    @T.not_ported("torch.jit.script").decorator
    def scripted(x):
        return x

    assert Function.scale == 3
    for use in (Function, lambda: scripted(1)):
        with pytest.raises(T.NotPorted, match="torch"):
            use()


BAD = [
    (lambda x: T.split(x, [1]), RuntimeError, "sizes that add up to 2"),
    (lambda x: T.split(x, 2, 5), IndexError, "dim: expected a dimension from -2 to 1, got 5"),
    (lambda x: T.chunk(x, 0), RuntimeError, "chunks: expected a positive int, got 0"),
    (lambda x: T.expand(x, -1, 2, 3), RuntimeError, "sizes"),
    (lambda x: T.expand(x, 2, 4), RuntimeError, "-1 or 3 at place 1"),
    (lambda x: T.unfold(x, 1, 4, 1), RuntimeError, "size: expected a size from 0 to 3"),
    (lambda x: T.unflatten(x, 1, (2, -1)), RuntimeError, "sizes whose product is 3"),
    (lambda x: T.topk(x, 4), RuntimeError, "k: expected at most"),
    (lambda x: T.max(jnp.zeros((2, 0)), 1), IndexError, "elements along dimension 1"),
    (lambda x: T.norm(x.astype(int)), RuntimeError, "norm: x: expected floating or complex numbers"),
    (lambda x: T.cdist(x, x[:, :2]), RuntimeError, r"\(2, 3\) and \(2, 2\)"),
    (lambda x: T.gather(x, 1, jnp.array([[3]])), IndexError, "indices from 0 to 2, got 3"),
    (lambda x: T.gather(x, 1, jnp.array([[-1]])), IndexError, "indices from 0 to 2, got -1"),
    (lambda x: T.gather(x, 1, jnp.array([[0.0]])), RuntimeError, "index: expected integers"),
    (lambda x: T.scatter(x, 1, jnp.array([0]), 1.0), RuntimeError, "as many dimensions as x, 2"),
    (lambda x: T.scatter(x, 1, jnp.array([[0]]), 1.0, reduce="mean"), RuntimeError, "reduce: expected one of"),
    (lambda x: T.index_add(x, 0, jnp.array([2]), x[:1]), IndexError, "indices from 0 to 1, got 2"),
    (lambda x: T.masked_scatter(x, x == 0, jnp.zeros(2)), RuntimeError, "an element for each True of mask, 6"),
    (lambda x: T.stft(x, 2), RuntimeError, "return_complex: expected True or False"),
    (lambda x: T.istft(x, 4), RuntimeError, "a complex array"),
]


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_as_torch_does(case):
    call, error, says = case
    with pytest.raises(error, match=says):
        call(jnp.zeros((2, 3)))


def test_an_index_out_of_range_is_nan_under_jit_and_never_another_element():
    x = jnp.arange(6.0).reshape(2, 3)
    for index in (7, -1):
        found = jax.jit(lambda i: T.gather(x, 1, i))(jnp.array([[index, 1]]))
        assert jnp.isnan(found[0, 0]) and found[0, 1] == 1
        for function in (T.scatter, T.scatter_add):
            assert jnp.isnan(jax.jit(lambda i, f=function: f(x, 1, i, jnp.ones((1, 1))))(jnp.array([[index]]))).all()
        assert jnp.isnan(jax.jit(lambda i: T.index_add(x, 1, i, jnp.ones((2, 1))))(jnp.array([index]))).all()


def test_view_of_a_dtype_is_torchs():
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    values = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    for name in ("int32", "float16", "int8", "complex64", "bfloat16", "float32"):
        ours = T.view(jnp.asarray(values), getattr(jnp, name))
        theirs = torch.from_numpy(values).view(getattr(torch, name))
        assert ours.shape == tuple(theirs.shape)
        back = theirs.contiguous().view(torch.uint8).numpy()
        assert np.asarray(ours).tobytes() == back.tobytes()
    complex_values = torch.randn(2, 3, dtype=torch.complex64)
    ours = T.view(jnp.asarray(complex_values.numpy()), jnp.float32)
    np.testing.assert_array_equal(np.asarray(ours), complex_values.view(torch.float32).numpy())


def test_nan_and_ties_are_where_torch_has_them():
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    values = np.array([[2.0, np.nan, 5.0], [1.0, 1.0, 0.0]], np.float32)
    x, t = jnp.asarray(values), torch.from_numpy(values)
    for call in (
        lambda m, v: m.max(v, 1), lambda m, v: m.min(v, 1), lambda m, v: m.topk(v, 2, 1), lambda m, v: m.median(v, 1),
        lambda m, v: m.sort(v, 1, True), lambda m, v: m.topk(v, 2, 1, False),
    ):  # fmt: skip
        np.testing.assert_array_equal(np.asarray(call(T, x)[0]), call(torch, t)[0].numpy())
    assert jnp.isnan(T.median(x)) and bool(torch.isnan(torch.median(t)))


def test_numbers_without_dimensions_pass():
    x, zero = jnp.asarray(3.0), jnp.zeros((), int)
    assert T.sort(x).values == 3 == T.max(x, 0).values and T.topk(x, 1).indices == 0 and T.median(x, 0).values == 3
    assert T.squeeze(x, 0).shape == () and T.gather(x, 0, zero) == 3 and T.scatter(x, 0, zero, 1.0) == 1
    assert T.norm(x) == 3 and T.index_fill(x, 0, zero, 2) == 2 and T.index_add(x, 0, zero, x) == 6


def _normed(kind):
    return kind(nn.Linear(3, 2)) if kind is not nn.utils.prune.identity else kind(nn.Linear(3, 2), "weight")


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize(
    "kind",
    [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm, nn.utils.prune.identity],
)
def test_a_computed_weight_takes_init_and_writes_without_effect_as_in_torch(kind):
    layer = _normed(kind)
    before = {name: np.asarray(value) for name, value in layer.state_dict().items()}
    position = nn.rand(1)
    nn.manual_seed(1)
    drawn = nn.init.normal_(layer.weight)
    after = nn.rand(1)
    nn.manual_seed(1)
    assert (
        drawn.tolist() == nn.randn(2, 3).tolist() and after == nn.rand(1) and after != position
    )  # the stream moved on
    assert T.write(layer.weight, 0.0).tolist() == [[0, 0, 0]] * 2
    T.filled(nn.init.zeros_, layer.weight)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(np.asarray(value), before[name])
    with pytest.raises(TypeError, match="no module owns"):
        nn.init.normal_(layer.weight + 0)
