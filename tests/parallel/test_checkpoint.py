"""nn.parallel.checkpoint: a run goes on where it was, on any mesh; files are whole or not there; byte ranges are counted."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxnn as nn
from jaxnn.parallel import checkpoint
from jaxnn.parallel.checkpoint import _storage
from jaxnn.parallel.checkpoint import safetensors as ours
from tests.parallel import children

pytest.importorskip("orbax.checkpoint")
CHILD = Path(__file__).with_name("child_checkpoint.py")
P = PartitionSpec


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What processes said that saved together, and those that took over from them."""
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    saved = children.check(children.run(CHILD, "save", folder, processes=4, devices=1, limit=400))
    two = children.check(children.run(CHILD, "load", folder, processes=2, devices=1, limit=400))
    alone = children.check(children.run(CHILD, "load", folder, processes=1, devices=8, limit=400))
    return saved, two, alone


def test_a_run_goes_on_on_the_same_mesh_bit_for_bit(runs):
    saved, _, _ = runs
    for said in saved:
        assert said["after"] == said["again"] == saved[0]["after"] and len(said["after"]) == 5


def test_a_run_goes_on_on_other_meshes(runs):
    saved, two, alone = runs
    expected = saved[0]["after"]
    for said in two:
        np.testing.assert_allclose(said["two"], expected, rtol=1e-5)
    for where in ("one", "two by four"):
        np.testing.assert_allclose(alone[0][where], expected, rtol=1e-5)
    for said in (*two, *alone):
        assert said["state"] == {"step": 3, "epoch": 2, "lr": 0.01, "tied": True}


def test_each_process_reads_and_writes_its_own_bytes_of_safetensors(runs):
    saved, two, alone = runs
    for said in saved:
        assert said["written"] == said["owned"] and said["read"] == said["held"] and said["equal"]
    for said in two:
        assert said["read"] == said["held"] and said["equal"]
    assert alone[0]["read"] == alone[0]["held"] == saved[0]["total"]
    assert sum(said["written"] for said in saved) == saved[0]["total"]


def test_another_model_on_one_process_is_found_before_anything_is_written(runs):
    for said in runs[0]:
        assert "checkpoint.save: other: process 3 differs from process 0 in model/weight" in said["other"]


# -- one process ---------------------------------------------------------------------------------------------------------


def _mesh():
    return Mesh(np.array(jax.devices()[:2]), ("fsdp",), axis_types=(AxisType.Auto,))


def _net():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 4, bias=False))
    net.register_buffer("scratch", jnp.zeros(2), persistent=False)
    return net


def test_plain_values_and_containers(tmp_path):
    class Schedule:
        def __init__(self, values):
            self.values = values

        def state_dict(self):
            return self.values

        def load_state_dict(self, state):
            self.values = state

    values = {"a": (1, [2.5, None]), 3: "x", "deep": {"array": np.arange(3), "flag": True}, "__odd": {"b": ()}}
    schedule, state = Schedule(values), {"rng": nn.get_rng_state(), "step": 7}
    checkpoint.save({"schedule": schedule, **state, "generator": nn.default_generator}, checkpoint_id=tmp_path / "1")
    expected = nn.Linear(2, 2).weight
    nn.manual_seed(9)
    schedule.values = None
    loaded = {"schedule": schedule, "rng": None, "step": 0, "generator": nn.default_generator}
    checkpoint.load(loaded, checkpoint_id=tmp_path / "1")
    np.testing.assert_array_equal(schedule.values["deep"].pop("array"), [0, 1, 2])
    values["deep"].pop("array")
    assert schedule.values == values and loaded["step"] == 7
    np.testing.assert_array_equal(loaded["rng"], state["rng"])
    np.testing.assert_array_equal(nn.Linear(2, 2).weight, expected)


def test_an_optimizer_is_loaded_by_the_names_of_parameters(tmp_path):
    model = _net()
    optimizer = nn.optim.SGD(model, lr=0.1, momentum=0.9)
    _, grads = nn.value_and_grad(lambda m: (m(jnp.ones((2, 4))) ** 2).sum())(model)
    optimizer.step(model, grads)
    checkpoint.save({"model": model, "optimizer": optimizer}, checkpoint_id=tmp_path / "1")
    sharding = NamedSharding(_mesh(), P("fsdp"))
    other = jax.eval_shape(_net)
    for box in other.parameters():
        box.value = jax.ShapeDtypeStruct(box.shape, box.dtype, sharding=sharding)
    checkpoint.load({"model": other}, checkpoint_id=tmp_path / "1")
    reverse = nn.optim.SGD([{"params": list(other.named_parameters())[::-1]}], lr=1.0, momentum=0.9)
    reverse._bind([other])
    checkpoint.load({"optimizer": reverse}, checkpoint_id=tmp_path / "1")
    assert reverse.param_groups[0]["lr"] == 0.1
    for name, box in other.named_parameters():
        theirs = dict(model.named_parameters())[name]
        np.testing.assert_array_equal(box.value, theirs.value)
        assert box.value.sharding == sharding
        moment = reverse.state[box]["momentum_buffer"]
        np.testing.assert_array_equal(moment, optimizer.state[theirs]["momentum_buffer"])
        assert moment.sharding == sharding
    assert int(other[1].num_batches_tracked) == 1
    smaller = nn.optim.SGD(nn.Linear(2, 2), lr=1.0, momentum=0.9)
    with pytest.raises(
        ValueError, match="optimizer: the optimizer that was saved and this one are not of the same parameters"
    ):
        checkpoint.load({"optimizer": smaller}, checkpoint_id=tmp_path / "1")


def test_nothing_changes_where_something_does_not_fit(tmp_path):
    model = _net()
    checkpoint.save({"model": model, "step": 1}, checkpoint_id=tmp_path / "1")
    other = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 5, bias=False))
    before = np.asarray(other[0].weight)
    state = {"model": other, "step": 0}
    with pytest.raises(RuntimeError, match=r"model/2.weight: expected shape \(5, 6\), got \(4, 6\) in the checkpoint"):
        checkpoint.load(state, checkpoint_id=tmp_path / "1")
    np.testing.assert_array_equal(other[0].weight, before)
    assert state["step"] == 0
    with pytest.raises(
        RuntimeError, match="names of Linear that the checkpoint lacks: .'bias', 'weight'.; names that it has"
    ):
        checkpoint.load({"model": nn.Linear(2, 2)}, checkpoint_id=tmp_path / "1")
    model[2].weight = model[0].weight
    with pytest.raises(KeyError, match="holds 'model', 'step', and no 'optimizer'"):
        checkpoint.load({"optimizer": nn.optim.SGD(model, lr=1.0)}, checkpoint_id=tmp_path / "1")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoint.load(state, checkpoint_id=tmp_path / "2")
    (tmp_path / "3").mkdir()
    with pytest.raises(nn.io.CheckpointError, match="not a checkpoint of nn.parallel.checkpoint.save"):
        checkpoint.load(state, checkpoint_id=tmp_path / "3")


def test_arguments():
    linear = nn.Linear(2, 2)
    for call, error, text in (
        (lambda: checkpoint.save({"model": linear}), ValueError, "checkpoint_id: expected a folder, got None"),
        (lambda: checkpoint.save(linear, checkpoint_id="x"), TypeError, "state_dict: expected a dict of names"),
        (
            lambda: checkpoint.save({"a/b": 1}, checkpoint_id="x"),
            TypeError,
            "names that are texts without '/', got 'a/b'",
        ),
        (lambda: checkpoint.save({"f": {"g": len}}, checkpoint_id="x"), TypeError, "checkpoint: f/g: expected arrays"),
        (
            lambda: checkpoint.save({"m": jax.eval_shape(_net)}, checkpoint_id="x"),
            ValueError,
            "m/0.weight: an array without",
        ),
        (lambda: checkpoint.save({"m": linear}, storage_writer=3), TypeError, "storage_writer: expected a HuggingFace"),
        (lambda: checkpoint.load({"m": linear}, storage_reader=3), TypeError, "storage_reader: expected a HuggingFace"),
        (lambda: checkpoint.async_save({"m": linear}, storage_writer=3), ValueError, "storage_writer: expected None"),
    ):
        with pytest.raises(error, match=re.escape(text)):
            call()
    assert not Path("x").exists()


def test_what_a_killed_writer_leaves_is_never_loaded_and_goes(tmp_path):
    folder, model = tmp_path / "run", nn.Linear(2, 2)

    def saved(number, at):
        model.weight = jnp.full((2, 2), float(number))
        checkpoint.save({"model": model}, checkpoint_id=at)

    def loaded():
        other = nn.Linear(2, 2)
        checkpoint.load({"model": other}, checkpoint_id=folder)
        return float(other.weight[0, 0])

    saved(1, folder)
    (tmp_path / "run.new.orbax-checkpoint-tmp-5").mkdir()  # in the middle of writing
    assert loaded() == 1
    saved(2, tmp_path / "run.new")  # whole, without its name yet
    assert loaded() == 1
    folder.rename(tmp_path / "run.old")  # between the two renames
    assert loaded() == 2
    saved(3, folder)
    assert loaded() == 3 and os.listdir(tmp_path) == ["run"]


def test_a_process_killed_while_it_saves_leaves_a_whole_checkpoint(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(children.ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(CHILD), "endless", str(tmp_path / "run")]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, cwd=children.ROOT)
    try:
        done = 0
        for line in process.stdout:
            if line.startswith("RESULT"):
                done = json.loads(line[7:])[1]
            if done == 3:
                break
        time.sleep(0.15)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate(timeout=60)
    state = {"arrays": None, "step": 0}
    checkpoint.load(state, checkpoint_id=tmp_path / "run")
    assert done == 3 and state["step"] >= 3
    for array in state["arrays"]:
        np.testing.assert_array_equal(array, np.full((64, 1000), state["step"]))


def test_async_save_waits_for_nothing_and_the_next_call_for_it(tmp_path, monkeypatch):
    model, slow = nn.Linear(2, 2), _storage.put_in_place

    def put(*args):
        time.sleep(0.3)
        slow(*args)

    monkeypatch.setattr(_storage, "put_in_place", put)
    first = np.asarray(model.weight)
    saving = checkpoint.async_save({"model": model}, checkpoint_id=tmp_path / "run")
    assert not saving.done()
    with pytest.raises(TimeoutError, match="not whole after 0.01 s"):
        saving.result(0.01)
    model.weight = jnp.zeros((2, 2))  # what was saved is what was there
    other = nn.Linear(2, 2)
    checkpoint.load({"model": other}, checkpoint_id=tmp_path / "run")
    assert saving.done()
    np.testing.assert_array_equal(other.weight, first)

    def fail(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr(_storage, "put_in_place", fail)
    checkpoint.async_save({"model": model}, checkpoint_id=tmp_path / "run")
    with pytest.raises(OSError, match="the disk is full"):
        checkpoint.save({"model": model}, checkpoint_id=tmp_path / "run")


def test_safetensors_are_what_others_read_and_write(tmp_path):
    theirs = pytest.importorskip("safetensors.numpy")
    model = _net()
    checkpoint.save({"model": model}, storage_writer=checkpoint.HuggingFaceStorageWriter(tmp_path / "one"))
    state = {name: np.asarray(value) for name, value in model.state_dict().items()}
    found = theirs.load_file(tmp_path / "one" / "model.safetensors")
    assert found.keys() == state.keys() and all((found[name] == state[name]).all() for name in state)
    numbers = {name: 1 + (name > "1") for name in state}
    writer = checkpoint.HuggingFaceStorageWriter(tmp_path / "two", numbers)
    checkpoint.save({"model": model}, storage_writer=writer)
    index = json.loads((tmp_path / "two" / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["0.weight"] == "model-00001-of-00002.safetensors"
    assert index["metadata"]["total_size"] == writer.bytes_written == sum(value.nbytes for value in state.values())
    assert all(
        (value == state[name]).all()
        for name, value in nn.load(tmp_path / "two" / "model.safetensors.index.json").items()
    )
    # Into halves and into bfloat16, from files of others; arrays of a dict.
    theirs.save_file(
        {"a": np.arange(24, dtype=np.float32).reshape(4, 6), "b": np.ones(3, np.float16)}, tmp_path / "x.safetensors"
    )
    reader = checkpoint.HuggingFaceStorageReader(tmp_path / "x.safetensors")
    like = jax.device_put(jnp.zeros((4, 6), jnp.bfloat16), NamedSharding(_mesh(), P(None, "fsdp")))
    arrays = {"a": like, "b": np.zeros(3, np.float32)}
    checkpoint.load({"arrays": arrays}, storage_reader=reader)
    assert (
        arrays["a"].sharding == like.sharding and arrays["a"].dtype == jnp.bfloat16 and reader.bytes_read == 24 * 4 + 6
    )
    np.testing.assert_array_equal(np.asarray(arrays["a"], np.float32), np.arange(24).reshape(4, 6))
    assert arrays["b"].dtype == np.float32 and (arrays["b"] == 1).all()
    for change, error, text in (
        ({"a": np.zeros((4, 5), np.float32)}, RuntimeError, "a: expected shape (4, 5), got (4, 6)"),
        ({"c": np.zeros(1)}, KeyError, "not in the files: ['c']"),
    ):
        with pytest.raises(error, match=re.escape(text)):
            checkpoint.load({"arrays": change}, storage_reader=reader)
    with pytest.raises(RuntimeError, match="names that the files lack: .'weight', 'bias'.; names that they have"):
        checkpoint.load({"model": nn.Linear(2, 2)}, storage_reader=reader)
    (tmp_path / "x.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no .safetensors files in"):
        checkpoint.load({"model": model}, storage_reader=checkpoint.HuggingFaceStorageReader(tmp_path))


def test_runs_of_bytes_are_those_of_the_slices():
    shape = (3, 4, 5)
    flat = np.arange(60, dtype=np.int16)
    for bounds in (
        ((0, 3), (0, 4), (0, 5)),
        ((1, 3), (0, 4), (0, 5)),
        ((0, 2), (1, 3), (0, 5)),
        ((2, 3), (1, 2), (2, 4)),
        ((0, 3), (4, 4), (0, 5)),
    ):
        expected = flat.reshape(shape)[tuple(slice(*ends) for ends in bounds)]
        runs = list(ours._runs(bounds, shape, 2))
        found = np.concatenate([flat[begin // 2 : (begin + size) // 2] for begin, size in runs] or [flat[:0]])
        np.testing.assert_array_equal(found, expected.reshape(-1))
    assert list(ours._runs((), (), 4)) == [(0, 4)]


@pytest.mark.parametrize("where", ["run", "run.old", "run.new"])
def test_the_files_of_others_are_left_alone(tmp_path, where):
    (tmp_path / where / "notes").mkdir(parents=True)
    (tmp_path / where / "data.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=f"checkpoint_id: .*{where} holds other files"):
        checkpoint.save({"model": nn.Linear(2, 3)}, checkpoint_id=tmp_path / "run")
    assert (tmp_path / where / "data.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [where]


def test_a_file_is_not_replaced_and_an_empty_folder_is(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="checkpoint_id"):
        checkpoint.save({"step": 1}, checkpoint_id=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    for step in (1, 2):
        checkpoint.save({"model": nn.Linear(2, 3), "step": step}, checkpoint_id=tmp_path / "empty")
    state = {"step": 0}
    checkpoint.load(state, checkpoint_id=tmp_path / "empty")
    assert state == {"step": 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_a_checkpoint_without_arrays(tmp_path):
    for saved in ({}, {"step": 3}):
        checkpoint.save(saved, checkpoint_id=tmp_path / "run")
        state = dict.fromkeys(saved)
        checkpoint.load(state, checkpoint_id=tmp_path / "run")
        assert state == saved
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_arrays_that_are_traced_and_folders_without_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="checkpoint: m/.*traced"):
        nn.jit(lambda model: checkpoint.save({"m": model}, checkpoint_id="run"))(nn.Linear(2, 3))
    with pytest.raises(TypeError, match="checkpoint.save: checkpoint_id"):
        checkpoint.save({"step": 1}, checkpoint_id=3)
    with pytest.raises(ValueError, match="checkpoint.save: checkpoint_id"):
        checkpoint.save({"step": 1}, checkpoint_id="")
    assert not list(tmp_path.iterdir())


class _Fails:
    def __init__(self):
        self.state = {"turns": 1, "seen": [np.zeros(2)]}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state["seen"].append(state)
        if state["turns"] == 2:
            raise RuntimeError("not this one")
        self.state = state


class _Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.count = nn.Linear(2, 2), [0]

    def get_extra_state(self):
        return self.count

    def set_extra_state(self, state):
        self.count = state


def test_nothing_changes_where_a_users_load_state_dict_raises(tmp_path):
    model, fails = _Counter(), _Fails()
    optimizer = nn.optim.AdamW(model)
    state = {"model": model, "optimizer": optimizer, "step": 1, "rng": nn.default_generator, "fails": fails, "last": 3}
    fails.state["turns"], model.count = 2, [7]
    checkpoint.save(state, checkpoint_id=tmp_path / "1")
    fails.state["turns"], model.count[0] = 1, 0
    loss, grads = nn.value_and_grad(lambda m: m.linear(jnp.ones((4, 2))).sum())(model)
    optimizer.step(model, grads)
    optimizer.param_groups[0]["lr"] = 0.5
    nn.next_key()
    before = {name: np.asarray(value) for name, value in model.state_dict().items() if name != "_extra_state"}
    moments = optimizer.state_dict()["state"][0]["exp_avg"]
    stream = nn.get_rng_state()
    state |= {"step": 0, "last": 0}
    with pytest.raises(RuntimeError, match="not this one"):
        checkpoint.load(state, checkpoint_id=tmp_path / "1")
    for name, value in before.items():
        np.testing.assert_array_equal(model.state_dict()[name], value)
    assert model.count == [0] and state["step"] == state["last"] == 0 and optimizer.param_groups[0]["lr"] == 0.5
    np.testing.assert_array_equal(optimizer.state_dict()["state"][0]["exp_avg"], moments)
    np.testing.assert_array_equal(nn.get_rng_state(), stream)
    assert fails.state["turns"] == 1 and len(fails.state["seen"]) == 1


def test_an_optimizer_takes_its_own_kind_and_shapes(tmp_path):
    checkpoint.save(
        {"adamw": nn.optim.AdamW(nn.Linear(8, 16)), "model": nn.Linear(8, 16), "two": 2}, checkpoint_id=tmp_path / "1"
    )
    load = lambda name, optimizer: checkpoint.load({name: optimizer}, checkpoint_id=tmp_path / "1")  # noqa: E731
    load("adamw", nn.optim.Adam(nn.Linear(8, 16)))
    for name, optimizer, text in (
        (
            "adamw",
            nn.optim.AdamW(nn.Linear(3, 3)),
            "weight: expected the state of a parameter of shape (3, 3), got that of",
        ),
        ("adamw", nn.optim.SGD(nn.Linear(8, 16), lr=1.0), "expected the state of SGD, whose options are"),
        ("model", nn.optim.SGD(nn.Linear(8, 16), lr=1.0), "model: expected the state of an optimizer"),
        ("two", nn.optim.SGD(nn.Linear(8, 16), lr=1.0), "two: expected the state of an optimizer"),
    ):
        with pytest.raises(ValueError, match=re.escape(text)):
            load(name, optimizer)
    with pytest.raises(RuntimeError, match="names of Linear that the checkpoint lacks"):
        checkpoint.load({"two": nn.Linear(2, 2)}, checkpoint_id=tmp_path / "1")
