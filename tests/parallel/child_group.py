"""Run by test_process_group.py in two processes: what they tell each other, and arrays of both of them."""

import ctypes
import gc
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
from jaxnn.multihost import processes, spanning
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

# A compiled step finds what differs before it runs; a model with rules trains as on one device.
device_mesh = nn.parallel.init_device_mesh("cpu", (4,), mesh_dim_names=("fsdp",))
xs, ys = (np.random.default_rng(0).integers(0, 7, (3, 8)).astype(np.int32) for _ in range(2))


def net():
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 8))


@nn.jit
def train_step(model, optimizer, x, y):
    loss, grads = nn.value_and_grad(lambda m: F.cross_entropy(m(x), y))(model)
    optimizer.step(model, grads)
    return loss


def trained(model, place_batch):
    optimizer = nn.optim.AdamW(model, lr=0.01)
    return [float(train_step(model, optimizer, place_batch(x), place_batch(y))) for x, y in zip(xs, ys)]


nn.manual_seed(rank)
say("differ at placing", message(nn.parallel.distribute_module, net(), device_mesh, {"1.weight": nn.parallel.Shard(0)}))
nn.manual_seed(4)
alone = trained(net(), jnp.asarray)
nn.manual_seed(4)
several = nn.init_sharded(net, device_mesh, {"[13].weight": nn.parallel.Shard(0)}, numbers="torch")
say("trained", [alone, trained(several, lambda rows_of: spanning.place(rows_of, rows))])
unplaced = net()
unplaced[1].weight = spanning.place(np.ones((8, 4), np.float32), rows)
unplaced[3].bias = jnp.full(8, float(rank))
say("differ at the step", message(trained, unplaced, lambda rows_of: spanning.place(rows_of, rows)))
nn.manual_seed(rank)
say("differ in the seed", message(trained, several, lambda rows_of: spanning.place(rows_of, rows)))
nn.manual_seed(4)
other_step = nn.jit((lambda m, x: m(x).sum()) if rank else (lambda m, x: m(x).mean()))
say("differ in the code", message(other_step, several, spanning.place(xs[0], rows)))
deeper = nn.init_sharded(lambda: nn.Sequential(nn.Linear(4, 4), *[nn.ReLU()] * rank), device_mesh)
deeper.register_buffer("extra", jnp.zeros(2 + rank))
say("differ in shape", message(nn.jit(lambda m, x: m[0](x)), deeper, spanning.place(np.ones((4, 4), np.float32), rows)))

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

# A model that is made in parts: memory, and the bits of these.


class Tall(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(2048, 2048)
        self.layers = nn.ModuleList([nn.Linear(2048, 2048, bias=False) for _ in range(18)])
        self.head = nn.Linear(2048, 2048, bias=False)
        self.head.weight = self.embed.weight


def by_rows(model):
    for box in model.parameters():
        if isinstance(box._value, jax.ShapeDtypeStruct):
            box.value = jax.ShapeDtypeStruct(box.shape, box.dtype, sharding=rows)


def peak():
    """The most memory that this process has had since `forget_peak`, in bytes."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def forget_peak():
    gc.collect()
    libc.malloc_trim(0)  # so that nothing is made in memory that was free already
    Path("/proc/self/clear_refs").write_text("5")


# Large blocks that are freed go back at once: the C library would keep some 20 MB of them, by chance.
libc = ctypes.CDLL("libc.so.6")
M_MMAP_THRESHOLD = -3
libc.mallopt(M_MMAP_THRESHOLD, 2**20)
del large
nn.init_sharded(lambda: nn.Sequential(nn.Linear(64, 64), nn.Embedding(64, 64)), mesh)
nn.Linear(4096, 4096)  # compiles the long fills
for numbers in ("torch", "jax"):
    nn.manual_seed(11)
    forget_peak()
    before = peak()
    tall = nn.init_sharded(Tall, rules=by_rows, numbers=numbers)
    jax.block_until_ready(jax.tree.leaves(tall))
    grown = peak() - before
    say(f"memory {numbers}", [grown, sum(box.value.nbytes for box in tall.parameters()) // 2])
    parts = {
        name: [processes.digest(np.asarray(s.data)) for s in box.value.addressable_shards]
        for name, box in tall.named_parameters()
    }
    say(f"parts {numbers}", parts)
    say(f"tied {numbers}", tall.head.weight is tall.embed.weight)
    del tall
nn.manual_seed(rank)
say("seeds", [message(nn.init_sharded, Tall, rules=by_rows, numbers=numbers) for numbers in ("torch", "jax")])

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
