"""Eight networks, each written once for `torch.nn` and jaxnn: the names are the same, so the library is an argument.

``NETWORKS[name](nn)`` gives a class of networks over the library `nn`; `batch_of(name)` an input and targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


def resnet18(nn: Any) -> Any:
    """ResNet-18 with the 3x3 stem for images of 32 x 32."""

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU()
            self.downsample = None
            if stride > 1 or inputs != outputs:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x: Any) -> Any:
            kept = x if self.downsample is None else self.downsample(x)
            return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + kept)

    widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    widths += [(128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(*stem, *(Block(*width) for width in widths), *head)


def mobilenet(nn: Any) -> Any:
    """The blocks of MobileNetV3-small (torchvision's table), at 64 x 64."""

    class Squeeze(nn.Module):
        def __init__(self, channels: int, inner: int) -> None:
            super().__init__()
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc1, self.fc2 = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
            self.activation, self.scale_activation = nn.ReLU(), nn.Hardsigmoid()

        def forward(self, x: Any) -> Any:
            return self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x

    def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = None) -> list[Any]:
        layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)]
        layers += [nn.BatchNorm2d(outputs, eps=0.001, momentum=0.01)]
        return layers + ([act()] if act else [])

    class Inverted(nn.Module):
        def __init__(self, inputs: int, kernel: int, inner: int, outputs: int, se: bool, hs: bool, stride: int) -> None:
            super().__init__()
            act = nn.Hardswish if hs else nn.ReLU
            layers = conv(inputs, inner, 1, act=act) if inner != inputs else []
            layers += conv(inner, inner, kernel, stride, inner, act)
            layers += [Squeeze(inner, max(8, int(inner / 4 + 4) // 8 * 8))] if se else []
            self.block = nn.Sequential(*layers, *conv(inner, outputs, 1))
            self.adds = stride == 1 and inputs == outputs

        def forward(self, x: Any) -> Any:
            return self.block(x) + x if self.adds else self.block(x)

    table = [
        (16, 3, 16, 16, True, False, 2),
        (16, 3, 72, 24, False, False, 2),
        (24, 3, 88, 24, False, False, 1),
        (24, 5, 96, 40, True, True, 2),
        (40, 5, 240, 40, True, True, 1),
        (40, 5, 240, 40, True, True, 1),
        (40, 5, 120, 48, True, True, 1),
        (48, 5, 144, 48, True, True, 1),
        (48, 5, 288, 96, True, True, 2),
        (96, 5, 576, 96, True, True, 1),
        (96, 5, 576, 96, True, True, 1),
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, 10)]
    ends = conv(3, 16, 3, 2, act=nn.Hardswish), conv(96, 576, 1, act=nn.Hardswish)
    return nn.Sequential(*ends[0], *(Inverted(*row) for row in table), *ends[1], *head)


def resnext(nn: Any) -> Any:
    """Four bottlenecks of 32 groups."""

    class Bottleneck(nn.Module):
        def __init__(self, channels: int, inner: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                *(nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()),
                *(nn.Conv2d(inner, inner, 3, 1, 1, groups=32, bias=False), nn.BatchNorm2d(inner), nn.ReLU()),
                *(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)),
            )
            self.relu = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + x)

    stem = [nn.Conv2d(3, 128, 3, 2, 1), nn.BatchNorm2d(128), nn.ReLU()]
    blocks = [Bottleneck(128, 128) for _ in range(2)]
    down = [nn.Conv2d(128, 256, 3, 2, 1), nn.BatchNorm2d(256), nn.ReLU(), *(Bottleneck(256, 256) for _ in range(2))]
    return nn.Sequential(*stem, *blocks, *down, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


def convnext(nn: Any) -> Any:
    """ConvNeXt's blocks (depthwise 7x7, LayerNorm over channels, two linear layers), narrow."""

    class Channels(nn.Module):
        """To channels last and back, around the layers of a block."""

        def __init__(self, *layers: Any) -> None:
            super().__init__()
            self.layers = nn.Sequential(*layers)

        def forward(self, x: Any) -> Any:
            return self.layers(x.swapaxes(1, 3)).swapaxes(1, 3)

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
            mix = [nn.LayerNorm(channels), nn.Linear(channels, 4 * channels), nn.GELU()]
            self.mix = Channels(*mix, nn.Linear(4 * channels, channels))

        def forward(self, x: Any) -> Any:
            return x + self.mix(self.dwconv(x))

    stem = [nn.Conv2d(3, 48, 4, 4), Channels(nn.LayerNorm(48)), Block(48), Block(48)]
    rest = [Channels(nn.LayerNorm(48)), nn.Conv2d(48, 96, 2, 2), Block(96), Block(96)]
    return nn.Sequential(*stem, *rest, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


def vit(nn: Any) -> Any:
    """ViT-tiny: width 192, 3 heads, patches of 4 on images of 32; six blocks."""

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 192, 4, 4)
            self.position = nn.Embedding(64, 192)
            layer = nn.TransformerEncoderLayer(192, 3, 768, 0.0, "gelu", batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
            self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, 10)

        def forward(self, x: Any) -> Any:
            tokens = self.patch(x).reshape(x.shape[0], 192, 64).swapaxes(1, 2) + self.position.weight
            return self.head(self.norm(self.encoder(tokens)).mean(1))

    return ViT()


def gpt(nn: Any) -> Any:
    """A small GPT: width 128, 4 heads, 4 blocks, 128 characters of context."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(128), nn.LayerNorm(128)
            self.c_attn, self.c_proj = nn.Linear(128, 384), nn.Linear(128, 128)
            self.mlp = nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Linear(512, 128))

        def forward(self, x: Any) -> Any:
            batch, time, _ = x.shape
            heads = self.c_attn(self.ln_1(x)).reshape(batch, time, 3, 4, 32).swapaxes(1, 3)
            mixed = nn.functional.scaled_dot_product_attention(
                heads[:, :, 0], heads[:, :, 1], heads[:, :, 2], is_causal=True
            )
            x = x + self.c_proj(mixed.swapaxes(1, 2).reshape(batch, time, 128))
            return x + self.mlp(self.ln_2(x))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = nn.Embedding(96, 128), nn.Embedding(128, 128)
            self.blocks = nn.Sequential(*(Block() for _ in range(4)))
            self.ln_f, self.head = nn.LayerNorm(128), nn.Linear(128, 96, bias=False)

        def forward(self, tokens: Any) -> Any:
            return self.head(self.ln_f(self.blocks(self.wte(tokens) + self.wpe.weight))).swapaxes(1, 2)

    return GPT()


def _recurrent(nn: Any, kind: str) -> Any:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(96, 64)
            self.rnn = getattr(nn, kind)(64, 128, 2, batch_first=True)
            self.head = nn.Linear(128, 96)

        def forward(self, tokens: Any) -> Any:
            return self.head(self.rnn(self.embedding(tokens))[0]).swapaxes(1, 2)

    return Tagger()


def mlp(nn: Any) -> Any:
    """Fifty small linear layers: dispatch and launches more than arithmetic."""
    layers = [layer for _ in range(50) for layer in (nn.Linear(32, 32), nn.Tanh())]
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 32), *layers, nn.Linear(32, 10))


class Network(NamedTuple):
    """How to make one, and what it takes."""

    make: Callable[[Any], Any]
    input: tuple[int, ...]
    tokens: bool = False


NETWORKS = {
    "ResNet-18": Network(resnet18, (16, 3, 32, 32)),
    "MobileNetV3-small": Network(mobilenet, (16, 3, 64, 64)),
    "ResNeXt blocks": Network(resnext, (16, 3, 32, 32)),
    "ConvNeXt-like": Network(convnext, (8, 3, 64, 64)),
    "ViT-tiny": Network(vit, (16, 3, 32, 32)),
    "GPT-mini": Network(gpt, (8, 128), True),
    "LSTM, 2 layers": Network(lambda nn: _recurrent(nn, "LSTM"), (16, 64), True),
    "GRU, 2 layers": Network(lambda nn: _recurrent(nn, "GRU"), (16, 64), True),
    "MLP, 50 layers": Network(mlp, (16, 3, 8, 8)),
}


def batch_of(network: Network, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An input and its targets."""
    rng = np.random.default_rng(seed)
    if network.tokens:
        tokens = rng.integers(0, 96, (network.input[0], network.input[1] + 1))
        return tokens[:, :-1], tokens[:, 1:]
    return rng.standard_normal(network.input, np.float32), rng.integers(0, 10, network.input[0])
