"""U-Net; parameters are named as in milesial's Pytorch-UNet (https://github.com/milesial/Pytorch-UNet).

Ronneberger et al., 2015 (https://arxiv.org/abs/1505.04597), with padded convolutions and BatchNorm.
"""

from __future__ import annotations

import jax.numpy as jnp

import jaxnn as nn
import jaxnn.functional as F


class DoubleConv(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, mid_channels: int | None = None, bias: bool = False):
        super().__init__()
        mid_channels = mid_channels or out_channels
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, mid_channels, 3, padding=1, bias=bias),
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(),
            nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=bias),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, x):
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, bias: bool = False):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(in_channels, out_channels, bias=bias))

    def forward(self, x):
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Doubles the resolution, and joins what the way down left at that size."""

    def __init__(self, in_channels: int, out_channels: int, bilinear: bool, bias: bool = False):
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(in_channels, out_channels, in_channels // 2, bias)
        else:
            self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, kernel_size=2, stride=2)
            self.conv = DoubleConv(in_channels, out_channels, bias=bias)

    def forward(self, x, left):
        x = self.up(x)
        high, wide = left.shape[2] - x.shape[2], left.shape[3] - x.shape[3]  # odd sizes lose a row on the way down
        x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return self.conv(jnp.concatenate([left, x], axis=1))


class OutConv(nn.Module):
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x):
        return self.conv(x)


class UNet(nn.Module):
    """Images (batch, n_channels, height, width) to logits (batch, n_classes, height, width); sides from 16 on.

    Args:
        n_channels, n_classes: of the image and of the result.
        bilinear: interpolate on the way up, instead of transposed convolutions.
        width: channels of the first level; each level down doubles them. The original has 64.
        bias: of the convolutions before BatchNorm. The original had them at first; its older files of weights do.
    """

    def __init__(self, n_channels: int, n_classes: int, bilinear: bool = False, width: int = 64, bias: bool = False):
        super().__init__()
        self.n_channels, self.n_classes, self.bilinear = n_channels, n_classes, bilinear
        factor = 2 if bilinear else 1
        self.inc = DoubleConv(n_channels, width, bias=bias)
        self.down1 = Down(width, 2 * width, bias)
        self.down2 = Down(2 * width, 4 * width, bias)
        self.down3 = Down(4 * width, 8 * width, bias)
        self.down4 = Down(8 * width, 16 * width // factor, bias)
        self.up1 = Up(16 * width, 8 * width // factor, bilinear, bias)
        self.up2 = Up(8 * width, 4 * width // factor, bilinear, bias)
        self.up3 = Up(4 * width, 2 * width // factor, bilinear, bias)
        self.up4 = Up(2 * width, width, bilinear, bias)
        self.outc = OutConv(width, n_classes)

    def forward(self, x):
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x5 = self.down4(x4)
        x = self.up1(x5, x4)
        x = self.up2(x, x3)
        x = self.up3(x, x2)
        x = self.up4(x, x1)
        return self.outc(x)
