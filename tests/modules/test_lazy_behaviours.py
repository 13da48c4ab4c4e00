"""What PyTorch's test_lazy_modules.py checks, where tests/modules/test_lazy.py does not: lazy classes of the user's."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.modules.lazy import LazyModuleMixin
from tests.runners import call, every_runner


class Lazy(LazyModuleMixin):
    """A lazy class that infers nothing by itself."""


def uninitialized(kind):
    """A module with one box without a shape, of the given kind, and its name."""
    module = Lazy()
    if kind == "parameter":
        module.register_parameter("held", nn.UninitializedParameter())
    else:
        module.held = nn.UninitializedBuffer()
    return module


def ordinary(kind):
    module = Lazy()
    module.held = (nn.Parameter if kind == "parameter" else nn.Buffer)(jnp.ones((5, 5)))
    return module


kinds = pytest.mark.parametrize("kind", ["parameter", "buffer"])


@kinds
def test_boxes_without_a_shape_are_listed_saved_and_loaded(kind):
    module = uninitialized(kind)
    assert module.has_uninitialized_params()
    state = module.state_dict()
    assert isinstance(state["held"], (nn.UninitializedParameter, nn.UninitializedBuffer))
    with pytest.raises(RuntimeError, match="no array for it yet"):
        ordinary(kind).load_state_dict(state)
    module.load_state_dict(uninitialized(kind).state_dict())
    assert module.has_uninitialized_params()
    module.load_state_dict(ordinary(kind).state_dict())
    assert not module.has_uninitialized_params() and np.all(module.held == 1)
    assert (
        type(next(iter((*module.parameters(), *module.buffers()))))
        is {
            "parameter": nn.Parameter,
            "buffer": nn.Buffer,
        }[kind]
    )


@kinds
def test_share_memory_and_compilation_of_boxes_without_a_shape(kind):
    with pytest.raises(NotImplementedError, match="share_memory"):
        uninitialized(kind).share_memory()
    twin = jax.tree.map(lambda array: array, uninitialized(kind))  # a pytree all the same
    assert twin.has_uninitialized_params() and copy.deepcopy(twin).has_uninitialized_params()
    assert pickle.loads(pickle.dumps(twin)).has_uninitialized_params()


@kinds
def test_a_shape_comes_with_the_dtype_and_device_that_the_module_has_by_then(kind):
    module = uninitialized(kind)
    (*module.parameters(), *module.buffers())[0].materialize((10,))
    assert module.held.shape == (10,) and module.held.dtype == jnp.float32
    module = uninitialized(kind).half()
    (*module.parameters(), *module.buffers())[0].materialize(10)
    assert module.held.shape == (10,) and module.held.dtype == jnp.float16
    module = uninitialized(kind)
    (*module.parameters(), *module.buffers())[0].materialize((10,), device=jax.devices()[1], dtype=jnp.bfloat16)
    assert module.held.sharding.device_set == {jax.devices()[1]} and module.held.dtype == jnp.bfloat16
    module = uninitialized(kind).to(jax.devices()[1])
    (*module.parameters(), *module.buffers())[0].materialize((10,))
    assert module.held.sharding.device_set == {jax.devices()[1]}


@pytest.mark.parametrize("way", [lambda d: nn.LazyLinear(2).to(d), lambda d: nn.LazyLinear(2, device=d)])
def test_a_lazy_layer_is_made_where_it_was_moved_to(way):
    device = jax.devices()[1]
    layer = way(device)
    assert layer(jax.device_put(jnp.ones((1, 3)), device)).devices() == {device} == layer.weight.devices()


def test_arithmetic_on_what_has_no_shape_is_refused():
    held = uninitialized("parameter").held
    for bad in (lambda: held + held, lambda: jnp.zeros_like(held), lambda: jnp.add(held, held), lambda: held.shape):
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            bad()


class Echo(LazyModuleMixin):
    def initialize_parameters(self, input):
        pass

    def forward(self, input):
        return input


@every_runner
@pytest.mark.parametrize("kind", ["forward", "forward_pre"])
def test_hooks_of_lazy_modules_replace_input_and_output(run, kind):
    module = Echo()
    getattr(module, f"register_{kind}_hook")(lambda module, args, *out: args[0] + 1)
    np.testing.assert_array_equal(run.wrap(call)(module, jnp.zeros((2, 2))), np.ones((2, 2)))


class Scale(LazyModuleMixin):
    """A lazy class of a user's, with a pre-hook's input in what it infers."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.UninitializedParameter(), nn.UninitializedBuffer()

    def initialize_parameters(self, x, *, factor=1.0):
        if self.has_uninitialized_params():
            self._parameters["weight"].materialize(x.shape[-1:])
            self._buffers["seen"].materialize(())
            nn.init.constant_(self.weight, 2.0 * factor)
            nn.init.zeros_(self.seen)

    def forward(self, x, *, factor=1.0):
        self.seen = self.seen + 1
        return x * self.weight


@pytest.mark.parametrize("wrap", [lambda f: f, nn.jit], ids=["eager", "nn.jit"])
def test_a_users_lazy_class_infers_from_positional_and_keyword_arguments(wrap):
    model = nn.Sequential(nn.Linear(3, 4), Scale())
    function = wrap(lambda m, x: m[1](m[0](x), factor=1.5))
    for number in (1, 2):
        np.testing.assert_allclose(function(model, jnp.ones((2, 3))), model[0](jnp.ones((2, 3))) * 3, rtol=1e-6)
        assert model[1].weight.shape == (4,) and float(model[1].seen) == number
    assert type(model[1]) is Scale and not model[1].has_uninitialized_params()  # it names no class to become


def test_a_lazy_class_that_leaves_something_open_says_so():
    class Half(Scale):
        def initialize_parameters(self, x):
            self._parameters["weight"].materialize((3,))

    with pytest.raises(RuntimeError, match="has not been fully initialized"):
        Half()(jnp.ones((1, 3)))
    with pytest.raises(NotImplementedError, match="initialize_parameters"):
        uninitialized("buffer")(jnp.ones(1))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_norms_infer_from_a_keyword_argument(rank):
    x = np.random.default_rng(0).normal(size=(2, 3, *(4,) * rank)).astype(np.float32)
    lazy, plain = getattr(nn, f"LazyBatchNorm{rank}d")(), getattr(nn, f"BatchNorm{rank}d")(3)
    np.testing.assert_array_equal(lazy(input=jnp.asarray(x)), plain(input=jnp.asarray(x)))
    assert type(lazy) is type(plain)


def test_a_lazy_layer_takes_the_weights_of_an_ordinary_one_and_computes_the_same():
    for ordinary, lazy, x in (
        (nn.Linear(5, 10), nn.LazyLinear(10), jnp.ones((2, 5))),
        (nn.Conv2d(3, 4, 3, padding=1), nn.LazyConv2d(4, 3, padding=1), jnp.ones((1, 3, 8, 8))),
        (nn.ConvTranspose2d(3, 4, 3), nn.LazyConvTranspose2d(4, 3), jnp.ones((1, 3, 8, 8))),
        (nn.BatchNorm2d(3).eval(), nn.LazyBatchNorm2d().eval(), jnp.ones((1, 3, 8, 8))),
    ):
        lazy.load_state_dict(ordinary.state_dict())
        np.testing.assert_array_equal(lazy(x), ordinary(x))
        assert type(lazy) is type(ordinary) and repr(lazy) == repr(ordinary)


@pytest.mark.parametrize("rank, wrap", [(1, nn.jit), *((rank, lambda f: f) for rank in (1, 2, 3))])
def test_a_transposed_convolution_takes_an_output_size_at_its_first_call(rank, wrap):
    lazy = getattr(nn, f"LazyConvTranspose{rank}d")(4, 3, stride=2)
    sizes = (10, 9, 10)[:rank]
    call = wrap(lambda m, x: m(x, output_size=sizes))
    for _ in range(2):
        assert call(lazy, jnp.ones((2, 3, *(4,) * rank))).shape == (2, 4, *sizes)
    assert type(lazy) is getattr(nn, f"ConvTranspose{rank}d") and lazy.weight.shape == (3, 4, *(3,) * rank)


@pytest.mark.parametrize("kind", ["BatchNorm", "InstanceNorm"])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("track", [False, True])
def test_norms_with_and_without_parameters_and_statistics(kind, affine, track):
    x = jnp.arange(48.0).reshape(2, 3, 8)
    options = {"affine": affine, "track_running_stats": track}
    lazy, plain = getattr(nn, f"Lazy{kind}1d")(**options), getattr(nn, f"{kind}1d")(3, **options)
    boxes = [*lazy.parameters(), *(box for name, box in lazy.named_buffers() if name != "num_batches_tracked")]
    assert len(boxes) == 2 * affine + 2 * track and all(box.is_lazy for box in boxes)
    loaded = pickle.loads(pickle.dumps(lazy))
    loaded.load_state_dict(plain.state_dict())
    assert not loaded.has_uninitialized_params() and loaded.num_features == 0  # until the first call, as in torch
    np.testing.assert_array_equal(loaded(x), copy.deepcopy(plain)(x))
    assert type(loaded) is type(plain) and loaded.num_features == 3
    np.testing.assert_array_equal(lazy(x), plain(x))
    assert type(lazy) is type(plain) and repr(lazy) == repr(plain)
    for key, value in plain.state_dict().items():
        np.testing.assert_array_equal(lazy.state_dict()[key], value)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])
def test_optimizers_hold_boxes_that_get_their_shape_later(name):
    # torch: Adagrad refuses, because it makes its sums at once; here they are made at the first step.
    module = uninitialized("parameter")
    optimizer = getattr(nn.optim, name)(module.parameters(), lr=0.1)
    box = next(module.parameters())
    box.materialize((3,))
    box.value = jnp.ones(3)
    optimizer.step(module, {"held": jnp.ones(3)})
    assert np.all(module.held < 1)
