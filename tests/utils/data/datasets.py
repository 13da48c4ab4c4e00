"""Datasets and functions that worker processes import."""

import math
import os
import random
import time

import numpy as np

import jaxnn as nn

data = nn.utils.data


class Squares(data.Dataset):
    def __init__(self, n=10, slow=0.0):
        self.n, self.slow = n, slow

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        time.sleep(self.slow)
        return np.float32(index**2)


class Failing(Squares):
    """Item 7 fails."""

    def __init__(self, error=ValueError, n=10):
        super().__init__(n)
        self.error = error

    def __getitem__(self, index):
        if index == 7:
            raise self.error("out of paint")
        return super().__getitem__(index)


class TwoWords(Exception):
    def __init__(self, first, second):
        super().__init__(first, second)


class FailingOddly(Squares):
    def __getitem__(self, index):
        raise TwoWords("one", "two")


class Counting(data.IterableDataset):
    """The numbers from start to end; with `share`, each worker its part."""

    def __init__(self, start, end, share=False):
        self.start, self.end, self.share = start, end, share

    def __iter__(self):
        info, start, end = data.get_worker_info(), self.start, self.end
        if info is not None and self.share:
            part = math.ceil((end - start) / info.num_workers)
            start, end = start + info.id * part, min(start + (info.id + 1) * part, end)
        return iter(range(start, end))


def take_a_part(worker_id):
    info = data.get_worker_info()
    dataset, part = info.dataset, math.ceil((info.dataset.end - info.dataset.start) / info.num_workers)
    dataset.start += worker_id * part
    dataset.end = min(dataset.start + part, dataset.end)


class Whoami(data.Dataset):
    """What a worker knows of itself, and its first global random numbers."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        info = data.get_worker_info()
        if index == 7:
            raise ValueError("out of paint")
        return (
            info.id,
            info.num_workers,
            info.seed,
            os.getpid(),
            getattr(self, "initialised", -1),
            int(np.random.randint(2**31)),
            random.randrange(2**31),
        )


def initialise(worker_id):
    data.get_worker_info().dataset.initialised = 100 + worker_id


class Dying(Squares):
    def __getitem__(self, index):
        if index == 5:
            os._exit(3)
        return super().__getitem__(index)
