"""grain over our datasets, samplers and collating, where it is installed."""

import numpy as np
import pytest

import jaxnn as nn
from tests.utils.data.datasets import Squares

grain = pytest.importorskip("grain", reason="grain is no dependency")
data = nn.utils.data


def test_a_dataset_of_ours_is_a_source_in_the_order_of_a_sampler_of_ours():
    rows = data.TensorDataset(np.arange(10, dtype=np.float32).reshape(5, 2), np.arange(5))
    order = list(data.RandomSampler(rows))
    source = grain.MapDataset.source(data.Subset(rows, order)).batch(2, batch_fn=data.default_collate)
    expected = list(data.DataLoader(rows, 2, sampler=order))
    found = list(source.to_iter_dataset())
    assert len(found) == len(expected) == 3 and sorted(order) == list(range(5)) != order
    for one, other in zip(found, expected):
        for part, same in zip(one, other):
            np.testing.assert_array_equal(part, same)
            assert part.dtype == same.dtype


def test_its_own_loader_reads_a_dataset_of_ours_and_prefetch_takes_it():
    loader = grain.DataLoader(
        data_source=Squares(6),
        sampler=grain.samplers.IndexSampler(6, num_epochs=1, shuffle=False),
        operations=[grain.transforms.Batch(2)],
        worker_count=0,
    )
    assert [batch.tolist() for batch in data.prefetch(loader)] == [[0, 1], [4, 9], [16, 25]]
