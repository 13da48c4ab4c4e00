"""nn.utils: parameters_to_vector, the fusions, skip_init, stateless.functional_call, memory formats, names."""

import copy
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.boxes.homes import TraceLeakError
from jaxnn.utils import (
    fuse_conv_bn_eval,
    fuse_conv_bn_weights,
    fuse_linear_bn_eval,
    fuse_linear_bn_weights,
    parameters_to_vector,
    skip_init,
    stateless,
    vector_to_parameters,
)
from tests.utils.conftest import close


def model():
    return nn.Sequential(nn.Conv2d(3, 10, 5), nn.Linear(10, 20))


# -- vectors --------------------------------------------------------------------------------------------------------


def test_parameters_to_vector_is_torchs(twins, way):
    torch = pytest.importorskip("torch")
    theirs, ours = twins(lambda nn, utils: nn.Sequential(nn.Conv2d(3, 10, 5), nn.Linear(10, 20)))
    vector = way(lambda model: parameters_to_vector(model.parameters()))(ours)
    assert vector.shape == (980,)
    close(vector, torch.nn.utils.parameters_to_vector(theirs.parameters()), 0)


@pytest.mark.parametrize("jit", [nn.jit, lambda function: function])
def test_vector_to_parameters_and_back(jit):
    net = model()
    boxes = list(net.parameters())
    vector = jnp.arange(980.0)
    jit(lambda net, vector: vector_to_parameters(vector, net.parameters()))(net, vector)
    close(net[0].weight[0, 0, 0], np.arange(5), 0)
    assert all(a is b for a, b in zip(boxes, net.parameters()))
    close(parameters_to_vector(net.parameters()), vector, 0)
    vector_to_parameters(2 * vector, [layer.weight for layer in net])  # arrays just read reach their boxes
    close(net[1].weight.ravel()[:3], [1500, 1502, 1504], 0)


def test_gradients_flow_through_the_vector():
    net, x = nn.Linear(3, 2), jnp.ones((1, 3))

    def loss(vector, net):
        vector_to_parameters(vector, net.parameters())
        return (net(x) ** 2).sum()

    def by_tree(leaves):
        weight, bias = leaves
        return ((x @ weight.T + bias) ** 2).sum()

    grads = jax.grad(by_tree)((net.weight, net.bias))
    vector = parameters_to_vector(net.parameters())
    # Plain transforms work on the copy that the function is given.
    close(jax.grad(lambda vector: loss(vector, copy.deepcopy(net)))(vector), np.concatenate([g.ravel() for g in grads]))
    with pytest.raises(TraceLeakError):
        jax.grad(lambda vector: loss(vector, net))(vector)


def test_vector_errors():
    net = nn.Linear(3, 2)
    before = net.weight
    with pytest.raises(ValueError, match="at least one"):
        parameters_to_vector([])
    with pytest.raises(TypeError, match="vec"):
        vector_to_parameters([1.0] * 8, net.parameters())
    with pytest.raises(RuntimeError, match="at least 8"):
        vector_to_parameters(jnp.ones(7), net.parameters())
    with pytest.raises(TypeError, match="parameters"):
        vector_to_parameters(jnp.ones(3), [jnp.ones(3)])
    with pytest.raises(TypeError, match="parameters"):
        parameters_to_vector([3.0])
    assert net.weight is before
    vector_to_parameters(jnp.ones(100), net.parameters())  # as torch: the rest is not looked at


def test_vector_dtypes():
    assert parameters_to_vector([jnp.ones(2, jnp.float16), jnp.ones(2)]).dtype == jnp.float32
    net = nn.Linear(3, 2)
    vector_to_parameters(jnp.ones(8, jnp.bfloat16), net.parameters())
    assert net.weight.dtype == jnp.bfloat16


def test_vector_of_parameters_on_two_devices():
    if len(jax.devices()) < 2:
        pytest.skip("one device")
    first, second = (jax.device_put(jnp.ones(2), device) for device in jax.devices()[:2])
    with pytest.raises(TypeError, match="devices"):
        parameters_to_vector([first, second])


# -- fusion ---------------------------------------------------------------------------------------------------------

CONVOLUTIONS = {
    **{f"Conv{n}d": (lambda nn, n=n, **o: getattr(nn, f"Conv{n}d")(3, 4, 2, **o), n, False) for n in (1, 2, 3)},
    **{
        f"ConvTranspose{n}d": (lambda nn, n=n, **o: getattr(nn, f"ConvTranspose{n}d")(3, 4, 2, **o), n, True)
        for n in (1, 2, 3)
    },
}


def trained(bn, seed=0):
    """Give a BatchNorm, torch's or ours, statistics that say something."""
    rng = np.random.default_rng(seed)
    for name in ("running_mean", "running_var", "weight", "bias"):
        old = getattr(bn, name)
        if old is None:
            continue
        value = np.abs(rng.standard_normal(tuple(old.shape))).astype(np.float32) + 0.1
        if hasattr(old, "data_ptr"):
            import torch

            old.data.copy_(torch.from_numpy(value))
        else:
            setattr(bn, name, jnp.asarray(value))
    return bn.eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_fused_convolution_is_torchs_and_computes_both(twins, kind, bias, affine):
    torch = pytest.importorskip("torch")
    make, n, transpose = CONVOLUTIONS[kind]

    def build(nn, utils):
        return make(nn, bias=bias).eval(), trained(getattr(nn, f"BatchNorm{n}d")(4, affine=affine))

    (their_conv, their_bn), (conv, bn) = twins(build)
    their_fused = torch.nn.utils.fuse_conv_bn_eval(their_conv, their_bn, transpose)
    fused = fuse_conv_bn_eval(conv, bn, transpose)
    close(fused.weight, their_fused.weight)
    close(fused.bias, their_fused.bias)
    assert [p.requires_grad for p in fused.parameters()] == [p.requires_grad for p in their_fused.parameters()]
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3) + (4,) * n).astype(np.float32))
    for jit in (nn.jit, jax.jit, lambda function: function):
        close(jit(lambda fused, x: fused(x))(fused, x), bn(conv(x)))
    assert type(fused) is type(conv) and conv.bias is None or bias  # the original is untouched


@pytest.mark.parametrize("features", [5, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_fused_linear_is_torchs_and_computes_both(twins, bias, features):
    torch = pytest.importorskip("torch")

    def build(nn, utils):
        return nn.Linear(3, 5, bias=bias).eval(), trained(nn.BatchNorm1d(features))

    (their_linear, their_bn), (linear, bn) = twins(build)
    their_fused = torch.nn.utils.fuse_linear_bn_eval(their_linear, their_bn)
    fused = fuse_linear_bn_eval(linear, bn)
    close(fused.weight, their_fused.weight)
    close(fused.bias, their_fused.bias)
    assert [p.requires_grad for p in fused.parameters()] == [p.requires_grad for p in their_fused.parameters()]
    if features == 5:
        x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32))
        close(fused(x), bn(linear(x)))


@pytest.mark.parametrize("weight_grad", [True, False])
@pytest.mark.parametrize("bias_grad", [True, False])
@pytest.mark.parametrize("function", [fuse_conv_bn_weights, fuse_linear_bn_weights])
def test_fused_weights_require_gradients_where_theirs_do(function, weight_grad, bias_grad):
    layer, bn = (nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)) if function is fuse_conv_bn_weights else (
        nn.Linear(3, 3), nn.BatchNorm1d(3)
    )  # fmt: skip
    weight, bias = layer.parameters()
    weight.requires_grad, bias.requires_grad = weight_grad, bias_grad
    rest = bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    for given in ((weight, bias), (layer.weight, layer.bias)):  # boxes, or arrays just read
        fused = function(*given, *rest)
        assert [box.requires_grad for box in fused] == [weight_grad, bias_grad]
        assert all(isinstance(box, nn.Parameter) for box in fused)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_fusion_keeps_the_layers_dtype(dtype):
    conv, bn = nn.Conv2d(3, 4, 2).to(dtype).eval(), trained(nn.BatchNorm2d(4))
    fused = fuse_conv_bn_eval(conv, bn)
    assert fused.weight.dtype == fused.bias.dtype == dtype
    fused = fuse_linear_bn_eval(nn.Linear(3, 4).to(dtype).eval(), trained(nn.BatchNorm1d(4)))
    assert fused.weight.dtype == fused.bias.dtype == dtype


@pytest.mark.parametrize("fuse, layer", [(fuse_conv_bn_eval, nn.Conv1d), (fuse_linear_bn_eval, nn.Linear)])
def test_fusion_errors(fuse, layer):
    build = lambda: layer(3, 4, 1) if layer is nn.Conv1d else layer(3, 4)  # noqa: E731
    with pytest.raises(AssertionError, match="eval mode"):
        fuse(build(), nn.BatchNorm1d(4).eval())
    with pytest.raises(AssertionError, match="eval mode"):
        fuse(build().eval(), nn.BatchNorm1d(4))
    with pytest.raises(AssertionError, match="running statistics"):
        fuse(build().eval(), nn.BatchNorm1d(4, track_running_stats=False).eval())
    if layer is nn.Linear:
        with pytest.raises(AssertionError, match="num_features"):
            fuse(build().eval(), nn.BatchNorm1d(3).eval())


def test_fusion_of_layers_that_share_a_weight():
    shared = nn.Conv1d(3, 3, 1).eval()
    first, second = trained(nn.BatchNorm1d(3)), trained(nn.BatchNorm1d(3), seed=1)
    before = shared.weight
    fused = [fuse_conv_bn_eval(shared, bn) for bn in (first, second)]
    assert shared.weight is before and not np.array_equal(fused[0].weight, fused[1].weight)


# -- skip_init ------------------------------------------------------------------------------------------------------

SKIPPED = {
    "Linear": (5, 1),
    "Bilinear": (3, 4, 5),
    "Conv1d": (1, 1, 3),
    "Conv2d": (3, 3, 10),
    "Conv3d": (4, 4, 6),
    "ConvTranspose2d": (3, 3, 4),
    "Embedding": (3, 4),
    "EmbeddingBag": (3, 4),
    "BatchNorm2d": (3,),
    "InstanceNorm1d": (3, 1e-5, 0.1, True, True),
    "GroupNorm": (2, 4),
    "LayerNorm": (4,),
    "PReLU": (3,),
    "LSTM": (3, 4, 2),
    "GRUCell": (3, 4),
    "MultiheadAttention": (4, 2),
    "TransformerEncoderLayer": (4, 2, 8),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_skip_init_makes_the_same_module_without_a_draw(name):
    kind, args = getattr(nn, name), SKIPPED[name]
    before, key = nn.get_rng_state(), nn.default_generator.slot.value
    module = skip_init(kind, *args)
    np.testing.assert_array_equal(nn.get_rng_state(), before)
    assert nn.default_generator.slot.value is key
    usual = kind(*args)
    assert jax.tree.structure(module) == jax.tree.structure(usual)
    for mine, its in zip(jax.tree.leaves(module), jax.tree.leaves(usual), strict=True):
        assert mine.shape == its.shape and mine.dtype == its.dtype and isinstance(mine, jax.Array)
    module.load_state_dict(usual.state_dict())


def test_skip_init_runs_no_initialisation():
    class Counting(nn.Linear):
        drawn = 0

        def reset_parameters(self):
            super().reset_parameters()
            Counting.drawn += not isinstance(self.weight, jax.core.Tracer)

    layer = skip_init(Counting, 5, 1, dtype=jnp.bfloat16)
    assert Counting.drawn == 0 and layer.weight.dtype == jnp.bfloat16


def test_skip_init_on_a_device():
    device = jax.devices()[-1]
    assert skip_init(nn.Linear, 5, 1, device=device).weight.devices() == {device}


def test_skip_init_errors():
    class NoDevice(nn.Module):
        def __init__(self, n):
            super().__init__()

    with pytest.raises(RuntimeError, match="Module class"):
        skip_init(dict, a=1)
    with pytest.raises(RuntimeError, match="device"):
        skip_init(NoDevice, 3)


def test_skip_init_inside_jit():
    layer = nn.Linear(3, 2)

    @jax.jit
    def call(state, x):
        copy = skip_init(nn.Linear, 3, 2)
        copy.load_state_dict(state)
        return copy(x)

    close(call(dict(layer.state_dict()), jnp.ones((1, 3))), layer(jnp.ones((1, 3))))


# -- the rest -------------------------------------------------------------------------------------------------------


def test_stateless_functional_call(way):
    layer = nn.Linear(3, 3)
    state = {"weight": jnp.eye(3), "bias": jnp.ones(3)}
    with pytest.warns(FutureWarning, match="nn.functional_call"):
        out = stateless.functional_call(layer, state, jnp.ones((1, 3)))
    close(out, 2 * np.ones((1, 3)))
    assert not np.array_equal(layer.weight, np.eye(3))
    with pytest.warns(FutureWarning), pytest.raises(RuntimeError, match="missing"):
        stateless.functional_call(layer, {}, jnp.ones((1, 3)), strict=True)


@pytest.mark.parametrize(
    "convert", [nn.utils.convert_conv2d_weight_memory_format, nn.utils.convert_conv3d_weight_memory_format]
)
def test_memory_formats_mean_nothing(convert):
    net = model()
    weight = net[0].weight
    assert convert(net, "channels_last") is net and net[0].weight is weight


def test_names_are_torchs():
    theirs = pytest.importorskip("torch").nn.utils
    assert set(theirs.__all__) <= set(dir(nn.utils))
    for name in ("parametrize", "parametrizations", "stateless", "rnn", "prune"):
        module = importlib.import_module(f"torch.nn.utils.{name}")
        made_there = {
            key
            for key, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__ and not key.startswith("_")
        }
        names = set(getattr(module, "__all__", made_there))
        assert names and names <= set(dir(importlib.import_module(f"jaxnn.utils.{name}")))
