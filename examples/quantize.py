"""Weight-only int8: linear layers keep their weights in a quarter of the memory, and compute in the input's precision.

    quantize_linear(model)                      # one scale for each output
    quantize_linear(model, group_size=64)       # one for each 64 inputs of an output: closer, and a little larger

Dettmers et al., "LLM.int8()", 2022, and Frantar et al., "GPTQ", 2022, have the idea and better roundings.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

import jaxnn as nn
import jaxnn.functional as F

# Up to so many rows a product is a sum over the weights as they are read, which is what a step of one token needs: a
# matrix product would first write all of them as floats. For more rows that is worth it.
FEW_ROWS = 4


class Int8Linear(nn.Module):
    """``F.linear(x, weight * weight_scale, bias)`` with an int8 weight.

    Args:
        linear: whose weight is rounded; its bias is kept.
        group_size: how many inputs share a scale; None for all inputs of an output.

    Raises:
        ValueError: a group size that does not divide the inputs.
    """

    def __init__(self, linear: nn.Linear, group_size: int | None = None):
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        group_size = self.in_features if group_size is None else group_size
        if group_size < 1 or self.in_features % group_size:
            raise ValueError(f"Int8Linear: group_size: expected a divisor of {self.in_features}, got {group_size}")
        groups = linear.weight.astype(jnp.float32).reshape(self.out_features, -1, group_size)
        largest = jnp.abs(groups).max(-1)
        scale = jnp.where(largest == 0, 1.0, largest / 127)
        self.weight = nn.Buffer(jnp.round(groups / scale[:, :, None]).astype(jnp.int8).reshape(linear.weight.shape))
        self.weight_scale = nn.Buffer(scale)
        self.register_parameter("bias", None if linear.bias is None else nn.Parameter(linear.bias, requires_grad=False))

    def dequantized(self):
        """The rounded weight as floats."""
        groups = self.weight.reshape(*self.weight_scale.shape, -1).astype(jnp.float32)
        return (groups * self.weight_scale[:, :, None]).reshape(self.weight.shape)

    def _product(self, row):
        # A product and a sum in two dimensions: XLA's CPU compiler makes one loop of them, and of little else.
        products = row * self.weight.astype(jnp.float32)
        if self.weight_scale.shape[1] == 1:
            return products.sum(-1) * self.weight_scale[:, 0]
        return (products.reshape(*self.weight_scale.shape, -1).sum(-1) * self.weight_scale).sum(-1)

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
        return f"in_features={self.in_features}, out_features={self.out_features}, groups={groups}, bias={self.bias is not None}"


def quantize_linear(
    model, group_size: int | None = None, chosen: Callable[[str, nn.Linear], bool] = lambda name, module: True
) -> list[str]:
    """Put an `Int8Linear` in the place of every linear layer that `chosen` (name, layer) says True of.

    A head whose weight is that of the token embedding gets one of its own; the embedding stays as it is.

    Returns:
        The names of the layers.
    """
    places = [
        (name, module) for name, module in model.named_modules() if type(module) is nn.Linear and chosen(name, module)
    ]
    for name, module in places:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, Int8Linear(module, group_size))
    return [name for name, _ in places]
