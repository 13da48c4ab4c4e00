"""Datasets, samplers and loaders by torch.utils.data's names: torch's batches for the same seed, as NumPy arrays."""

from jaxnn.base.names import public_names as _public_names
from jaxnn.utils.data._utils.collate import default_collate as default_collate
from jaxnn.utils.data._utils.collate import default_convert as default_convert
from jaxnn.utils.data._utils.worker import get_worker_info as get_worker_info
from jaxnn.utils.data.dataloader import DataLoader as DataLoader
from jaxnn.utils.data.dataset import ChainDataset as ChainDataset
from jaxnn.utils.data.dataset import ConcatDataset as ConcatDataset
from jaxnn.utils.data.dataset import Dataset as Dataset
from jaxnn.utils.data.dataset import IterableDataset as IterableDataset
from jaxnn.utils.data.dataset import StackDataset as StackDataset
from jaxnn.utils.data.dataset import Subset as Subset
from jaxnn.utils.data.dataset import TensorDataset as TensorDataset
from jaxnn.utils.data.dataset import random_split as random_split
from jaxnn.utils.data.distributed import DistributedSampler as DistributedSampler
from jaxnn.utils.data.prefetching import prefetch as prefetch
from jaxnn.utils.data.sampler import BatchSampler as BatchSampler
from jaxnn.utils.data.sampler import RandomSampler as RandomSampler
from jaxnn.utils.data.sampler import Sampler as Sampler
from jaxnn.utils.data.sampler import SequentialSampler as SequentialSampler
from jaxnn.utils.data.sampler import SubsetRandomSampler as SubsetRandomSampler
from jaxnn.utils.data.sampler import WeightedRandomSampler as WeightedRandomSampler


def __dir__() -> list[str]:
    return _public_names(globals())
