"""Two real processes: what they tell each other, arrays that both hold, and that nothing waits for ever."""

import datetime
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.multihost import processes
from jaxnn.parallel import process_group
from tests.parallel import children

CHILD = Path(__file__).with_name("child_group.py")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    np.random.default_rng(0).random((2048, 4096), np.float32).tofile(folder / "large")
    return children.check(children.run(CHILD, str(folder)))


def test_the_group(both):
    for rank, said in enumerate(both):
        assert said["early"] == [False, 1]
        assert said["group"] == [True, rank, 2, 4]
        assert "in a group already" in said["again"]
        assert said["objects"] == [[{"rank": 0}, {"rank": 1}], [1, "from 1"]]
        assert said["sampler"] == [[0, 2, 4], [1, 3, 0]][rank]
        assert said["after"] is False


def test_values_that_differ_are_found_by_name_on_every_process(both):
    for said in both:
        assert (
            "RuntimeError: distribute_module: process 1 differs from process 0 in 0.weight, 1.bias, 1.weight"
            in said["differ"]
        )
        assert "nn.manual_seed" in said["differ"]
        assert "process 1 differs from process 0 in a, b (process 0 does not have it)" in said["shapes"]
        assert said["alike"] == "nothing was raised"
        assert f"process 1 differs from process 0 in jax (0.0, not {jax.__version__})" in said["program"]


def test_eager_calls_of_arrays_of_both(both):
    for said in both:
        assert said["eager"] < 1e-6
        assert said["eager loss"] == both[0]["eager loss"]
        assert "IndexError: embedding: input: expected indices from 0 to 6, got 7" in said["bad index"]
        assert "IndexError: cross_entropy: target: expected indices from 0 to 7, got 9" in said["bad class"]
        assert said["repr"][0] and said["repr"][1].startswith("Parameter containing")


def test_copies_and_files_of_arrays_of_both(both):
    for said in both:
        assert said["pickle"].startswith(
            "RuntimeError: pickle: 1.weight is an array of shape (8, 4) whose parts lie with 2"
        )
        assert "nn.parallel.checkpoint.save" in said["pickle"]
        for name in ("cpu", "cpu of a box"):
            assert said[name].startswith("RuntimeError: moving to devices of this process: an array of shape (8, ")
            assert "nn.parallel.full_tensor" in said[name]
        assert said["cpu of a copy"] == [7, 4]
        assert said["whole"] and said["save safetensors"] and said["save pt"] and said["reset"]
        assert said["load"] == [True, both[0]["load"][1]] and "fsdp" in said["load"][1][1]
    assert "FileNotFoundError" in both[0]["save nowhere"]
    assert "OSError: save: process 0 could not write" in both[1]["save nowhere"]


def test_placing_from_a_mapped_file_takes_a_twentieth_of_device_put(both):
    ours, theirs = both[0]["placing"]
    assert theirs > 20 * ours


@pytest.mark.parametrize("numbers", ["torch", "jax"])
def test_a_model_in_parts_takes_the_memory_of_these(both, numbers):
    for said in both:
        grown, owned = said[f"memory {numbers}"]
        assert grown < 1.5 * owned + 2048 * 2048 * 4, f"{grown / 2**20:.0f} MiB for {owned / 2**20:.0f}"
        assert said[f"tied {numbers}"]


def test_a_model_in_parts_has_the_bits_of_one_process(both):
    nn.manual_seed(11)
    weights = {"embed.weight": nn.Embedding(2048, 2048).weight}
    weights |= {f"layers.{n}.weight": nn.Linear(2048, 2048, bias=False).weight for n in range(18)}
    for name, weight in weights.items():
        whole = np.asarray(weight).reshape(4, 512, 2048)
        expected = [processes.digest(part) for part in whole]
        assert both[0]["parts torch"][name] + both[1]["parts torch"][name] == expected


def test_other_seeds_are_found_before_a_model_is_made(both):
    for said in both:
        for message in said["seeds"]:
            assert "init_sharded: process 1 differs from process 0 in the random stream (nn.manual_seed)" in message


def test_processes_that_do_not_come_are_named(both):
    for said in both:
        assert "different programs: process 0 is at save: x.pt, process 1 is at barrier" in said["elsewhere"]
    assert "barrier: waited 1 s for process 1" in both[0]["alone"] and both[0]["alone for"] < 3
    assert both[1]["late"] == both[0]["alone"]


@pytest.mark.parametrize("how", ["killed", "raises"])
def test_when_one_process_ends_the_others_do_within_the_limit(how):
    ended = children.run(CHILD.with_name("child_ends.py"), how, devices=1, limit=120)
    begun = min(child.results["begun"] for child in ended)
    for child in ended:
        assert (
            child.code not in (0, None) and child.at - begun < 8 + 60
        )  # the group's limit, and a machine that is busy
    if how == "raises":
        assert "ValueError: the data of process 1 is broken" in ended[1].err


# -- who the others are ------------------------------------------------------------------------------------------------

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def told(monkeypatch):
    """What ``jax.distributed.initialize`` is told, in an environment without launchers."""
    for name in (*TORCHRUN, "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    given = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: given.update(options))
    monkeypatch.setattr(process_group._compat, "devices_are_known", lambda: False)
    monkeypatch.setenv("JAX_CPU_COLLECTIVES_IMPLEMENTATION", "gloo")
    return given


def test_torchruns_variables(told, monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    nn.parallel.init_process_group("nccl", timeout=datetime.timedelta(seconds=30))
    assert told == {
        "coordinator_address": "10.0.0.1:29500",
        "num_processes": 4,
        "process_id": 1,
        "initialization_timeout": 30,
        "heartbeat_timeout_seconds": 30,
        "shutdown_timeout_seconds": 30,
        "cluster_detection_method": "deactivate",
    }
    # torchrun's agent has a store on that port; several processes of a host share its devices.
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    nn.parallel.init_process_group("nccl", init_method="env://")
    assert told["coordinator_address"] == "10.0.0.1:29501" and told["local_device_ids"] == [1]
    assert told["heartbeat_timeout_seconds"] == 100 and told["initialization_timeout"] == 300
    assert nn.parallel.get_node_local_rank() == 1


def test_an_address_and_what_jax_finds_by_itself(told):
    nn.parallel.init_process_group(init_method="tcp://host:1234", world_size=2, rank=0, device_id=3)
    assert told["coordinator_address"] == "host:1234" and told["num_processes"] == 2
    assert told["process_id"] == 0 and told["local_device_ids"] == [3]
    told.clear()
    nn.parallel.init_process_group()
    assert told.keys() == {"initialization_timeout", "heartbeat_timeout_seconds", "shutdown_timeout_seconds"}


def test_groups_that_are_not_described(told, monkeypatch):
    init = nn.parallel.init_process_group
    for options, text in (
        ({"init_method": "file:///tmp/x"}, "init_method: expected 'env://' or 'tcp://host:port', got 'file:///tmp/x'"),
        ({"init_method": "tcp://host"}, "init_method: expected 'tcp://host:port'"),
        (
            {"init_method": "tcp://host:1", "world_size": 2, "rank": 2},
            "0 <= rank < world_size with it, got world_size=2, rank=2",
        ),
        (
            {"init_method": "env://"},
            "variables MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE of torchrun, got no MASTER_ADDR",
        ),
        ({"world_size": 2}, "got no MASTER_ADDR, MASTER_PORT, RANK"),
        ({"backend": "ucc"}, "backend: expected None or one of 'gloo', 'mpi', 'nccl'"),
        ({"timeout": 0}, "timeout: expected a timedelta or seconds > 0, got 0"),
        ({"store": object()}, "store: expected None"),
        ({"device_id": "cuda"}, "device_id: expected a number of a local device"),
    ):
        with pytest.raises(ValueError) as caught:
            init(**options)
        assert text in str(caught.value)
    for name, value in (TORCHRUN | {"RANK": "4"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="expected numbers with RANK < WORLD_SIZE, got MASTER_ADDR='10.0.0.1'"):
        init()
    assert not told


def test_nobody_is_found_and_devices_in_use(told, monkeypatch):
    def nobody(**options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", nobody)
    with pytest.raises(ValueError, match="got no variables of torchrun .* no SLURM or Open MPI job and no TPU pod"):
        nn.parallel.init_process_group()
    monkeypatch.setattr(process_group._compat, "devices_are_known", lambda: True)
    with pytest.raises(RuntimeError, match="something was computed before.*at the beginning of the program"):
        nn.parallel.init_process_group()
    with pytest.raises(RuntimeError, match="expected LOCAL_RANK"):
        nn.parallel.get_node_local_rank()
    assert nn.parallel.get_node_local_rank(2) == 2


def test_a_process_alone_is_a_group_of_one():
    assert not nn.parallel.is_initialized() and nn.parallel.is_available()
    assert nn.parallel.get_rank() == 0 and nn.parallel.get_world_size() == 1
    nn.parallel.barrier()
    objects, values = [None], ["kept"]
    nn.parallel.all_gather_object(objects, 3)
    nn.parallel.broadcast_object_list(values)
    assert objects == [3] and values == ["kept"]
    for call in (nn.parallel.get_rank, nn.parallel.barrier):
        with pytest.raises(ValueError, match="group: expected None: there is one group"):
            call(group="a")
    with pytest.raises(ValueError, match="object_list: expected a list of 1, one for each process, got a list of 2"):
        nn.parallel.all_gather_object([1, 2], 3)
    with pytest.raises(ValueError, match="src: expected a process from 0 to 0, got 1"):
        nn.parallel.broadcast_object_list([1], src=1)
    with pytest.raises(TypeError, match="full_tensor: array: expected a jax array"):
        nn.parallel.full_tensor([1.0])


def test_a_model_with_rules_trains_as_on_one_device(both):
    for said in both:
        alone, several = said["trained"]
        np.testing.assert_allclose(several, alone, rtol=1e-5)


def test_what_differs_is_found_before_the_first_step(both):
    for said in both:
        assert (
            "RuntimeError: distribute_module: process 1 differs from process 0 in 0.weight, 1.bias"
            in said["differ at placing"]
        )
        assert "RuntimeError: nn.jit: process 1 differs from process 0 in 3.bias. Every" in said["differ at the step"]
        seed = "nn.jit: train_step: process 1 differs from process 0 in the random stream (nn.manual_seed)"
        assert seed in said["differ in the seed"]
        assert "nn.jit: <lambda>: process 1 differs from process 0 in the function's code" in said["differ in the code"]
        assert "process 1 differs from process 0 in" in said["differ in shape"] and "extra" in said["differ in shape"]
