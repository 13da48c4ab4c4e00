"""oneDNN as XLA's CPU runtime carries it: under the name of a custom call, with XLA's own configuration as JSON.

`jaxnn._compat.has_onednn` says where this is known to hold.
"""

from __future__ import annotations

import json
from typing import Any

import jax

from jaxnn import _compat


def call(operation: str, config: dict[str, Any], *operands: jax.Array, shape: tuple[int, ...]) -> Any:
    """The result, of `shape`. Float32 only: oneDNN ends the process at a dtype that the processor lacks.

    Args:
        operation: "convolution" or "matmul".
        config: the call's part of XLA's ``BackendConfig``.
        operands: the arrays.
        shape: the result's.
    """
    run = jax.ffi.ffi_call(
        f"__onednn${operation}",
        jax.ShapeDtypeStruct(shape, operands[0].dtype),
        custom_call_api_version=1,
        legacy_backend_config=json.dumps(config),
    )
    return _compat.vary_alike(run(*operands), operands[0])[0]
