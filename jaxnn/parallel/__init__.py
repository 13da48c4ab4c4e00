"""Several devices: torch.nn.parallel's names over JAX's shardings."""

from jaxnn.base.names import public_names as _public_names
from jaxnn.parallel.data_parallel import DataParallel as DataParallel
from jaxnn.parallel.data_parallel import data_parallel as data_parallel


def __dir__() -> list[str]:
    return _public_names(globals())
