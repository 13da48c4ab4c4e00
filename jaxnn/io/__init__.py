"""Checkpoints: state dicts to files and back."""

from jaxnn.io.files import load as load
from jaxnn.io.files import save as save
