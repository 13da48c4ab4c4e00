"""Checkpoints: PyTorch's files and safetensors', to disk and back; GGUF's, read."""

from jaxnn.base.names import public_names as _public_names
from jaxnn.io.errors import CheckpointError as CheckpointError
from jaxnn.io.files import gguf_metadata as gguf_metadata
from jaxnn.io.files import load as load
from jaxnn.io.files import save as save


def __dir__() -> list[str]:
    return _public_names(globals())
