"""From PyTorch source to jaxnn source: ``python -m jaxnn port model.py -o model_jax.py``."""

from jaxnn.port.port import port_path as port_path
from jaxnn.port.port import port_source as port_source
from jaxnn.port.sites import Ported as Ported
from jaxnn.port.sites import Site as Site
