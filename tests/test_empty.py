"""Every layer and function with each dimension of each input 0 in turn: torch's result, gradient or kind of exception."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F

torch: Any = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")

INF = float("inf")


class Index(NamedTuple):
    """An input of integers below `high`."""

    shape: tuple[int, ...]
    high: int


class Fixed(NamedTuple):
    """An input that stays as it is."""

    numbers: list[int]


class Call(NamedTuple):
    """A layer or function, its options, and its inputs: the shapes of floating ones, an Index or a Fixed."""

    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    inputs: tuple[Any, ...]


def layer(name: str, *args: Any, inputs: tuple[Any, ...] = ((2, 3),), **options: Any) -> Call:
    return Call(name, args, options, inputs)


ONE_ARRAY = """ReLU ELU GELU Sigmoid Tanh Softplus SiLU Mish Hardtanh Hardswish LeakyReLU LogSigmoid PReLU SELU CELU Softshrink
Hardshrink Softsign Tanhshrink ReLU6 RReLU Identity Dropout AlphaDropout FeatureAlphaDropout Hardsigmoid""".split()
PAIRS = """L1Loss MSELoss SmoothL1Loss HuberLoss KLDivLoss BCELoss BCEWithLogitsLoss PoissonNLLLoss SoftMarginLoss
HingeEmbeddingLoss MultiLabelSoftMarginLoss""".split()
TRIPLES = ["GaussianNLLLoss", "TripletMarginLoss", "MarginRankingLoss", "TripletMarginWithDistanceLoss"]
# What has no forward of its own, or none that takes arrays of any size.
NOT_CALLED = {
    *(
        "Module",
        "Container",
        "Sequential",
        "ModuleList",
        "ModuleDict",
        "ParameterList",
        "ParameterDict",
        "RNNBase",
        "DataParallel",
        "RNNCellBase",
    ),
    *("MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"),  # their second input is another layer's output
    *("TransformerEncoder", "TransformerDecoder"),  # run by Transformer
    *("NLLLoss2d", "UpsamplingBilinear2d", "UpsamplingNearest2d", "SyncBatchNorm"),  # other names, with warnings
}


# The derivative of torch's pdist reads beyond an array without elements, and may end the process; SoftMarginLoss has none
# by its target.
NO_GRADIENT = {"pdist", "SoftMarginLoss"}
# torch's kernel does not look at the sizes of an empty value; ours rejects what does not fit.
STRICTER = {("scaled_dot_product_attention", f"input 2 dim {dim}") for dim in (0, 1, 2)}


def spatial(dims: int) -> Iterator[Call]:
    """The layers of a number of spatial dimensions, with and without a batch."""
    for batch in ((2,), ()):
        inputs = ((*batch, 4, *(6, 7, 8)[:dims]),)
        for name in ("Conv", "ConvTranspose"):
            yield layer(f"{name}{dims}d", 4, 6, 3, inputs=inputs)
        for name in ("MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool"):
            yield layer(f"{name}{dims}d", 2, inputs=inputs)
        yield layer(f"LPPool{dims}d", 2.0, 2, inputs=inputs)
        yield layer(f"InstanceNorm{dims}d", 4, inputs=inputs)
        yield layer(f"Dropout{dims}d", inputs=inputs)
        yield layer(f"ConstantPad{dims}d", 1, 0.5, inputs=inputs)
        for name in ("ReflectionPad", "ReplicationPad", "ZeroPad", "CircularPad"):
            yield layer(f"{name}{dims}d", 1, inputs=inputs)
    inputs = ((2, 4, *(6, 7, 8)[:dims]),)
    yield layer(f"BatchNorm{dims}d", 4, inputs=inputs)
    yield layer("Upsample", scale_factor=2, inputs=inputs)


def recurrent(name: str) -> Iterator[Call]:
    yield layer(name, 4, 5, inputs=((6, 2, 4),))
    yield layer(name, 4, 5, inputs=((6, 4),))
    yield layer(name, 4, 5, num_layers=2, bidirectional=True, batch_first=True, inputs=((2, 6, 4),))
    yield layer(f"{name}Cell", 4, 5, inputs=((2, 4),))
    yield layer(f"{name}Cell", 4, 5, inputs=((4,),))


def transformers(batch_first: bool) -> Iterator[Call]:
    same, memory = ((3, 2, 4),) * 3, (3, 5, 4) if batch_first else (5, 2, 4)
    yield layer("MultiheadAttention", 4, 2, batch_first=batch_first, inputs=same)
    yield layer("MultiheadAttention", 4, 2, batch_first=batch_first, add_zero_attn=True, inputs=same)
    widths = ((3, 2, 4), (3, 2, 3), (3, 2, 5))
    yield layer("MultiheadAttention", 4, 2, batch_first=batch_first, bias=False, kdim=3, vdim=5, inputs=widths)
    yield layer("TransformerEncoderLayer", 4, 2, 8, batch_first=batch_first, inputs=same[:1])
    yield layer("TransformerDecoderLayer", 4, 2, 8, batch_first=batch_first, inputs=(same[0], memory))
    yield layer("Transformer", 4, 2, 1, 1, 8, batch_first=batch_first, inputs=(same[0], memory))


def layers() -> Iterator[Call]:
    yield from (layer(name) for name in ONE_ARRAY)
    yield from (layer(name, reduction=r, inputs=((2, 3),) * 2) for name in PAIRS for r in ("mean", "none"))
    yield from (layer(name, inputs=((2, 3),) * 3) for name in TRIPLES)
    yield from (layer(name, dim=dim) for name in ("Softmax", "LogSoftmax", "Softmin") for dim in (0, 1))
    for dims in (1, 2, 3):
        yield from spatial(dims)
    for name in ("RNN", "LSTM", "GRU"):
        yield from recurrent(name)
    for batch_first in (False, True):
        yield from transformers(batch_first)
    for name in ("CrossEntropyLoss", "NLLLoss"):
        yield from (layer(name, reduction=r, inputs=((2, 3), Index((2,), 3))) for r in ("mean", "none"))
        yield layer(name, inputs=((2, 3, 4, 5), Index((2, 4, 5), 3)))
    yield layer("MultiMarginLoss", reduction="none", inputs=((2, 3), Index((2,), 3)))
    yield layer("MultiLabelMarginLoss", reduction="none", inputs=((2, 3), Index((2, 3), 3)))
    yield layer("CosineEmbeddingLoss", inputs=((2, 3), (2, 3), (2,)))
    yield layer("LinearCrossEntropyLoss", 3, 4, inputs=((2, 3), Index((2,), 4)))
    yield layer("CTCLoss", inputs=((5, 2, 4), Index((2, 3), 3), Fixed([5, 5]), Fixed([3, 2])))
    for name in ("CosineSimilarity", "PairwiseDistance"):
        yield layer(name, inputs=((2, 3), (2, 3)))
    yield layer("Embedding", 5, 3, inputs=(Index((2, 3), 5),))
    yield from (layer("EmbeddingBag", 5, 3, mode=mode, inputs=(Index((2, 3), 5),)) for mode in ("mean", "sum", "max"))
    yield layer("AdaptiveLogSoftmaxWithLoss", 4, 6, [2, 4], inputs=((2, 4), Index((2,), 6)))
    yield layer("Threshold", 0.1, 20.0)
    yield layer("GLU", dim=1, inputs=((2, 4),))
    yield layer("Softmax2d", inputs=((2, 3, 4, 5),))
    yield layer("Linear", 3, 4)
    yield layer("Bilinear", 3, 4, 5, inputs=((2, 3), (2, 4)))
    yield layer("Flatten", inputs=((2, 3, 4),))
    yield layer("Unflatten", 1, (3, 1))
    yield layer("BatchNorm1d", 4, inputs=((2, 4),))
    for mode, rest in (
        ("linear", (6,)),
        ("bilinear", (6, 7)),
        ("bicubic", (6, 7)),
        ("trilinear", (5, 6, 7)),
        ("area", (6, 7)),
    ):
        yield layer("Upsample", scale_factor=2, mode=mode, inputs=((2, 4, *rest),))
    yield layer("FractionalMaxPool2d", 2, output_size=2, inputs=((2, 4, 6, 7),))
    yield layer("FractionalMaxPool3d", 2, output_size=2, inputs=((2, 4, 6, 7, 8),))
    yield layer("GroupNorm", 2, 4, inputs=((2, 4, 5),))
    yield layer("LayerNorm", 4, inputs=((2, 3, 4),))
    yield layer("RMSNorm", 4, inputs=((2, 3, 4),))
    yield layer("LocalResponseNorm", 3, inputs=((2, 4, 5),))
    yield layer("CrossMapLRN2d", 3, inputs=((2, 4, 5, 6),))
    yield layer("PixelShuffle", 2, inputs=((2, 4, 5, 6),))
    yield layer("PixelUnshuffle", 2, inputs=((2, 4, 6, 8),))
    yield layer("ChannelShuffle", 2, inputs=((2, 4, 5, 6),))
    yield layer("Fold", (4, 5), (2, 2), inputs=((2, 12, 12),))
    yield layer("Unfold", (2, 2), inputs=((2, 4, 5, 6),))


def functions() -> Iterator[Call]:
    """What no layer reaches."""
    image, grid = (2, 3, 4, 5), (2, 6, 7, 2)
    yield layer("grid_sample", align_corners=False, inputs=(image, grid))
    yield layer("grid_sample", align_corners=False, inputs=((2, 3, 4, 5, 6), (2, 3, 4, 5, 3)))
    yield layer("grid_sample", align_corners=True, mode="bicubic", padding_mode="reflection", inputs=(image, grid))
    yield layer("grid_sample", align_corners=False, mode="nearest", padding_mode="border", inputs=(image, grid))
    yield layer("affine_grid", size=(2, 3, 4, 5), align_corners=False, inputs=((2, 2, 3),))
    yield from (layer("normalize", p=p) for p in (2.0, 1.0, INF))
    yield layer("one_hot", inputs=(Index((2, 3), 4),))
    yield layer("pdist", inputs=((4, 3),))
    yield layer("scaled_dot_product_attention", inputs=((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 6)))
    yield from (
        layer("pad", pad=(1, 1), mode=m, inputs=((2, 3, 4),)) for m in ("constant", "reflect", "replicate", "circular")
    )
    yield layer("interpolate", size=(2, 3), inputs=(image,))
    yield layer("interpolate", size=(2, 3), mode="bilinear", antialias=True, inputs=(image,))
    yield layer("linear", inputs=((2, 3), (4, 3)))
    yield layer("bilinear", inputs=((2, 3), (2, 4), (5, 3, 4)))
    yield layer("conv1d", inputs=((2, 3, 6), (4, 3, 3)))
    yield layer("conv2d", inputs=((2, 3, 6, 6), (4, 3, 3, 3)))
    yield layer("conv_transpose1d", inputs=((2, 3, 6), (3, 4, 3)))
    yield from (layer("batch_norm", training=t, inputs=((2, 4, 5), (4,), (4,))) for t in (False, True))
    yield layer("instance_norm", inputs=((2, 4, 5),))


CALLS = [*layers(), *functions()]
NAMES = sorted({call.name for call in CALLS})


def test_every_layer_is_called():
    classes = {
        name for name, value in vars(torch.nn).items() if isinstance(value, type) and issubclass(value, torch.nn.Module)
    }
    assert {name for name in classes if not name.startswith("Lazy")} == {
        name for name in NAMES if name[0].isupper()
    } | NOT_CALLED


def shape_of(spec: Any) -> tuple[int, ...]:
    return () if isinstance(spec, Fixed) else spec.shape if isinstance(spec, Index) else spec


def emptied(spec: Any, dim: int) -> Any:
    shape = tuple(0 if i == dim else size for i, size in enumerate(shape_of(spec)))
    return Index(shape, spec.high) if isinstance(spec, Index) else shape


def variants(inputs: tuple[Any, ...]) -> Iterator[tuple[str, list[Any]]]:
    """Each dimension of each input 0, and of all inputs that have the first one's size there."""
    for i, spec in enumerate(inputs):
        for dim in range(len(shape_of(spec))):
            yield f"input {i} dim {dim}", [emptied(s, dim) if j == i else s for j, s in enumerate(inputs)]
    for dim, size in enumerate(shape_of(inputs[0])):
        shared = [shape_of(spec)[dim : dim + 1] == (size,) for spec in inputs]
        if sum(shared) > 1:
            yield f"all dim {dim}", [emptied(s, dim) if share else s for s, share in zip(inputs, shared)]


def draw(spec: Any, rng: np.random.Generator) -> np.ndarray:
    if isinstance(spec, Fixed):
        return np.array(spec.numbers)
    return rng.integers(0, spec.high, spec.shape) if isinstance(spec, Index) else rng.random(spec).astype(np.float32)


def leaves(result: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(result) if hasattr(leaf, "shape")]


def in_torch(
    function: Callable[..., Any], arrays: list[np.ndarray], grad: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    given = [torch.tensor(array, requires_grad=grad and array.dtype.kind == "f") for array in arrays]
    outputs = leaves(function(*given))
    live = [output.sum() for output in outputs if output.requires_grad]
    wanted = [x for x in given if x.requires_grad]
    try:
        grads = torch.autograd.grad(sum(live), wanted, allow_unused=True) if live and wanted else [None] * len(wanted)
    except RuntimeError:  # torch has a result, but its derivative refuses it: there is nothing to compare
        return [output.detach().numpy() for output in outputs], []
    filled = [torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, wanted)]
    return [output.detach().numpy() for output in outputs], [grad.numpy() for grad in filled]


def in_jax(
    function: Callable[..., Any], arrays: list[np.ndarray], grad: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    places = [i for i, array in enumerate(arrays) if grad and array.dtype.kind == "f"]

    def total(values: list[Any]) -> Any:
        full: list[Any] = [jnp.asarray(array) for array in arrays]
        for place, value in zip(places, values):
            full[place] = value
        outputs = leaves(function(*full))
        return sum(jnp.sum(o) for o in outputs if jnp.issubdtype(o.dtype, jnp.floating)) + jnp.zeros(()), outputs

    values = [jnp.asarray(arrays[i]) for i in places]
    if not values:
        return [np.asarray(output) for output in total([])[1]], []
    grads, outputs = jax.grad(total, has_aux=True)(values)
    return [np.asarray(output) for output in outputs], [np.asarray(grad) for grad in grads]


def attempt(run: Callable[..., Any], function: Any, arrays: list[np.ndarray], grad: bool) -> Any:
    try:
        return run(function, arrays, grad)
    except Exception as error:
        return error


def difference(ours: Any, theirs: Any) -> str:
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        same = isinstance(theirs, Exception) and isinstance(ours, type(theirs))
        return "" if same else f"{ours!r:.150} for {theirs!r:.150}"
    for what, mine, true in zip(("outputs", "gradients"), ours, theirs):
        if what == "gradients" and not true:
            continue
        if [x.shape for x in mine] != [x.shape for x in true]:
            return f"{what}: shapes {[x.shape for x in mine]} for {[x.shape for x in true]}"
        for a, b in zip(mine, true):
            if not np.allclose(a, b, rtol=2e-5, atol=2e-5, equal_nan=True):
                return f"{what}: {a.ravel()[:4]} for {b.ravel()[:4]}"
    return ""


def both(call: Call, mode: str) -> tuple[Any, Any]:
    if call.name[0].islower():
        ours, theirs = getattr(F, call.name), getattr(torch.nn.functional, call.name)
        return (lambda *x: ours(*x, *call.args, **call.options)), (lambda *x: theirs(*x, *call.args, **call.options))
    nn.manual_seed(0)
    torch.manual_seed(0)
    pair = tuple(getattr(home, call.name)(*call.args, **call.options) for home in (nn, torch.nn))
    return tuple(module.train(mode == "train") for module in pair)


@pytest.mark.parametrize("name", NAMES)
def test_each_dimension_empty(name):
    modes = ("train", "eval") if "Norm" in name else ("eval",)
    found = []
    for call in (call for call in CALLS if call.name == name):
        for mode in modes:
            ours, theirs = both(call, mode)
            for variant, specs in variants(call.inputs):
                if (name, variant) in STRICTER:
                    continue
                rng = np.random.default_rng(0)
                arrays = [draw(spec, rng) for spec in specs]
                grad = name not in NO_GRADIENT
                text = difference(attempt(in_jax, ours, arrays, grad), attempt(in_torch, theirs, arrays, grad))
                if text:
                    found.append(f"{call.inputs} {call.options} {mode}, {variant}: {text}")
    assert not found, "\n" + "\n".join(found)
