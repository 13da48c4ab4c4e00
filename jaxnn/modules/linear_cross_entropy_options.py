"""Follows ``torch.nn.modules.linear_cross_entropy_options``."""

from jaxnn.functional.linear_cross_entropy import LinearCrossEntropyOptions as LinearCrossEntropyOptions
