"""Which implementations of attention may be chosen from. Follows ``torch.nn.attention``."""

from jaxnn.functional.attention_backends import SDPBackend as SDPBackend
from jaxnn.functional.attention_backends import sdpa_kernel as sdpa_kernel
