"""From a live PyTorch model to a jaxnn model, and arrays across without copies."""

from jaxnn.base.names import public_names as _public_names
from jaxnn.porting.arrays import from_torch_state_dict as from_torch_state_dict
from jaxnn.porting.arrays import to_torch_state_dict as to_torch_state_dict
from jaxnn.porting.convert import CannotConvert as CannotConvert
from jaxnn.porting.convert import from_torch as from_torch


def __dir__() -> list[str]:
    return _public_names(globals())
