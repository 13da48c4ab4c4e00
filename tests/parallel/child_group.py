"""Run by test_process_group.py in two processes: what they tell each other, and arrays of both of them."""

import pickle
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.core import processes, spanning
from jaxnn.parallel import process_group
from parity import ours
from tests.parallel.children import say

folder = Path(sys.argv[1])


def message(call, *args, **kwargs):
    """The text of what `call` raises."""
    try:
        call(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


say("early", [nn.parallel.is_initialized(), nn.parallel.get_world_size()])
nn.parallel.init_process_group(timeout=20)
ours.compile_quickly()
rank = nn.parallel.get_rank()
say("group", [nn.parallel.is_initialized(), rank, nn.parallel.get_world_size(), jax.device_count()])
say("again", message(nn.parallel.init_process_group))
nn.parallel.barrier()
counts = [None, None]
nn.parallel.all_gather_object(counts, {"rank": rank})
given = [rank, "from 1" if rank else None]
nn.parallel.broadcast_object_list(given, src=1)
say("objects", [counts, given])
sampler = nn.utils.data.DistributedSampler(range(5), shuffle=False)
say("sampler", list(sampler))

# Values that should be the same.
nn.manual_seed(rank)
model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
boxes = dict(model.named_parameters())
say("differ", message(processes.check_alike, "distribute_module", {name: box.value for name, box in boxes.items()}))
say(
    "shapes", message(processes.check_alike, "step", {"a": jnp.zeros(2 + rank), **({"b": jnp.ones(1)} if rank else {})})
)
program = process_group._program() | ({"jax": "0.0"} if rank else {})
say("program", message(processes.check_same, "init_process_group", program))
nn.manual_seed(0)
model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
boxes = dict(model.named_parameters())
say("alike", message(processes.check_alike, "distribute_module", {name: box.value for name, box in boxes.items()}))

# Arrays of both processes: eager calls, files, copies.
mesh = Mesh(np.array(jax.devices()), ("fsdp",), axis_types=(AxisType.Auto,))
rows, everywhere = NamedSharding(mesh, PartitionSpec("fsdp")), NamedSharding(mesh, PartitionSpec())
x = np.arange(8, dtype=np.int32).reshape(4, 2) % 7
expected = np.asarray(model(jnp.asarray(x)))
before = {name: np.asarray(value) for name, value in model.state_dict().items()}
for box in boxes.values():
    box.value = spanning.place(box.value, rows if box.shape[0] % 4 == 0 else everywhere)
batch = spanning.place(x, rows)
say("eager", float(np.abs(spanning.whole(model(batch)) - expected).max()))
say("bad index", message(model, spanning.place(x + 1, rows)))
target = spanning.place(np.arange(4, dtype=np.int32) * 3, rows)
say("bad class", message(F.cross_entropy, model(batch)[:, 0], target))
loss, grads = nn.value_and_grad(lambda m: F.cross_entropy(m(batch)[:, 0], target % 8))(model)
say("eager loss", float(loss))
say("repr", [len(repr(model)) > 0, repr(boxes["1.weight"])[:20], "Embedding" in str(nn.summary(model))])
say("pickle", message(pickle.dumps, model))
say("cpu", message(model[3].cpu))
say("cpu of a box", message(boxes["1.weight"].cpu))
say("cpu of a copy", np.asarray(boxes["0.weight"].cpu()).shape)
say("whole", bool((np.asarray(nn.parallel.full_tensor(boxes["1.weight"])) == before["1.weight"]).all()))
for ending in ("safetensors", "pt"):
    nn.save({"model": model.state_dict()} if ending == "pt" else model.state_dict(), folder / f"whole.{ending}")
    found = nn.load(folder / f"whole.{ending}")
    found = found["model"] if ending == "pt" else found
    say(
        f"save {ending}",
        {name: bool((found[name] == before[name]).all()) for name in before} == dict.fromkeys(before, True),
    )
say("save nowhere", message(nn.save, model.state_dict(), folder / "missing" / "whole.pt"))

# Loading into shards keeps them.
model.load_state_dict({name: value + 1 for name, value in before.items()})
same = {name: bool((spanning.whole(box.value) == before[name] + 1).all()) for name, box in boxes.items()}
say("load", [all(same.values()), [str(box.value.sharding.spec) for box in boxes.values()]])
nn.manual_seed(3)
model[1].reset_parameters()
nn.manual_seed(3)
say("reset", bool((spanning.whole(boxes["1.weight"].value) == np.asarray(nn.Linear(4, 8).weight)).all()))

# Placing from a mapped file.
large = np.memmap(folder / "large", np.float32, "r", shape=(2048, 4096))
seconds = {}
for name, place, times in (("ours", spanning.place, 5), ("theirs", lambda x, at: jax.device_put(np.asarray(x), at), 2)):
    for _ in range(times):
        nn.parallel.barrier()
        start = time.perf_counter()
        place(large, rows).block_until_ready()
        seconds[name] = min(seconds.get(name, 1e9), time.perf_counter() - start)
say("placing", [seconds["ours"], seconds["theirs"]])

# Processes at different places of the program, or nowhere.
say("elsewhere", message(nn.parallel.barrier if rank else lambda: nn.save(model.state_dict(), folder / "x.pt")))
processes.limit[0] = 1.0
if rank == 0:
    start = time.monotonic()
    say("alone", message(nn.parallel.barrier))
    say("alone for", time.monotonic() - start)
else:
    time.sleep(1.5)
    say("late", message(nn.parallel.barrier))
processes.limit[0] = 20.0
nn.parallel.barrier()
nn.parallel.destroy_process_group()
say("after", nn.parallel.is_initialized())
