"""What alters and extends scaled dot product attention. Follows ``torch.nn.attention``."""

from jaxnn.attention import bias as bias
from jaxnn.base.names import public_names as _public_names
from jaxnn.functional.attention_backends import SDPBackend as SDPBackend
from jaxnn.functional.attention_backends import sdpa_kernel as sdpa_kernel

# torch: nothing warns here; kept so that code which sets it runs.
WARN_FOR_UNFUSED_KERNELS = False


def __dir__() -> list[str]:
    return _public_names(globals(), "bias", "WARN_FOR_UNFUSED_KERNELS")
