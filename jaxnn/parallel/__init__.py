"""Several devices: torch.nn.parallel's names over JAX's shardings."""

from jaxnn.parallel.data_parallel import DataParallel as DataParallel
from jaxnn.parallel.data_parallel import data_parallel as data_parallel
