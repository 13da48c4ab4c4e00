"""Weight-only int8 and int4: linear layers keep their weights in a quarter or an eighth of the memory, and compute in float32.

    quantize_linear(model)                              # 8 bits, one scale for each output
    quantize_linear(model, group_size=64)               # one for each 64 inputs of an output: closer, and a little larger
    quantize_linear(model, group_size=32, bits=4)       # 4 bits want small groups

Dettmers et al., "LLM.int8()", 2022, and Frantar et al., "GPTQ", 2022, have the idea and better roundings.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.lowering.store_once import store_once

# Up to so many rows a product is a sum over the weights as they are read, which is what a step of one token needs: a
# matrix product would first write all of them as floats. For more rows that is worth it.
FEW_ROWS = 4
# The sum runs over so many inputs side by side, one for each number of a vector register or two.
LANES = 32


class QuantizedLinear(nn.Module):
    """``F.linear(x, weight * weight_scale, bias)`` with a weight of 8 or 4 bits, in one byte each or two in a byte.

    The two of a byte are inputs `LANES` apart, so that a run of bytes is two runs of inputs. 4 bits also have an offset for
    each group, ``weight * weight_scale + weight_offset``: their 16 values go from the group's least weight to its largest.

    Args:
        linear: whose weight is rounded; its bias is kept.
        group_size: how many inputs share a scale; None for all inputs of an output.
        bits: 8 or 4.

    Raises:
        ValueError: a group size that does not divide the inputs, other bits, or inputs that 4 bits cannot be paired of.
    """

    def __init__(self, linear: nn.Linear, group_size: int | None = None, bits: int = 8):
        super().__init__()
        name = type(self).__name__
        self.out_features, self.in_features = linear.weight.shape
        group_size = self.in_features if group_size is None else group_size
        if group_size < 1 or self.in_features % group_size:
            raise ValueError(f"{name}: group_size: expected a divisor of {self.in_features}, got {group_size}")
        if bits not in (4, 8):
            raise ValueError(f"{name}: bits: expected 4 or 8, got {bits}")
        if bits == 4 and self.in_features % (2 * LANES):
            raise ValueError(f"{name}: linear: expected a multiple of {2 * LANES} inputs, got {self.in_features}")
        self.bits = bits
        groups = linear.weight.astype(jnp.float32).reshape(self.out_features, -1, group_size)
        scale, offset = _symmetric(groups) if bits == 8 else _between(groups)
        shifted = groups if offset is None else groups - offset[:, :, None]
        rounded = jnp.round(shifted / scale[:, :, None]).astype(jnp.int8).reshape(linear.weight.shape)
        self.weight = nn.Buffer(rounded if bits == 8 else _packed(rounded))
        self.weight_scale = nn.Buffer(scale)
        self.register_buffer("weight_offset", offset)
        self.register_parameter("bias", None if linear.bias is None else nn.Parameter(linear.bias, requires_grad=False))

    def _whole(self):
        """The rounded numbers, (out_features, in_features)."""
        if self.bits == 8:
            return self.weight
        pairs = self.weight.reshape(self.out_features, -1, LANES)
        return jnp.stack(_halves(pairs), axis=2).reshape(self.out_features, self.in_features)

    def dequantized(self):
        """The rounded weight as floats."""
        groups = self._whole().reshape(*self.weight_scale.shape, -1).astype(jnp.float32)
        weight = groups * self.weight_scale[:, :, None]
        weight = weight if self.weight_offset is None else weight + self.weight_offset[:, :, None]
        return weight.reshape(self.out_features, self.in_features)

    def _product(self, row):
        """Of one row. XLA's CPU compiler makes one vector loop of products that are added up term by term, a run of inputs
        each; a sum over all inputs it would split off, and write the products out."""
        groups, size = self.weight_scale.shape[1], self.in_features // self.weight_scale.shape[1]
        if self.in_features % LANES or (groups > 1 and size % LANES):
            return (row * self.dequantized()).sum(-1)

        def by_lane():
            terms = []
            for at, run in enumerate(_runs(self)):
                term = row[at * LANES : (at + 1) * LANES] * run.astype(jnp.float32)
                terms.append(term if groups == 1 else term * self.weight_scale[:, at * LANES // size, None])
            return _added(terms)

        sums = store_once(by_lane, row).sum(-1)
        sums = sums * self.weight_scale[:, 0] if groups == 1 else sums
        return sums if self.weight_offset is None else sums + self.weight_offset @ row.reshape(groups, size).sum(-1)

    def forward(self, x):
        rows = x.reshape(-1, self.in_features)
        if len(rows) > FEW_ROWS:
            return F.linear(
                x, self.dequantized().astype(x.dtype), None if self.bias is None else self.bias.astype(x.dtype)
            )
        y = jnp.stack([self._product(row.astype(jnp.float32)) for row in rows])
        y = y if self.bias is None else y + self.bias
        return y.astype(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        groups = self.weight_scale.shape[1]
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, groups={groups}, "
            f"bias={self.bias is not None}"
        )


def _symmetric(groups):
    """The scale of each group (out, groups, size) for numbers from -127 to 127, and no offset."""
    extent = jnp.abs(groups).max(-1)
    return jnp.where(extent == 0, 1.0, extent / 127), None


def _between(groups):
    """The scale and the offset for numbers from -8 to 7, which stand for the least and the largest of each group."""
    least, largest = groups.min(-1), groups.max(-1)
    scale = jnp.where(largest == least, 1.0, (largest - least) / 15)
    return scale, least + 8 * scale


def _packed(numbers):
    """4-bit numbers (out, in), two in a byte: of two runs of `LANES` inputs the first in the low bits."""
    low, high = jnp.moveaxis(numbers.reshape(len(numbers), -1, 2, LANES), 2, 0)
    return jax.lax.bitcast_convert_type((low & 15) | (high << 4), jnp.int8).reshape(len(numbers), -1)


def _runs(layer: QuantizedLinear):
    """The layer's numbers in runs of `LANES` inputs, int8."""
    stored = [layer.weight[:, at : at + LANES] for at in range(0, layer.weight.shape[1], LANES)]
    if layer.bits == 8:
        return stored
    return [half for run in stored for half in _halves(run)]


def _halves(pairs):
    """Of two 4-bit numbers in a byte the one in the low bits and the other; an arithmetic shift keeps the sign."""
    return (pairs << 4) >> 4, pairs >> 4


def _added(terms):
    """Their sum, in pairs."""
    while len(terms) > 1:
        terms = [sum(terms[at : at + 2]) for at in range(0, len(terms), 2)]
    return terms[0]


def quantize_linear(
    model,
    group_size: int | None = None,
    chosen: Callable[[str, nn.Linear], bool] = lambda name, module: True,
    bits: int = 8,
) -> list[str]:
    """Put a `QuantizedLinear` in the place of every linear layer that `chosen` (name, layer) says True of.

    A head whose weight is that of the token embedding gets one of its own; the embedding stays as it is.

    Returns:
        The names of the layers.
    """
    places = [
        (name, module) for name, module in model.named_modules() if type(module) is nn.Linear and chosen(name, module)
    ]
    for name, module in places:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, QuantizedLinear(module, group_size, bits))
    return [name for name, _ in places]
