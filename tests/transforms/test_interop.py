"""Every layer under other people's tools: exports with a symbol for the batch, plain checkpoint policies, jet, sparsify."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import jet, sparse

import jaxnn as nn

RNG = np.random.default_rng(0)
VECTOR, LINE, PLANE, VOLUME, TOKENS = (6,), (4, 9), (4, 8, 8), (4, 4, 4, 4), (5, 8)


def _spatial(kind, *args, **options):
    """Three cases of a class that comes in one, two and three dimensions."""
    return {f"{kind}{rank}d": (args, options, shape) for rank, shape in ((1, LINE), (2, PLANE), (3, VOLUME))}


def _plain(shape, *names):
    return {name: ((), {}, shape) for name in names}


# Class: its arguments, and the shape of an input without the batch.
LAYERS = {
    **_plain(VECTOR, "ELU", "Hardshrink", "Hardsigmoid", "Hardtanh", "Hardswish", "LeakyReLU", "LogSigmoid", "PReLU"),
    **_plain(VECTOR, "ReLU", "ReLU6", "RReLU", "SELU", "CELU", "GELU", "GLU", "Sigmoid", "SiLU", "Mish", "Softplus"),
    **_plain(VECTOR, "Softshrink", "Softsign", "Tanh", "Tanhshrink", "Identity", "Flatten", "Dropout", "AlphaDropout"),
    **_plain(LINE, "Dropout1d"),
    **_plain(PLANE, "Dropout2d", "FeatureAlphaDropout", "Softmax2d"),
    **_plain(VOLUME, "Dropout3d"),
    "Threshold": ((0.1, 20), {}, VECTOR),
    "Softmax": ((-1,), {}, VECTOR),
    "Softmin": ((-1,), {}, VECTOR),
    "LogSoftmax": ((-1,), {}, VECTOR),
    "Linear": ((6, 5), {}, VECTOR),
    **_spatial("Conv", 4, 6, 3, padding=1),
    **_spatial("ConvTranspose", 4, 6, 3, stride=2),
    **_spatial("MaxPool", 2),
    **_spatial("AvgPool", 2),
    **_spatial("LPPool", 2, 2),
    **_spatial("AdaptiveMaxPool", 2),
    **_spatial("AdaptiveAvgPool", 2),
    **_spatial("BatchNorm", 4),
    **_spatial("InstanceNorm", 4, affine=True),
    **_spatial("ReflectionPad", 1),
    **_spatial("ReplicationPad", 1),
    **_spatial("ZeroPad", 1),
    **_spatial("ConstantPad", 1, 0.5),
    **_spatial("CircularPad", 1),
    "GroupNorm": ((2, 4), {}, PLANE),
    "LayerNorm": ((8,), {}, TOKENS),
    "RMSNorm": ((8,), {}, TOKENS),
    "LocalResponseNorm": ((2,), {}, PLANE),
    "CrossMapLRN2d": ((2,), {}, PLANE),
    "Upsample": ((), {"scale_factor": 2, "mode": "bilinear"}, PLANE),
    "UpsamplingNearest2d": ((), {"scale_factor": 2}, PLANE),
    "UpsamplingBilinear2d": ((), {"scale_factor": 2}, PLANE),
    "PixelShuffle": ((2,), {}, PLANE),
    "PixelUnshuffle": ((2,), {}, PLANE),
    "ChannelShuffle": ((2,), {}, PLANE),
    "Unfold": ((3,), {}, PLANE),
    "Fold": (((4, 4), 2), {}, (8, 9)),
    "Unflatten": ((1, (2, 3)), {}, VECTOR),
    "RNN": ((8, 6), {"batch_first": True}, TOKENS),
    "LSTM": ((8, 6), {"batch_first": True}, TOKENS),
    "GRU": ((8, 6), {"batch_first": True, "bidirectional": True}, TOKENS),
    "RNNCell": ((6, 5), {}, VECTOR),
    "LSTMCell": ((6, 5), {}, VECTOR),
    "GRUCell": ((6, 5), {}, VECTOR),
    "TransformerEncoderLayer": ((8, 2, 16), {"batch_first": True}, TOKENS),
}


def _rows(batch, *shape):
    return jnp.asarray(RNG.uniform(0.2, 0.9, (batch, *shape)), jnp.float32)


def _signs(batch):
    return jnp.asarray(RNG.choice([-1.0, 1.0], (batch,)), jnp.float32)


def _classes(batch):
    return jnp.asarray(RNG.integers(0, 5, (batch,)), jnp.int32)


_PAIR = lambda batch: (_rows(batch, 5), _rows(batch, 5))  # noqa: E731
_SCORES = lambda batch: (_rows(batch, 5), _classes(batch))  # noqa: E731
_TRIPLE = lambda batch: (*_PAIR(batch), _rows(batch, 5))  # noqa: E731
# Loss: what it is given for a batch of so many.
LOSSES = {
    **dict.fromkeys(
        ("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss", "KLDivLoss", "BCELoss"), _PAIR
    ),
    **dict.fromkeys(("BCEWithLogitsLoss", "SoftMarginLoss", "MultiLabelSoftMarginLoss"), _PAIR),
    **dict.fromkeys(("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss"), _SCORES),
    **dict.fromkeys(("GaussianNLLLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss"), _TRIPLE),
    "MultiLabelMarginLoss": lambda batch: (_rows(batch, 5), jnp.tile(jnp.array([[1, 3, -1, 0, 0]]), (batch, 1))),
    "HingeEmbeddingLoss": lambda batch: (_rows(batch), _signs(batch)),
    "CosineEmbeddingLoss": lambda batch: (*_PAIR(batch), _signs(batch)),
    "MarginRankingLoss": lambda batch: (_rows(batch), _rows(batch), _signs(batch)),
}
# What takes other inputs than one floating array; tests of their own.
OTHERS = {
    "AdaptiveLogSoftmaxWithLoss", "Bilinear", "CosineSimilarity", "Embedding", "EmbeddingBag", "FractionalMaxPool2d",
    "FractionalMaxPool3d", "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "MultiheadAttention", "PairwiseDistance",
    "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "DataParallel", "Sequential",
    "ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Module", "Container", "SyncBatchNorm", "RNNBase",
    "RNNCellBase", "CTCLoss", "LinearCrossEntropyLoss", "NLLLoss2d",
    }  # fmt: skip
# How JAX's own jet fails with a custom_jvp function: on 0.10, on 0.12.
JET_FAILS = (jax.errors.UnexpectedTracerError, AttributeError)
every_layer = pytest.mark.parametrize("name", LAYERS)


def _made(name):
    args, options, shape = LAYERS[name]
    nn.manual_seed(0)
    model = getattr(nn, name)(*args, **options).eval()
    return model, shape


def _x(batch, shape):
    return jnp.asarray(RNG.uniform(0.2, 1.0, (batch, *shape)), jnp.float32)


def _same(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), got, want)


def test_no_class_is_left_out():
    known = LAYERS.keys() | LOSSES.keys() | OTHERS
    classes = [
        name
        for name in dir(nn)
        if inspect.isclass(getattr(nn, name, None)) and issubclass(getattr(nn, name), nn.Module)
    ]
    left = [name for name in classes if name not in known and not name.startswith("Lazy")]
    assert left == []


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_under_other_tools(name):
    """Exported with a symbol for the batch, under plain checkpoint, linearized, and compiled ahead of time."""
    options = {"reduction": "batchmean"} if name == "KLDivLoss" else {}  # its mean warns
    loss, made = getattr(nn, name)(**options), LOSSES[name]
    (batch,) = export.symbolic_shape("batch")
    types = [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in made(3)]
    both = jax.value_and_grad(lambda *given: loss(*given))
    exported = export.deserialize(export.export(jax.jit(both))(*types).serialize())
    for count in (1, 4, 11):
        given = made(count)
        _same(exported.call(*given), both(*given))
    first, *rest = made(3)
    value, gradient = both(first, *rest)
    policy = jax.checkpoint_policies.dots_saveable
    saved = jax.checkpoint(lambda first: loss(first, *rest), policy=policy)
    _same(jax.grad(saved)(first), gradient)
    found, push = jax.linearize(lambda first: loss(first, *rest), first)
    _same((found, push(first)), (value, jnp.vdot(gradient, first)))
    _same(nn.jit(lambda loss, *given: loss(*given)).lower(loss, first, *rest).compile()(loss, first, *rest), value)


@every_layer
def test_an_export_takes_batches_of_any_size_and_a_module_like_its_own(name):
    model, shape = _made(name)
    (batch,) = export.symbolic_shape("batch")
    spec = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    exported = export.export(jax.jit(lambda model, x: model(x)))(model, spec)
    back = export.deserialize(exported.serialize())
    other, _ = _made(name)
    other.load_state_dict({key: value * 2 for key, value in model.state_dict().items()})
    for count in (1, 3):
        x = _x(count, shape)
        _same(back.call(other, x), other(x))


def _tokens(*shape):
    return jnp.asarray(RNG.integers(0, 5, shape), jnp.int32)


def _masked(module):
    return lambda x, hidden: module(x, x, x, key_padding_mask=hidden, need_weights=False)[0]


# Layers over sequences, and inputs of a batch and a length.
SEQUENCES = {
    "Embedding": (lambda: nn.Embedding(6, 4, padding_idx=0), lambda b, t: (_tokens(b, t),)),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(6, 4), lambda b, t: (_tokens(b, t),)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, padding="same", dilation=2), lambda b, t: (_x(b, (4, t)),)),
    "Conv1d grouped": (lambda: nn.Conv1d(4, 8, 3, stride=2, padding=1, groups=4), lambda b, t: (_x(b, (4, t)),)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), lambda b, t: (_x(b, (4, t)),)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), lambda b, t: (_x(b, (4, t)),)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), lambda b, t: (_x(b, (4, t)),)),
    "LayerNorm": (lambda: nn.LayerNorm(8), lambda b, t: (_x(b, (t, 8)),)),
    "LSTM": (lambda: nn.LSTM(8, 6, batch_first=True, bidirectional=True), lambda b, t: (_x(b, (t, 8)),)),
    "GRU": (lambda: nn.GRU(8, 6, batch_first=True), lambda b, t: (_x(b, (t, 8)),)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), lambda b, t: (_x(b, (t, 8)),) * 3),
    "hidden keys": (
        lambda: _masked(nn.MultiheadAttention(8, 2, batch_first=True).eval()),
        lambda b, t: (_x(b, (t, 8)), jnp.zeros((b, t), bool)),
    ),
    "causal": (
        lambda: lambda q: nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True),
        lambda b, t: (_x(b, (2, t, 8)),),
    ),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        lambda b, t: (_x(b, (t, 8)),),
    ),
    "Transformer": (lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True), lambda b, t: (_x(b, (t, 8)),) * 2),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_an_export_takes_sequences_of_any_length(name):
    make, inputs = SEQUENCES[name]
    model = make()
    model = model.eval() if isinstance(model, nn.Module) else model
    batch, length = export.symbolic_shape("batch, length", constraints=["length >= 4"])
    symbols = {(3, 5): batch, (7, 9): length}
    specs = [
        jax.ShapeDtypeStruct(tuple(symbols.get(pair, pair[0]) for pair in zip(a.shape, b.shape)), a.dtype)
        for a, b in zip(inputs(3, 7), inputs(5, 9))
    ]
    exported = export.export(jax.jit(lambda *args: model(*args)))(*specs)
    for count, steps in ((1, 5), (2, 12)):
        args = inputs(count, steps)
        _same(exported.call(*args), model(*args))


class _Net(nn.Module):
    def __init__(self, factor=2.0, activation=nn.functional.relu):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.factor, self.activation, self.sizes = factor, activation, [3, 4]

    def forward(self, x):
        return self.activation(self.layers(x)) * self.factor


_LOADING = """
import sys, jax, jax.export, jax.numpy as jnp, numpy as np, jaxnn as nn
from tests.transforms.test_interop import _Net
step = jax.export.deserialize(open(sys.argv[1], "rb").read())
model = _Net()
model.load_state_dict(nn.load(sys.argv[2]))
after, result = step.call(model, jnp.ones((5, 3)))
assert isinstance(after, _Net) and int(after.layers[1].num_batches_tracked) == 1
np.save(sys.argv[3], result)
"""


def test_an_exported_program_is_called_with_a_module_in_another_process(tmp_path):
    model = _Net()
    (batch,) = export.symbolic_shape("batch", constraints=["batch >= 2"])  # of one, BatchNorm knows no variance
    spec = jax.ShapeDtypeStruct((batch, 3), jnp.float32)
    exported = export.export(jax.jit(lambda model, x: (model, model(x))))(model, spec)
    (tmp_path / "step").write_bytes(exported.serialize())
    nn.save(model.state_dict(), tmp_path / "weights.safetensors")
    files = [str(tmp_path / name) for name in ("step", "weights.safetensors", "result.npy")]
    subprocess.run([sys.executable, "-c", _LOADING, *files], check=True, timeout=200, cwd=Path(__file__).parents[2])
    _same(np.load(files[2]), model(jnp.ones((5, 3))))


def test_an_exported_program_knows_a_module_of_another_structure():
    x = jnp.ones((5, 3))
    data = export.export(jax.jit(lambda model, x: model(x)))(_Net(), x).serialize()
    again = export.deserialize(data)
    assert export.deserialize(again.serialize()).in_tree == again.in_tree
    for other in (_Net(3.0), _Net(activation=nn.functional.gelu), _Net().eval(), nn.Linear(3, 4)):
        with pytest.raises(ValueError, match="same pytree structure"):
            again.call(other, x)
    longer = _Net()
    longer.sizes.append(5)
    with pytest.raises(ValueError, match="same pytree structure"):
        again.call(longer, x)
    with pytest.raises(ValueError, match="no name by which another process knows it"):
        export.export(jax.jit(lambda model, x: model(x)))(_Net(activation=lambda x: x), x).serialize()


@every_layer
def test_gradients_under_each_policy_of_plain_checkpoint(name):
    model, shape = _made(name)
    x = _x(2, shape)

    def loss(x):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(model(x)))

    want = jax.jit(jax.grad(loss))(x)
    policies = jax.checkpoint_policies
    for policy in (policies.everything_saveable, policies.nothing_saveable, policies.dots_saveable):
        _same(jax.jit(jax.grad(jax.checkpoint(loss, policy=policy)))(x), want)


@every_layer
def test_linearize_and_custom_batching(name):
    model, shape = _made(name)
    x, t = _x(2, shape), _x(2, shape)
    if name == "CrossMapLRN2d":
        pytest.skip("torch's gradient, which is not quite the derivative, has no forward form")
    value, push = jax.linearize(lambda x: model(x), x)
    _same((value, push(t)), jax.jvp(lambda x: model(x), (x,), (t,)))
    one_by_one = jax.custom_batching.sequential_vmap(lambda x: model(x))
    _same(jax.vmap(one_by_one)(x[:, None]), jax.vmap(lambda x: model(x))(x[:, None]))


@every_layer
def test_sparsify_leaves_dense_arrays_alone(name):
    model, shape = _made(name)
    x = _x(2, shape)

    def call(x):
        return model(x)

    _same(_by_jaxs_tool(lambda: sparse.sparsify(call)(x), call, x, KeyError), model(x))


@every_layer
def test_compiled_ahead_of_time(name):
    model, shape = _made(name)
    x = _x(2, shape)
    compiled = nn.jit(lambda model, x: model(x)).lower(model, x).compile()
    _same(compiled(model, x), model(x))


def _by_jaxs_tool(tool, call, x, error):
    """``tool()``; where it fails with `error`, as JAX's own tool does with any custom_jvp function, the test is over."""
    try:
        return tool()
    except error:
        if not {"custom_jvp_call", "custom_vjp_call"} & set(re.findall(r"\w+", str(jax.make_jaxpr(call)(x)))):
            raise
        pytest.skip("this tool of JAX takes no custom_jvp function, jax.nn.relu neither")


@every_layer
def test_jet_gives_the_derivatives(name):
    model, shape = _made(name)
    x, t = _x(2, shape), _x(2, shape)

    def call(x):
        return jax.tree.leaves(model(x))

    values, series = _by_jaxs_tool(lambda: jet.jet(call, (x,), [[t]]), call, x, JET_FAILS)
    _same((values, [terms[0] for terms in series]), jax.jvp(call, (x,), (t,)))


def test_jaxs_own_tools_take_no_custom_jvp_functions():
    """When this fails, the skips above can go."""
    with pytest.raises(JET_FAILS):
        jet.jet(jax.nn.relu, (1.0,), [[1.0]])
    with pytest.raises(KeyError, match="subfuns"):
        sparse.sparsify(jax.nn.relu)(jnp.ones(2))


def test_what_is_compiled_ahead_of_time_writes_back():
    """The weights, the statistics and the random stream move as in a call."""

    def step(model, optimizer, x, scale):
        loss, gradients = nn.value_and_grad(lambda model: jnp.sum(model(x) ** 2) * scale)(model)
        optimizer.step(model, gradients)
        return loss

    def made():
        nn.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout())
        return model, nn.optim.SGD(model, lr=0.1)

    x = _x(4, VECTOR)
    results = []
    for ahead in (False, True):
        model, optimizer = made()
        run = nn.jit(step, static_argnums=3)
        if ahead:
            traced = run.trace(model, optimizer, x, 2.0)
            compiled = traced.lower().compile()
            losses = [compiled(model, optimizer, x) for _ in range(3)]
        else:
            losses = [run(model, optimizer, x, 2.0) for _ in range(3)]
        results.append((losses, dict(model.state_dict())))
    _same(*results)
    assert int(results[1][1]["1.num_batches_tracked"]) == 3


def test_a_class_is_exported_after_one_of_its_layers_was_pruned():
    nn.utils.prune.l1_unstructured(nn.Linear(3, 2), "weight", 1)
    model, x = nn.Linear(3, 2), jnp.ones((4, 3))
    exported = export.export(jax.jit(lambda model, x: model(x)))(model, x)
    again = export.deserialize(exported.serialize())
    np.testing.assert_allclose(again.call(model, x), model(x), rtol=1e-6)
