"""Causal masks by name. Follows ``torch.nn.attention.bias``."""

from jaxnn.base.names import public_names as _public_names
from jaxnn.functional.attention_bias import CausalBias as CausalBias
from jaxnn.functional.attention_bias import CausalVariant as CausalVariant
from jaxnn.functional.attention_bias import causal_lower_right as causal_lower_right
from jaxnn.functional.attention_bias import causal_upper_left as causal_upper_left


def __dir__() -> list[str]:
    return _public_names(globals())
