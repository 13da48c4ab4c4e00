"""What alters and extends scaled dot product attention. Follows ``torch.nn.attention``."""

from jaxnn.attention import bias as bias
from jaxnn.functional.attention_backends import SDPBackend as SDPBackend
from jaxnn.functional.attention_backends import sdpa_kernel as sdpa_kernel

# torch: nothing warns here; kept so that code which sets it runs.
WARN_FOR_UNFUSED_KERNELS = False
