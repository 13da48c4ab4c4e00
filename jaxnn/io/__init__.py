"""Checkpoints: PyTorch's files and safetensors', to disk and back."""

from jaxnn.io.errors import CheckpointError as CheckpointError
from jaxnn.io.files import load as load
from jaxnn.io.files import save as save
