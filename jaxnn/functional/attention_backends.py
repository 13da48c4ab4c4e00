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

    MATH computes all scores at once with XLA. Every other name stands for the blockwise implementation, which
    never holds the scores of more than one block of queries and recomputes them in the backward pass. Where nothing
    is said, the CPU takes that one from 1,024 queries on, and MATH stands for everything else.

    Follows ``torch.nn.attention.SDPBackend``.
    """

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


SDPBackend.__module__ = "jaxnn.attention"  # torch's path, which pickles name


@contextlib.contextmanager
def sdpa_kernel(backends: list[SDPBackend] | SDPBackend, set_priority: bool = False) -> Iterator[dict[str, object]]:
    """A context (and decorator) in which attention chooses only among `backends`.

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
    with _allowed(chosen if set_priority else tuple(sorted(chosen))):
        yield {}


def choose_backend() -> SDPBackend | None:
    """The first implementation that ``sdpa_kernel`` allows now; None where nothing is said.

    Raises:
        RuntimeError: none is allowed.
    """
    allowed = _allowed.value
    if allowed is None:
        return None
    usable = [SDPBackend(backend) for backend in allowed if backend != SDPBackend.ERROR]
    if not usable:
        raise RuntimeError("scaled_dot_product_attention: sdpa_kernel: expected at least one backend, got none")
    return usable[0]
