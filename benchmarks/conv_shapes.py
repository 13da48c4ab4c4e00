"""Forty convolutions of well-known networks: what the convolution tables are timed on.

Sizes are those of the networks' layers at small images (so that a round over all of them takes seconds on two cores).
"""

from __future__ import annotations

from typing import NamedTuple


class Conv(NamedTuple):
    """One layer: where it stands, and its options. `kernel` gives the number of spatial dimensions."""

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    out: int
    kernel: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False


SHAPES = (
    # ResNet-18 and -50: stem, 3x3 of the four stages, downsampling, bottlenecks
    Conv("ResNet stem 7x7/2", 4, 3, (112, 112), 64, (7, 7), stride=2, padding=3),
    Conv("ResNet 3x3 64", 4, 64, (28, 28), 64, (3, 3), padding=1),
    Conv("ResNet 3x3 64 large", 2, 64, (56, 56), 64, (3, 3), padding=1),
    Conv("ResNet 3x3/2 64-128", 4, 64, (28, 28), 128, (3, 3), stride=2, padding=1),
    Conv("ResNet 3x3 128", 4, 128, (14, 14), 128, (3, 3), padding=1),
    Conv("ResNet 3x3 256", 4, 256, (14, 14), 256, (3, 3), padding=1),
    Conv("ResNet 3x3 512", 4, 512, (7, 7), 512, (3, 3), padding=1),
    Conv("ResNet 1x1 64-256", 4, 64, (28, 28), 256, (1, 1)),
    Conv("ResNet 1x1 256-64", 4, 256, (28, 28), 64, (1, 1)),
    Conv("ResNet 1x1/2 256-512", 4, 256, (28, 28), 512, (1, 1), stride=2),
    Conv("CIFAR stem 3x3", 16, 3, (32, 32), 64, (3, 3), padding=1),
    # ResNeXt: 32 groups
    Conv("ResNeXt 3x3 128/32", 4, 128, (28, 28), 128, (3, 3), padding=1, groups=32),
    Conv("ResNeXt 3x3/2 256/32", 4, 256, (28, 28), 256, (3, 3), stride=2, padding=1, groups=32),
    Conv("ResNeXt 3x3 512/32", 4, 512, (14, 14), 512, (3, 3), padding=1, groups=32),
    Conv("ResNeXt 3x3 1024/32", 4, 1024, (7, 7), 1024, (3, 3), padding=1, groups=32),
    Conv("ShuffleNet 1x1 240/3", 8, 240, (14, 14), 240, (1, 1), groups=3),
    # MobileNetV3, EfficientNet: depthwise, expansions, squeeze and excite
    Conv("MobileNet stem 3x3/2", 8, 3, (96, 96), 16, (3, 3), stride=2, padding=1),
    Conv("MobileNet dw 3x3 16", 8, 16, (48, 48), 16, (3, 3), padding=1, groups=16),
    Conv("MobileNet dw 3x3/2 64", 8, 64, (48, 48), 64, (3, 3), stride=2, padding=1, groups=64),
    Conv("MobileNet dw 3x3 240", 8, 240, (14, 14), 240, (3, 3), padding=1, groups=240),
    Conv("MobileNet dw 5x5/2 96", 8, 96, (28, 28), 96, (5, 5), stride=2, padding=2, groups=96),
    Conv("MobileNet dw 5x5 576", 8, 576, (7, 7), 576, (5, 5), padding=2, groups=576),
    Conv("MobileNet 1x1 24-72", 8, 24, (28, 28), 72, (1, 1)),
    Conv("MobileNet 1x1 96-576", 8, 96, (7, 7), 576, (1, 1)),
    Conv("MobileNet squeeze 1x1", 8, 576, (1, 1), 144, (1, 1)),
    Conv("EfficientNet dw 5x5 672", 4, 672, (14, 14), 672, (5, 5), padding=2, groups=672),
    Conv("EfficientNet 1x1 192-1152", 4, 192, (7, 7), 1152, (1, 1)),
    # ConvNeXt: large depthwise kernels, patches
    Conv("ConvNeXt patch 4x4/4", 4, 3, (112, 112), 96, (4, 4), stride=4),
    Conv("ConvNeXt dw 7x7 96", 4, 96, (28, 28), 96, (7, 7), padding=3, groups=96),
    Conv("ConvNeXt dw 7x7 384", 4, 384, (7, 7), 384, (7, 7), padding=3, groups=384),
    Conv("ConvNeXt down 2x2/2", 4, 96, (28, 28), 192, (2, 2), stride=2),
    # U-Net: wide images, transposed
    Conv("U-Net 3x3 64", 1, 64, (96, 96), 64, (3, 3)),
    Conv("U-Net 3x3 128-64", 1, 128, (64, 64), 64, (3, 3), padding=1),
    Conv("U-Net up 2x2/2", 2, 128, (28, 28), 64, (2, 2), stride=2, transposed=True),
    Conv("DCGAN up 4x4/2", 4, 128, (14, 14), 64, (4, 4), stride=2, padding=1, transposed=True),
    # WaveNet and 1d
    Conv("WaveNet 2 dilated 8", 4, 64, (1024,), 128, (2,), dilation=8),
    Conv("WaveNet 1x1 1d", 4, 64, (1024,), 64, (1,)),
    Conv("Speech 1d k9 depthwise", 4, 144, (512,), 144, (9,), padding=4, groups=144),
    # video
    Conv("R3D stem 3x7x7", 1, 3, (8, 56, 56), 64, (3, 7, 7), stride=2, padding=3),
    Conv("R3D 3x3x3 64", 1, 64, (8, 14, 14), 64, (3, 3, 3), padding=1),
)
