"""torch.distributed.checkpoint's names over orbax: saved from any mesh, loaded onto any other, each process its own part."""

from jaxnn.base.names import public_names as _public_names
from jaxnn.parallel.checkpoint.safetensors import HuggingFaceStorageReader as HuggingFaceStorageReader
from jaxnn.parallel.checkpoint.safetensors import HuggingFaceStorageWriter as HuggingFaceStorageWriter
from jaxnn.parallel.checkpoint.saving import Saving as Saving
from jaxnn.parallel.checkpoint.saving import async_save as async_save
from jaxnn.parallel.checkpoint.saving import load as load
from jaxnn.parallel.checkpoint.saving import save as save


def __dir__() -> list[str]:
    return _public_names(globals())
