"""`from_torch`: structure, options, weights, modes and ties; what cannot be mapped is listed whole."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.porting import CannotConvert
from jaxnn.testing import compare

torch = pytest.importorskip("torch")
T = torch.nn
RNG = np.random.RandomState(0)
IMAGE, ROWS, TOKENS = (RNG.randn(*shape).astype(np.float32) for shape in ((2, 4, 9, 9), (3, 6), (2, 5, 8)))
VOLUME = RNG.randn(2, 4, 5, 5, 5).astype(np.float32)

LAYERS = {
    "Linear": (lambda: T.Linear(6, 3, bias=False), ROWS),
    "Bilinear": (lambda: T.Bilinear(6, 6, 3), (ROWS, ROWS)),
    "Conv2d": (lambda: T.Conv2d(4, 8, (3, 2), stride=2, padding=1, groups=2, padding_mode="reflect"), IMAGE),
    "Conv1d": (lambda: T.Conv1d(5, 6, 3, padding="same", dilation=2), TOKENS),
    "ConvTranspose2d": (lambda: T.ConvTranspose2d(4, 6, 3, 2, output_padding=1, bias=False), IMAGE),
    "BatchNorm2d": (lambda: T.BatchNorm2d(4, eps=1e-3, momentum=0.3), IMAGE),
    "BatchNorm3d": (lambda: T.BatchNorm3d(4, affine=False, track_running_stats=False), VOLUME),
    "LayerNorm": (lambda: T.LayerNorm((9, 9), bias=False), IMAGE),
    "GroupNorm": (lambda: T.GroupNorm(2, 4), IMAGE),
    "RMSNorm": (lambda: T.RMSNorm(9), IMAGE),
    "InstanceNorm2d": (lambda: T.InstanceNorm2d(4, affine=True), IMAGE),
    "LocalResponseNorm": (lambda: T.LocalResponseNorm(3, alpha=0.1), IMAGE),
    "MaxPool2d": (lambda: T.MaxPool2d(3, 2, 1, ceil_mode=True), IMAGE),
    "AvgPool2d": (lambda: T.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE),
    "AdaptiveAvgPool2d": (lambda: T.AdaptiveAvgPool2d((2, None)), IMAGE),
    "LPPool2d": (lambda: T.LPPool2d(2, 3), IMAGE),
    "ReflectionPad2d": (lambda: T.ReflectionPad2d((1, 2, 0, 1)), IMAGE),
    "ConstantPad1d": (lambda: T.ConstantPad1d(2, 3.5), TOKENS),
    "Upsample": (lambda: T.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True), IMAGE),
    "PixelShuffle": (lambda: T.PixelShuffle(2), IMAGE),
    "Unfold": (lambda: T.Unfold(3, padding=1), IMAGE),
    "Flatten": (lambda: T.Flatten(2), IMAGE),
    "GELU": (lambda: T.GELU("tanh"), ROWS),
    "PReLU": (lambda: T.PReLU(4), IMAGE),
    "LeakyReLU": (lambda: T.LeakyReLU(0.2, inplace=True), ROWS),
    "Softmax": (lambda: T.Softmax(dim=1), ROWS),
    "Threshold": (lambda: T.Threshold(0.1, 2.0), ROWS),
    "LSTM": (lambda: T.LSTM(8, 4, 2, batch_first=True, bidirectional=True, proj_size=3), TOKENS),
    "GRU": (lambda: T.GRU(8, 4, bias=False), TOKENS),
    "RNN": (lambda: T.RNN(8, 4, nonlinearity="relu"), TOKENS),
    "LSTMCell": (lambda: T.LSTMCell(6, 4), ROWS),
    "MultiheadAttention": (
        lambda: T.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True),
        (TOKENS, TOKENS, TOKENS),
    ),
    "TransformerEncoder": (
        lambda: T.TransformerEncoder(
            T.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", norm_first=True, batch_first=True),
            2,
            T.LayerNorm(8),
            enable_nested_tensor=False,
        ),
        TOKENS,
    ),
    "Transformer": (
        lambda: T.Transformer(8, 2, 1, 2, 16, 0.0, batch_first=True, norm_first=True),
        (TOKENS, TOKENS),
    ),
    "Embedding": (lambda: T.Embedding(10, 4, padding_idx=3), RNG.randint(0, 10, (2, 5))),
    "EmbeddingBag": (lambda: T.EmbeddingBag(10, 4, mode="max"), RNG.randint(0, 10, (2, 5))),
    "CrossEntropyLoss": (
        lambda: T.CrossEntropyLoss(weight=torch.rand(6), label_smoothing=0.1),
        (ROWS, RNG.randint(0, 6, 3)),
    ),
    "HuberLoss": (lambda: T.HuberLoss("sum", 0.3), (ROWS, ROWS[::-1].copy())),
    "CosineSimilarity": (lambda: T.CosineSimilarity(0), (ROWS, ROWS + 1)),
    "Dropout": (lambda: T.Dropout(0.4).eval(), ROWS),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch about its own fast paths
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_with_its_options_and_weights(name):
    torch.manual_seed(0)
    make, inputs = LAYERS[name]
    theirs = make()
    ours = nn.from_torch(theirs)
    assert type(ours) is getattr(nn, name) and ours.training == theirs.training
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    found = compare(theirs, ours, *inputs, gradients=False)
    assert found, found.summary()


class Block(T.Module):
    """Code of a user: residual, method calls, functions, a buffer, a parameter."""

    def __init__(self, width):
        super().__init__()
        self.norm = T.LayerNorm(width)
        self.layers = T.ModuleList([T.Linear(width, width) for _ in range(2)])
        self.gain = T.Parameter(torch.full((width,), 0.5))
        self.register_buffer("offset", torch.arange(float(width)), persistent=False)

    def forward(self, x, scale=2.0):
        y = self.norm(x)
        for layer in self.layers:
            y = T.functional.gelu(layer(y)) + y
        a, b = y.chunk(2, dim=-1)
        y = torch.cat([b, a], dim=-1).transpose(1, 2).contiguous().permute(0, 2, 1)
        y = y.view(y.size(0), -1, y.shape[-1]) * self.gain + self.offset
        return x + scale * y.softmax(dim=-1) - y.mean(dim=1, keepdim=True)


class Model(T.Module):
    def __init__(self):
        super().__init__()
        self.embed = T.Embedding(11, 8)
        self.blocks = T.Sequential(Block(8), Block(8))
        self.head = T.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.blocks(self.embed(tokens)))


def test_a_class_of_ones_own_is_rebuilt_from_its_trace():
    torch.manual_seed(0)
    theirs = Model().eval()
    theirs.blocks[0].gain.requires_grad_(False)
    ours = nn.from_torch(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [type(module).__name__ for module in ours.modules()] == [
        type(module).__name__ for module in theirs.modules()
    ]
    assert ours.get_parameter("head.weight") is ours.get_parameter("embed.weight")
    assert not ours.get_parameter("blocks.0.gain").requires_grad and not ours.training
    tokens = RNG.randint(0, 11, (2, 6))
    found = compare(theirs, ours, tokens)
    assert found, found.summary()
    assert nn.jit(lambda m, t: m(t))(ours, jnp.asarray(tokens)).shape == (2, 6, 11)


def test_arguments_of_a_rebuilt_forward():
    ours = nn.from_torch(Block(8).eval())
    x = jnp.asarray(TOKENS)
    np.testing.assert_allclose(ours(x, 2.0), ours(x), rtol=1e-6)
    assert not np.allclose(ours(x, scale=1.0), ours(x))
    for wrong in ((), (x, 1.0, 2.0)):
        with pytest.raises(TypeError, match="forward takes"):
            ours(*wrong)


class Branches(T.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Calls(T.Module):
    def forward(self, x):
        return torch.fft.fft(x).real + torch.lgamma(x)


def test_what_cannot_be_mapped_is_listed_at_once_with_its_place():
    theirs = T.Sequential(T.Linear(6, 6), Branches(), T.Sequential(Calls(), Branches()))
    with pytest.raises(CannotConvert) as caught:
        nn.from_torch(theirs)
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for part in ("1: Branches", "2.1: Branches", "2.0: Calls calls", "fft", "lgamma", "test_from_torch.py:"):
        assert part in text


def test_a_registry_answers_for_classes_of_ones_own():
    class Mine(nn.Module):
        def forward(self, x):
            return jnp.where(x.sum() > 0, x, -x)

    theirs = T.Sequential(T.Linear(6, 6), Branches())
    for answer in (Mine, lambda module: Mine()):
        ours = nn.from_torch(theirs, registry={Branches: answer})
        assert compare(theirs, ours, ROWS, gradients=False)


def test_arrays_cross_without_a_copy():
    tensor = torch.arange(12.0).reshape(3, 4)
    arrays = nn.from_torch_state_dict(
        {"a": tensor, "b": torch.tensor([1, 2]), "c": torch.tensor(True), "d": tensor.t()}
    )
    assert arrays["a"].unsafe_buffer_pointer() == tensor.data_ptr()
    assert arrays["b"].dtype == np.int64 and arrays["c"].dtype == np.bool_
    np.testing.assert_array_equal(arrays["d"], tensor.t().numpy())
    ours = nn.BatchNorm1d(3).state_dict()
    back = nn.to_torch_state_dict(ours)
    assert back["weight"].data_ptr() == ours["weight"].unsafe_buffer_pointer()
    T.BatchNorm1d(3).load_state_dict(back)


def test_no_model():
    with pytest.raises(TypeError, match="expected a torch.nn.Module, got Linear"):
        nn.from_torch(nn.Linear(1, 1))
