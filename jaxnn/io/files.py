"""`save` and `load`: state dicts as .safetensors files, written atomically."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnn.core.dtypes import describe


def save(state_dict: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write names and arrays to a .safetensors file, which PyTorch and every safetensors library read.

    The file appears whole or not at all: a crash leaves what was there before.

    Args:
        state_dict: names to arrays, as ``model.state_dict()`` gives.
        path: ends in ``.safetensors``.

    Raises:
        ValueError: another ending.
        TypeError: a value that is not an array, or an abstract one.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"save: path: expected a name that ends in .safetensors, got {path.name!r}")
    arrays = {}
    for name, value in state_dict.items():
        if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
            raise TypeError(f"save: state_dict[{name!r}]: expected an array, got {describe(value)}")
        arrays[name] = np.ascontiguousarray(value).reshape(np.shape(value))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        save_file(arrays, temporary, metadata={"format": "pt"})
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Read a .safetensors file: names to NumPy arrays, for ``model.load_state_dict``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another ending, or a file that is not in the format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"load: path: expected a name that ends in .safetensors, got {path.name!r}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"load: {path}: not a safetensors file: {error}") from error
