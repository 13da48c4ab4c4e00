"""Mixed precision by torch.amp's names: ``autocast``, and ``GradScaler`` for float16. bfloat16 needs no scaler."""

from jaxnn.amp.grad_scaler import GradScaler as GradScaler
from jaxnn.base.autocast import autocast as autocast
from jaxnn.base.autocast import is_autocast_available as is_autocast_available
from jaxnn.base.names import public_names as _public_names


def __dir__() -> list[str]:
    return _public_names(globals())
