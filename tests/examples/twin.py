"""A model file of ``examples/models`` as PyTorch code: its imports exchanged, and jnp's calls by torch's.

That this is all it takes is what the files promise.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import torch

MODELS = Path(__file__).parents[2] / "examples" / "models"
IMPORTS = {
    "import jaxnn as nn\n": "from torch import nn\n",
    "import jaxnn.functional as F\n": "from torch.nn import functional as F\n",
    "import jax.numpy as jnp\n": "from tests.examples.twin import jnp\n",
    '@functools.partial(nn.jit, static_argnames="top_k")\n': "",
}


class jnp:
    """The calls of jax.numpy that the model files make, by torch."""

    arange, broadcast_to, zeros = torch.arange, torch.broadcast_to, torch.zeros

    @staticmethod
    def concatenate(arrays, axis):
        return torch.cat(arrays, dim=axis)


def load(name: str) -> types.ModuleType:
    """``examples/models/<name>.py`` over torch.nn."""
    source = (MODELS / f"{name}.py").read_text()
    for ours, theirs in IMPORTS.items():
        source = source.replace(ours, theirs)
    module = types.ModuleType(f"{name}_twin")
    sys.modules[module.__name__] = module  # where dataclasses look for it
    exec(compile(source, f"{name}_twin.py", "exec"), module.__dict__)
    return module
