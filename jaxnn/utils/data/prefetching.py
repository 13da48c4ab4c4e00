"""Batches on their way to the device while the step before them runs."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from jaxnn.base.checks import as_int, fail
from jaxnn.base.dtypes import held_as, is_array
from jaxnn.boxes.parameter import as_sharding
from jaxnn.utils.data._utils import host

_NO_NUMBERS = "SaUOMm"


def _target(device: Any) -> Any:
    """Where arrays go. None where JAX would put them anyway: they are not committed to the device then.

    A step whose model is not committed, and comes back committed because of its batch, would be compiled twice.
    """
    sharding = as_sharding(device, "prefetch: device")
    if isinstance(sharding, jax.sharding.SingleDeviceSharding):
        default = jax.config.jax_default_device or jax.local_devices()[0]  # pyright: ignore[reportAttributeAccessIssue]
        if sharding.device_set == {default}:
            return None
    return sharding


def placed(batch: Any, sharding: Any, owned: bool = False, where: str = "prefetch") -> Any:
    """`batch` with its arrays and tensors as jax arrays at `sharding`, None for JAX's default device; the rest as it is.

    Args:
        batch: any containers that are pytrees.
        sharding: where to.
        owned: nobody else holds the memory of the batch's arrays, so that JAX may use it as it is.
        where: for messages.

    Raises:
        TypeError: 64-bit floats without ``jax_enable_x64``.
        OverflowError: 64-bit integers that 32 bits do not hold.
        ValueError: an array that cannot be divided as `sharding` says.
    """

    def place(leaf: Any) -> Any:
        if host.is_tensor(leaf):
            leaf = host.as_numpy(leaf)
        if not is_array(leaf) or getattr(leaf.dtype, "kind", "") in _NO_NUMBERS:
            return leaf
        if isinstance(leaf, jax.Array):
            return leaf if sharding is None else jax.device_put(leaf, sharding)
        # device_put on the CPU goes on using a NumPy array's memory, also with may_alias=False (JAX 0.10 and 0.12).
        leaf = leaf.astype(held_as(leaf, where), copy=not owned)
        try:
            return jax.device_put(leaf, sharding)
        except ValueError as error:
            error.add_note(f"{where}: placing an array of shape {leaf.shape}; drop_last=True leaves a short batch out")
            raise

    return jax.tree.map(place, batch)


class _Ahead(Iterator[Any]):
    """The batches of one pass over `source`, `size` of them on their way beyond the one that is out."""

    def __init__(self, source: Iterator[Any], sharding: Any, size: int, owned: bool) -> None:
        self._source, self._sharding, self._size, self._owned = source, sharding, size, owned
        self._waiting: collections.deque[tuple[Any, BaseException | None]] = collections.deque()
        self._ended = False

    def __next__(self) -> Any:
        while not self._ended and len(self._waiting) < self._size:
            try:
                self._waiting.append((placed(next(self._source), self._sharding, self._owned), None))
            except StopIteration:
                self._ended = True
            except Exception as error:  # its turn comes after the batches before it
                self._waiting.append((None, error))
                break
        if not self._waiting:
            raise StopIteration
        batch, error = self._waiting.popleft()
        if error is not None:
            raise error
        return batch


class Prefetched(Iterable[Any]):
    """What `prefetch` returns: as many passes, and the length, as its source has."""

    def __init__(self, source: Iterable[Any], device: Any, size: int = 2, owned: bool = False) -> None:
        self.source, self._sharding, self._size, self._owned = source, _target(device), size, owned

    def __iter__(self) -> Iterator[Any]:
        return _Ahead(iter(self.source), self._sharding, self._size, self._owned)

    def __len__(self) -> int:
        return len(self.source)  # pyright: ignore[reportArgumentType]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)  # loader.dataset, loader.batch_size


def prefetch(source: Iterable[Any], device: Any = None, size: int = 2) -> Prefetched:
    """The batches of a loader as jax arrays, `size` of them on their way while one is used.

    JAX copies to a device in the background. So a batch that is asked for early is there when the step needs it.

    Args:
        source: what gives batches: a ``DataLoader``, PyTorch's own, whose tensors become arrays, grain's, or any
            iterable.
        device: a jax device, a ``jax.sharding.Sharding`` to divide each array by, or a platform's name; by default
            JAX's default device.
        size: how many batches are taken from `source` before they are asked for, the one asked for included.

    Raises:
        TypeError: `source` is not iterable; while iterating: a 64-bit float without ``jax_enable_x64``.
        ValueError: `size` is less than 1.

    Example:
        >>> import numpy as np, jaxnn as nn
        >>> for x, name in nn.utils.data.prefetch([(np.zeros((2, 3), np.float32), "a")]):
        ...     print(type(x).__name__, x.shape, name)
        ArrayImpl (2, 3) a
    """
    if not hasattr(source, "__iter__") and not hasattr(source, "__getitem__"):
        fail(TypeError, "prefetch", "source", "a loader or another iterable of batches", source)
    if as_int("prefetch", "size", size) < 1:
        fail(ValueError, "prefetch", "size", "at least 1", str(size))
    return Prefetched(source, device, size)
