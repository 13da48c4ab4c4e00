"""Run by test_checkpoint.py: a run that is saved by four processes and goes on in two, in one, and on eight devices."""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.multihost import spanning
from jaxnn.parallel import checkpoint
from parity import ours
from tests.parallel.children import say

role, folder = sys.argv[1], Path(sys.argv[2])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.fc = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.2)
        self.back = nn.Linear(16, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.back(self.drop(F.relu(self.norm(self.fc(self.embed(x)))))))


SPECS = {
    "fc.weight": ("fsdp", "tp"),
    "fc.bias": ("fsdp",),
    "back.weight": ("tp", "fsdp"),
    "embed.weight": ("fsdp", "tp"),
}


def place(model, mesh):
    for name, box in (*model.named_parameters(), *model.named_buffers()):
        spec = [axis if axis in mesh.axis_names else None for axis in SPECS.get(name, ())]
        box.value = spanning.place(box._value, NamedSharding(mesh, PartitionSpec(*spec)))


@nn.jit
def train_step(model, optimizer, x, y):
    loss, grads = nn.value_and_grad(lambda m: F.cross_entropy(m(x), y))(model)
    optimizer.step(model, grads)
    return loss


def batches(mesh, count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        x, y = rng.integers(0, 16, (2, 8), dtype=np.int32)
        yield [spanning.place(array, NamedSharding(mesh, PartitionSpec("fsdp"))) for array in (x, y)]


def steps(model, optimizer, mesh, first, last):
    return [float(train_step(model, optimizer, *batch)) for batch in list(batches(mesh, last))[first:]]


def whole_state(seed=0):
    nn.manual_seed(seed)
    model = Net()
    sampler = nn.utils.data.DistributedSampler(range(10))
    return {
        "model": model,
        "optimizer": nn.optim.AdamW(model, lr=0.01),
        "sampler": sampler,
        "rng": nn.default_generator,
        "step": 0,
    }


def taken_over(mesh):
    """The state of the checkpoint on another mesh; the model was made in shapes alone."""
    state = whole_state(seed=5)
    state["model"] = jax.eval_shape(Net)
    place(state["model"], mesh)
    checkpoint.load({"model": state["model"]}, checkpoint_id=folder / "run")
    state["optimizer"] = nn.optim.AdamW(state["model"], lr=1.0)
    checkpoint.load(state, checkpoint_id=folder / "run")
    return state


def bytes_of(model):
    """How many bytes of a model's state this process holds, each once, and how many it is the first to hold."""
    held = owned = total = 0
    for box in {id(box): box for box in model.state_dict(keep_vars=True).values()}.values():
        size = 8 if getattr(box, "int64_outside", False) else 4
        total += box.value.size * size
        parts = {str(shard.index): shard for shard in box.value.addressable_shards}
        held += sum(shard.data.size for shard in parts.values()) * size
        owned += sum(shard.data.size for shard in box.value.addressable_shards if shard.replica_id == 0) * size
    return held, owned, total


def through_safetensors(model, mesh):
    reader = checkpoint.HuggingFaceStorageReader(folder / "hub")
    other = jax.eval_shape(Net)
    place(other, mesh)
    checkpoint.load({"model": other}, storage_reader=reader)
    say("read", reader.bytes_read)
    say("held", bytes_of(other)[0])
    if model is not None:
        same = [
            np.array_equal(spanning.whole(mine.value), spanning.whole(theirs.value))
            for mine, theirs in zip(model.parameters(), other.parameters())
        ]
        say("equal", all(same))


if role == "endless":
    ours.compile_quickly()
    step = 0
    while True:
        step += 1
        checkpoint.save({"arrays": [np.full((64, 1000), step)] * 8, "step": step}, checkpoint_id=folder)
        say("step", step)

several = role == "save" or "RANK" in __import__("os").environ
if several:
    nn.parallel.init_process_group(timeout=120)
ours.compile_quickly()
if role == "save":
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("fsdp", "tp"), axis_types=(AxisType.Auto,) * 2)
    state = whole_state()
    model, optimizer = state["model"], state["optimizer"]
    place(model, mesh)
    steps(model, optimizer, mesh, 0, 3)
    place(model, mesh)  # XLA may have laid results out otherwise
    state["step"] = 3
    state["sampler"].set_epoch(2)
    checkpoint.save(state, checkpoint_id=folder / "run")
    say("after", steps(model, optimizer, mesh, 3, 8))
    again = taken_over(mesh)
    say("again", steps(again["model"], again["optimizer"], mesh, 3, 8))
    place(model, mesh)
    held, owned, total = bytes_of(model)
    writer = checkpoint.HuggingFaceStorageWriter(folder / "hub", max_shard_size=600)
    checkpoint.save({"model": model}, storage_writer=writer)
    say("written", writer.bytes_written)
    say("owned", owned)
    say("total", total)
    through_safetensors(model, mesh)
    try:
        checkpoint.save(
            {"model": nn.Linear(2, 2 + (jax.process_index() == 3), bias=False)}, checkpoint_id=folder / "other"
        )
    except RuntimeError as error:
        say("other", str(error))
else:
    meshes = {"two": Mesh(np.array(jax.devices()), ("fsdp",), axis_types=(AxisType.Auto,))}
    if not several:
        eight = np.array(jax.devices()).reshape(2, 4)
        meshes = {
            "one": Mesh(np.array(jax.devices()[:1]), ("fsdp",), axis_types=(AxisType.Auto,)),
            "two by four": Mesh(eight, ("fsdp", "tp"), axis_types=(AxisType.Auto,) * 2),
        }
    for name, mesh in meshes.items():
        state = taken_over(mesh)
        model = state["model"]
        facts = {"step": state["step"], "epoch": state["sampler"].epoch, "lr": state["optimizer"].param_groups[0]["lr"]}
        say("state", facts | {"tied": model.head.weight is model.embed.weight})
        say(name, steps(model, state["optimizer"], mesh, 3, 8))
    through_safetensors(None, mesh)
    say("equal", True)
