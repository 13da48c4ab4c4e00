"""Which implementations ``functional.scaled_dot_product_attention`` may choose from."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator

from jaxnn._ambient import Ambient

# Part of every jit's cache key, as all modes that change what is traced. Each entry is the value of an SDPBackend;
# None stands for "all".
_allowed = Ambient("sdpa_kernel", None)


class SDPBackend(enum.IntEnum):
    """The implementations of scaled dot product attention, under torch's names.

    MATH computes all scores at once. EFFICIENT_ATTENTION holds those of one block of queries at a time and computes them
    anew in the backward pass. FLASH_ATTENTION is the platform's kernel: splash attention on a TPU, cuDNN's on an NVIDIA
    GPU; on the CPU, which has none, it is EFFICIENT_ATTENTION. CUDNN_ATTENTION is cuDNN's. Nothing has the name
    OVERRIDEABLE. Where nothing is said, the table of "Attention" in the documentation says what runs.

    Follows ``torch.nn.attention.SDPBackend``.
    """

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


# jaxnn's own order: kernels, then linear memory.
_PREFERRED = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
    SDPBackend.OVERRIDEABLE,
    SDPBackend.ERROR,
]

SDPBackend.__module__ = "jaxnn.attention"  # torch's path, which pickles name


@contextlib.contextmanager
def sdpa_kernel(backends: list[SDPBackend] | SDPBackend, set_priority: bool = False) -> Iterator[dict[str, object]]:
    """A context (and decorator) in which attention chooses only among `backends`.

    Which of them can run depends on the platform that a program is compiled for, on dtype, shapes and mask; where none
    can, compiling it raises a RuntimeError that says why.

    Args:
        backends: one backend or a list of them.
        set_priority: whether the list's order is the order of preference; False by default, where jaxnn chooses.

    Raises:
        AssertionError: `backends` is neither.

    Example:
        >>> import jax.numpy as jnp, jaxnn.functional as F
        >>> from jaxnn.attention import SDPBackend, sdpa_kernel
        >>> x = jnp.ones((1, 2, 8, 4))
        >>> with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        ...     print(F.scaled_dot_product_attention(x, x, x).shape)
        (1, 2, 8, 4)

    Follows ``torch.nn.attention.sdpa_kernel``.
    """
    if isinstance(backends, SDPBackend):
        backends = [backends]
    if not isinstance(backends, list):
        raise AssertionError(
            f"sdpa_kernel: backends: expected an SDPBackend or a list of them, got {type(backends).__name__}"
        )
    chosen = tuple(dict.fromkeys(int(backend) for backend in backends))
    with _allowed(
        chosen if set_priority else tuple(sorted(chosen, key=lambda backend: _PREFERRED.index(SDPBackend(backend))))
    ):
        yield {}


def allowed_backends() -> tuple[SDPBackend, ...] | None:
    """What ``sdpa_kernel`` allows now, the preferred first; None where nothing is said.

    Raises:
        RuntimeError: none is allowed.
    """
    allowed = _allowed.value
    if allowed is None:
        return None
    usable = tuple(SDPBackend(backend) for backend in allowed if backend != SDPBackend.ERROR)
    if not usable:
        raise RuntimeError("scaled_dot_product_attention: sdpa_kernel: expected at least one backend, got none")
    return usable
