"""A model as one file that runs without its source, by torch.export's names, over ``jax.export``."""

from jaxnn.base.names import public_names as _public_names
from jaxnn.export.dims import Dim as Dim
from jaxnn.export.exporting import export as export
from jaxnn.export.files import load as load
from jaxnn.export.files import save as save
from jaxnn.export.plain import plain as plain
from jaxnn.export.program import ExportedProgram as ExportedProgram


def __dir__() -> list[str]:
    return _public_names(globals())
