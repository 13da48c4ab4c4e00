"""DistributedSampler reads what torch's reads, index for index."""

import itertools

import pytest

import jaxnn as nn

torch_data = pytest.importorskip("torch.utils.data")
torch_distributed = pytest.importorskip("torch.utils.data.distributed")


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_torchs_orders(shuffle, drop_last):
    for length, replicas, seed, epoch in itertools.product((1, 2, 7, 12, 100), (1, 2, 3, 5), (0, 9), (0, 4)):
        for rank in range(replicas):
            both = []
            for kind in (nn.utils.data.DistributedSampler, torch_distributed.DistributedSampler):
                sampler = kind(range(length), replicas, rank, shuffle, seed, drop_last)
                sampler.set_epoch(epoch)
                both.append((len(sampler), sampler.num_samples, sampler.total_size, list(sampler)))
            assert both[0] == both[1], (length, replicas, rank, seed, epoch)


def test_alone_it_reads_everything_and_a_rank_must_be_one_of_them():
    assert list(nn.utils.data.DistributedSampler(range(4), shuffle=False)) == [0, 1, 2, 3]
    for rank in (2, -1):
        with pytest.raises(
            ValueError, match=f"DistributedSampler: rank: expected a number from 0 to 1, got rank {rank}"
        ):
            nn.utils.data.DistributedSampler(range(4), num_replicas=2, rank=rank)


def test_no_data():
    for drop_last in (False, True):
        assert list(nn.utils.data.DistributedSampler([], 2, 1, drop_last=drop_last)) == []


def test_in_a_loader_and_a_dataset_that_shrank():
    sampler = nn.utils.data.DistributedSampler(list(range(10)), 2, 1, shuffle=False)
    batches = list(nn.utils.data.DataLoader(list(range(10)), batch_size=2, sampler=sampler))
    assert [batch.tolist() for batch in batches] == [[1, 3], [5, 7], [9]]
    shrinking = list(range(10))
    sampler = nn.utils.data.DistributedSampler(shrinking, 2, 1, drop_last=True)
    shrinking.pop()
    with pytest.raises(AssertionError, match="expected the 10 items it was made for, got 9"):
        list(sampler)


def test_an_epoch_goes_on_where_it_was_also_in_another_number_of_processes():
    whole = nn.utils.data.DistributedSampler(range(24), 1, 0)
    whole.set_epoch(3)
    order = list(whole)
    pair = [nn.utils.data.DistributedSampler(range(24), 2, rank) for rank in range(2)]
    for sampler in pair:
        sampler.set_epoch(3)
        taken = list(itertools.islice(sampler, 4))
        assert taken == order[sampler.rank : 8 : 2]
    states = [sampler.state_dict() for sampler in pair]
    assert states == [{"epoch": 3, "seed": 0, "taken": 8}] * 2
    for replicas in (1, 2, 4):
        rest = []
        for rank in range(replicas):
            sampler = nn.utils.data.DistributedSampler(range(24), replicas, rank)
            sampler.load_state_dict(states[0])
            sampler.set_epoch(3)  # as the loop over epochs says it again
            assert sampler.state_dict() == states[0]
            rest.append(list(sampler))
            assert len(list(sampler)) == 24 // replicas  # the next iteration is whole again
        assert [index for step in zip(*rest) for index in step] == order[8:]
    sampler.load_state_dict(states[0])
    sampler.set_epoch(4)
    assert len(list(sampler)) == 6 and sampler.state_dict()["taken"] == 0
