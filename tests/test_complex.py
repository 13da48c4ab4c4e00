"""Complex numbers through every layer and function: computed as torch computes them, refused where torch refuses."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import jax
import numpy as np
import pytest

import jaxnn
from jaxnn import functional as F
from parity import compare

torch = pytest.importorskip("torch")

INTEGERS = np.array([1, 2, 0])


@dataclasses.dataclass(frozen=True)
class Call:
    """A layer (or, lower case, a function) and what it is called with; arrays as their shapes, "real 3 4" for real ones.

    `formula` stands for the layer where torch gives no gradient of a complex result.
    """

    name: str
    make: tuple[Any, ...]
    inputs: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...] = ()
    weights: bool = True
    training: bool = True
    formula: Any = None

    def __str__(self) -> str:
        return "-".join(map(str, (self.name, *self.make, *(f"{key}={value}" for key, value in self.options))))


def call(
    name: str,
    make: Any,
    *inputs: Any,
    weights: bool = False,
    training: bool = True,
    formula: Any = None,
    **options: Any,
) -> Call:
    return Call(name, make, inputs, tuple(options.items()), weights, training, formula)


layer = functools.partial(call, weights=True)


def _embedding(tables: Any, indices: Any) -> Any:
    return tables["weight"][indices]


def _bilinear(tables: Any, left: Any, right: Any) -> Any:
    return torch.einsum("ni,oij,nj->no", left, tables["weight"], right) + tables["bias"]


IMAGE, VOLUME = (2, 2, 5, 6), (2, 2, 3, 4, 3)
COMPUTED = [
    layer("Linear", (3, 4), (2, 3)),
    layer("Bilinear", (3, 2, 4), (2, 3), (2, 2), formula=_bilinear),
    layer("Conv1d", (4, 6, 3), (2, 4, 7), stride=2, padding=1, groups=2),
    layer("Conv2d", (2, 3, 3), IMAGE, stride=2, padding=1),
    layer("Conv2d", (2, 3, (3, 2)), IMAGE, padding="same", padding_mode="circular"),
    layer("Conv2d", (4, 4, 3), (2, 4, 5, 6), groups=4, dilation=2),
    layer("Conv2d", (1, 2, (5, 2)), (1, 1, 4, 16), stride=(3, 2), padding=(2, 1)),  # XLA's own died of its gradient
    layer("Conv3d", (2, 3, 2), VOLUME),
    layer("ConvTranspose1d", (4, 6, 3), (2, 4, 7), stride=2, padding=1, groups=2),
    layer("ConvTranspose2d", (2, 3, 3), IMAGE, stride=2, padding=1, output_padding=1),
    layer("ConvTranspose3d", (2, 3, 2), VOLUME),
    layer("RNN", (3, 4), (5, 2, 3)),
    layer("LSTM", (3, 4, 2), (5, 2, 3), bidirectional=True),
    layer("LSTM", (3, 4), (5, 2, 3), proj_size=2),
    layer("GRU", (3, 4), (5, 2, 3)),
    layer("RNNCell", (3, 4), (2, 3)),
    layer("LSTMCell", (3, 4), (2, 3)),
    layer("GRUCell", (3, 4), (2, 3)),
    layer("Embedding", (5, 3), INTEGERS, formula=_embedding),
    layer("RMSNorm", (3,), (2, 3)),
    layer("RMSNorm", ((4, 3),), (2, 4, 3), eps=0.5),
    call("RMSNorm", (3,), (2, 3), elementwise_affine=False),
    call("CrossMapLRN2d", (2,), (2, 3, 4, 2)),
    call("Sigmoid", (), (3, 4)),
    call("SiLU", (), (3, 4), formula=lambda _, x: x * torch.sigmoid(x)),
    call("Softsign", (), (3, 4)),
    call("Tanh", (), (3, 4)),
    call("Tanhshrink", (), (3, 4)),
    call("Identity", (), (3, 4)),
    call("Flatten", (), (3, 4)),
    call("Unflatten", (1, (2, 2)), (3, 4)),
    call("AdaptiveAvgPool1d", (1,), (2, 3, 6)),
    call("AdaptiveAvgPool2d", (1,), IMAGE),
    call("AdaptiveAvgPool3d", (1,), VOLUME),
    *(
        call(f"{kind}Pad{n}d", (1,), (2, 2, 3, 4, 3)[: n + 2])
        for kind in ("Reflection", "Replication", "Circular")
        for n in (1, 2, 3)
    ),
    call("ConstantPad1d", ((1, 2), 0.5), (2, 3, 6)),
    call("ZeroPad2d", (2,), IMAGE),
    call("PixelShuffle", (2,), (2, 4, 3, 3)),
    call("PixelUnshuffle", (2,), (2, 1, 4, 4)),
    call("ChannelShuffle", (2,), (2, 4, 3, 3)),
    call("Fold", ((4, 4), (2, 2)), (2, 4, 9)),
    call("Unfold", ((2, 2),), (2, 2, 4, 4)),
    call("Dropout", (0.0,), (3, 4)),
    call("Dropout", (0.5,), (3, 4), training=False),
    *(call("L1Loss", (), (3, 4), (3, 4), reduction=reduction) for reduction in ("none", "mean", "sum")),
    call("L1Loss", (), (3, 4), "real 3 4"),
    call("PoissonNLLLoss", (), (3, 4), (3, 4)),
    call("GaussianNLLLoss", (), (3, 4), (3, 4), "positive 3 4"),
    call("TripletMarginLoss", (), (3, 4), (3, 4), (3, 4)),
    call("TripletMarginWithDistanceLoss", (), (3, 4), (3, 4), (3, 4)),
    call("PairwiseDistance", (), (3, 4), (3, 4)),
    call("normalize", (), (3, 4)),
    call("normalize", (), (3, 4), p=1.0),
    call("pad", (), (3, 4), pad=(1, 2)),
    call("tanh", (), (3, 4)),
    call("sigmoid", (), (3, 4)),
]
_ELEMENTWISE = (
    "ELU Hardshrink Hardsigmoid Hardtanh Hardswish LeakyReLU LogSigmoid ReLU ReLU6 RReLU SELU CELU GELU Mish Softplus "
    "Softshrink GLU"
)
_LOSSES = (
    "MSELoss SmoothL1Loss HuberLoss KLDivLoss BCELoss BCEWithLogitsLoss HingeEmbeddingLoss MultiLabelSoftMarginLoss "
    "MultiLabelMarginLoss"
)
REFUSED = [
    layer("RNN", (3, 4), (5, 2, 3), nonlinearity="relu"),
    layer("EmbeddingBag", (5, 3), INTEGERS[None]),
    layer("EmbeddingBag", (5, 3), INTEGERS[None], mode="sum"),
    layer("LayerNorm", (3,), (2, 3)),
    layer("GroupNorm", (2, 4), (2, 4, 3)),
    layer("BatchNorm1d", (3,), (4, 3)),
    call("BatchNorm1d", (3,), (4, 3), affine=False, track_running_stats=False),
    layer("InstanceNorm1d", (3,), (4, 3, 5)),
    call("LocalResponseNorm", (2,), (4, 3, 5)),
    layer("MultiheadAttention", (4, 2), *[(3, 2, 4)] * 3),
    layer("TransformerEncoderLayer", (4, 2, 8), (3, 2, 4), dropout=0.0),
    layer("TransformerEncoderLayer", (4, 2, 8), (3, 2, 4), training=False),
    layer("TransformerDecoderLayer", (4, 2, 8), (3, 2, 4), (3, 2, 4), dropout=0.0),
    layer("Transformer", (4, 2, 1, 1, 8), (3, 2, 4), (3, 2, 4), dropout=0.0),
    layer("AdaptiveLogSoftmaxWithLoss", (4, 6, [3]), (3, 4), INTEGERS),
    layer("PReLU", (), (3, 4)),
    *(call(name, (), (3, 4)) for name in _ELEMENTWISE.split()),
    call("Threshold", (0.1, 0.2), (3, 4)),
    *(call(name, (), (3, 4), dim=-1) for name in ("Softmin", "Softmax", "LogSoftmax")),
    call("Softmax2d", (), IMAGE),
    *(call(f"{kind}Pool{n}d", (2,), (2, 3, 4, 4, 4)[: n + 2]) for kind in ("Max", "Avg") for n in (1, 2, 3)),
    *(call(f"Adaptive{kind}Pool{n}d", (2,), (2, 3, 4, 4, 4)[: n + 2]) for kind in ("Max", "Avg") for n in (1, 2, 3)),
    *(call(f"LPPool{n}d", (2.0, 2), (2, 3, 4, 4, 4)[: n + 2]) for n in (1, 2, 3)),
    call("FractionalMaxPool2d", (2, 2), IMAGE),
    call("MaxUnpool1d", (2,), (1, 1, 2), np.array([[[1, 2]]])),
    *(call(name, (0.5,), (2, 3, 2)) for name in ("Dropout", "Dropout1d", "AlphaDropout", "FeatureAlphaDropout")),
    call("UpsamplingNearest2d", (None, 2), IMAGE),
    call("UpsamplingBilinear2d", (None, 2), IMAGE),
    call("Upsample", (None, 2), (2, 3, 4)),
    *(call(name, (), (3, 4), (3, 4)) for name in _LOSSES.split()),
    *(call(name, (), (3, 4), INTEGERS) for name in ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")),
    call("CosineEmbeddingLoss", (), (3, 4), (3, 4), "positive 3"),
    call("MarginRankingLoss", (), (3,), (3,), "positive 3"),
    call("CTCLoss", (), (3, 2, 4), np.array([[1, 2], [2, 1]]), np.array([3, 3]), np.array([2, 2])),
    call("CosineSimilarity", (), (3, 4), (3, 4)),
    call("pdist", (), (3, 4)),
    call("scaled_dot_product_attention", (), *[(1, 3, 4)] * 3),
    call("grid_sample", (), (1, 2, 3, 3), "real 1 2 2 2", align_corners=False),
    *(call("interpolate", (), (1, 2, 3, 3), scale_factor=2, mode=mode) for mode in ("bicubic", "nearest", "area")),
    call("gumbel_softmax", (), (3, 4)),
    call("rrelu", (), (3, 4)),
    call("logsigmoid", (), (3, 4)),
    call("local_response_norm", (), (2, 4, 3), size=2),
]


def _inputs(given: Call) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    found = []
    for item in given.inputs:
        if isinstance(item, np.ndarray):
            found.append(item)
        elif isinstance(item, str):
            kind, *shape = item.split()
            numbers = rng.standard_normal(tuple(map(int, shape))).astype("f4")
            found.append(np.abs(numbers) + np.float32(0.1) if kind == "positive" else numbers)
        else:
            found.append((rng.standard_normal(item) + 1j * rng.standard_normal(item)).astype("c8"))
    return found


def _state(given: Call) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    module = _build(torch, given) if given.name[0].isupper() else None
    return {name: value.detach().numpy() for name, value in module.named_parameters()} if module is not None else {}


def _build(library: Any, given: Call) -> Any:
    nn = library.nn if library is torch else library
    made = {"dtype": torch.complex64 if library is torch else "complex64"} if given.weights else {}
    return getattr(nn, given.name)(*given.make, **dict(given.options), **made).train(given.training)


def _function(library: Any, given: Call) -> Any:
    """The call as ``f(parameters, *inputs)``."""
    if given.name[0].isupper():
        module = _build(library, given)
        apply = torch.func.functional_call if library is torch else jaxnn.functional_call
        return lambda parameters, *inputs: apply(module, parameters, inputs)
    function = getattr(torch.nn.functional if library is torch else F, given.name)
    return lambda parameters, *inputs: function(*inputs, **dict(given.options))


def _flat(result: Any) -> list[Any]:
    return [leaf for item in result for leaf in _flat(item)] if isinstance(result, (tuple, list)) else [result]


def _weights(outputs: list[np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    pairs = [rng.standard_normal((2, *output.shape)) for output in outputs]
    return [
        (a + 1j * b if np.iscomplexobj(output) else a).astype(output.dtype) for (a, b), output in zip(pairs, outputs)
    ]


def _torch_run(given: Call, state: dict[str, np.ndarray], wide: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    def tensor(array: np.ndarray) -> Any:
        found = torch.tensor(array)
        if wide and (found.is_complex() or found.is_floating_point()):
            found = found.to(torch.complex128 if found.is_complex() else torch.float64)
        return found.requires_grad_(found.is_complex())

    parameters = {name: tensor(value) for name, value in state.items()}
    inputs = [tensor(array) for array in _inputs(given)]
    plain = _function(torch, given)
    if given.formula is None:
        outputs = _flat(plain(parameters, *inputs))
    else:
        with torch.no_grad():
            wanted = plain(parameters, *inputs)
        outputs = [given.formula(parameters, *inputs)]
        torch.testing.assert_close(outputs[0].detach(), wanted)
    weights = [torch.tensor(weight) for weight in _weights([output.detach().numpy() for output in outputs])]
    points = [*parameters.values(), *(x for x in inputs if x.requires_grad)]
    gradients = torch.autograd.grad(outputs, points, weights)
    return [output.detach().numpy() for output in outputs], [gradient.resolve_conj().numpy() for gradient in gradients]


def _our_run(given: Call, state: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outputs, and torch's gradients: the conjugates of JAX's of the conjugate cotangents."""
    function, inputs = _function(jaxnn, given), _inputs(given)
    where = [i for i, array in enumerate(inputs) if np.iscomplexobj(array)]

    @jax.jit
    def run(parameters: Any, moving: Any) -> Any:
        def outputs(parameters: Any, moving: Any) -> Any:
            full = [moving[where.index(i)] if i in where else array for i, array in enumerate(inputs)]
            return _flat(function(parameters, *map(jax.numpy.asarray, full)))

        found, pull = jax.vjp(outputs, parameters, moving)
        return found, pull([np.conj(weight) for weight in _weights(found)])

    outputs, (parts, moving) = run(state, [inputs[i] for i in where])
    return [np.asarray(output) for output in outputs], [np.conj(x) for x in (*(parts[name] for name in state), *moving)]


@pytest.mark.parametrize("given", COMPUTED, ids=str)
def test_complex_numbers_give_torchs_values_and_gradients(given: Call) -> None:
    state = _state(given)
    truth, own, ours = _torch_run(given, state, True), _torch_run(given, state, False), _our_run(given, state)
    for kind, *three in zip(("output", "gradient"), truth, own, ours):
        assert len(three[0]) == len(three[2])
        for i, (true, its, mine) in enumerate(zip(*three)):
            assert mine.dtype == its.dtype
            tensor = compare.judge(
                f"{kind} {i}", mine, true, its, "float32", compare.NOISE * compare.scale_of(three[0])
            )
            assert tensor.held, tensor


@pytest.mark.parametrize("given", REFUSED, ids=str)
def test_complex_numbers_are_refused_where_torch_refuses_them(given: Call) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as theirs:
            _function(torch, given)({}, *map(torch.tensor, _inputs(given)))
        with pytest.raises(theirs.type, match=r"\w+: .+: expected .* got "):
            _function(jaxnn, given)({}, *map(jax.numpy.asarray, _inputs(given)))
