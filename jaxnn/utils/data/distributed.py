"""One process's part of the data. Follows ``torch.utils.data.distributed``: the same seed, the same order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from typing import Any

from jaxnn.base.checks import fail
from jaxnn.core.random import Generator
from jaxnn.multihost import processes
from jaxnn.utils.data import _draws
from jaxnn.utils.data.sampler import Sampler

__all__ = ["DistributedSampler"]


class DistributedSampler(Sampler[int]):
    """The indices that this process reads: every `num_replicas`-th, beginning at `rank`, of one order of all.

    The order depends on `seed` and the epoch alone. Where the length does not divide, indices from the beginning come
    again, or with `drop_last` some at the end do not come, so that all processes have as many batches.

    Args:
        dataset: what has a length.
        num_replicas: how many processes share the data; by default all of the process group.
        rank: which of them this is; by default this process.
        shuffle: another order in each epoch; see ``set_epoch``.
        seed: the same on every process.
        drop_last: leave some out rather than repeat some.

    Raises:
        ValueError: `rank` is not under `num_replicas`.

    Example:
        >>> import jaxnn as nn
        >>> sampler = nn.utils.data.DistributedSampler(range(10), num_replicas=2, rank=0)
        >>> for epoch in range(2):
        ...     sampler.set_epoch(epoch)
        ...     print(list(sampler))
        [4, 7, 3, 0, 6]
        [5, 1, 0, 9, 7]

    Follows ``torch.utils.data.DistributedSampler``.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        num_replicas = processes.count() if num_replicas is None else num_replicas
        rank = processes.index() if rank is None else rank
        if not 0 <= rank < num_replicas:
            fail(ValueError, "DistributedSampler", "rank", f"a number from 0 to {num_replicas - 1}", f"rank {rank}")
        self.dataset = dataset
        self.num_replicas, self.rank = num_replicas, rank
        self.epoch = 0
        self.drop_last = drop_last
        length = len(dataset)
        uneven = drop_last and length % num_replicas != 0
        self.num_samples = math.ceil((length - num_replicas * uneven) / num_replicas)
        self.total_size = self.num_samples * num_replicas
        self.shuffle = shuffle
        self.seed = seed
        self._first = self._taken = 0  # where the next iteration begins; how many this one has given

    def __iter__(self) -> Iterator[int]:
        length = len(self.dataset)
        if self.shuffle:
            indices = _draws.permutation(length, Generator().manual_seed(self.seed + self.epoch))
        else:
            indices = list(range(length))
        if not self.drop_last and length:
            indices = (indices * math.ceil(self.total_size / length))[: self.total_size]
        elif self.drop_last:
            indices = indices[: self.total_size]
        if len(indices) != self.total_size:
            raise AssertionError(
                f"DistributedSampler: dataset: expected the {self.total_size} items it was made for, got {length}"
            )
        own = indices[self.rank :: self.num_replicas]
        first, self._first = min(self._first, len(own)), 0
        self._taken = first
        return self._from(own, first)

    def _from(self, own: list[int], first: int) -> Iterator[int]:
        for index in own[first:]:
            self._taken += 1
            yield index
        self._taken = 0

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, before it is iterated over; without it every epoch has the order of the first.

        Args:
            epoch: its number, the same on every process.
        """
        if epoch != self.epoch:
            self._first = 0
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the epoch, the seed, and how many indices all processes together have taken of it.

        A loader with workers takes some batches ahead of those that it has given.
        """
        return {"epoch": self.epoch, "seed": self.seed, "taken": self._taken * self.num_replicas}

    def load_state_dict(self, state_dict: Any) -> None:
        """Take back what ``state_dict`` gave: the next iteration goes on there. The number of processes may be another."""
        self.epoch, self.seed = int(state_dict["epoch"]), int(state_dict["seed"])
        self._first = self._taken = int(state_dict["taken"]) // self.num_replicas
