"""What a user writes, read by pyright alone (test_user_code.py): nothing here runs.

A comment "error" marks a line that must be reported, with the rule; "is" the type that reveal_type must show. Every other
line must pass.
"""

from typing import reveal_type

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.optim import lr_scheduler
from jaxnn.utils.rnn import pad_sequence


class Net(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.scale = nn.Parameter(jnp.ones(width))
        self.mean = nn.Buffer(jnp.zeros(width), persistent=False)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 2)

    def forward(self, x: jax.Array) -> jax.Array:
        x = x * self.scale + 2 * self.scale - self.mean
        x = F.layer_norm(x, x.shape[-1:], self.scale, self.mean)
        for layer in self.layers:
            x = F.relu(layer(x))
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        reveal_type(self.scale @ x.T)  # is: Array
        reveal_type(jnp.exp(self.scale))  # is: Array
        half = self.scale.size / 2  # noqa: F841
        self.scale[0].sum()
        self.scale + "text"  # error: reportOperatorIssue
        return self.head(x)

    @nn.jit
    def compiled(self, x: jax.Array, flag: bool = True) -> jax.Array:
        return self(x) if flag else x

    @nn.no_grad()
    def sample(self, count: int) -> jax.Array:
        return self(jnp.ones((count, 8)))

    @nn.checkpoint
    def remat(self, x: jax.Array) -> jax.Array:
        return self(x)


model = Net()
x, y = jnp.ones((4, 8)), jnp.zeros((4,), int)
reveal_type(model.train().eval())  # is: Net
reveal_type(model.to(jnp.bfloat16).requires_grad_(False))  # is: Net
reveal_type(model.compiled(x))  # is: Array
reveal_type(model.sample(3))  # is: Array
reveal_type(model.remat(x))  # is: Array
model.compiled("x")  # error: reportArgumentType
model.sample()  # error: reportCallIssue
model.compiled.lower(x).compile()

# Layers: their arrays, their arguments.
reveal_type(model.head.weight)  # is: Array
reveal_type(model.norm.weight)  # is: Array
reveal_type(nn.Conv2d(3, 8, 3, padding="same").weight)  # is: Array
reveal_type(nn.Conv2d(3, 8, 3).bias)  # is: Array | None
reveal_type(nn.Embedding(10, 3).weight)  # is: Array
reveal_type(nn.LayerNorm(3).bias)  # is: Array
reveal_type(nn.GRUCell(3, 4).weight_hh)  # is: Array
model.head.weight = jnp.ones((2, 8))
model.head.weight = nn.Parameter(jnp.ones((2, 8)))
model.head.weight = "text"  # error: reportAttributeAccessIssue
model.norm.running_mean.sum()  # error: reportOptionalMemberAccess
nn.Linear(3)  # error: reportCallIssue
nn.Linear("3", 4)  # error: reportArgumentType
nn.Linear(3, 4, biass=False)  # error: reportCallIssue
nn.Linear(3, 4, device=jax.devices()[0], dtype=jnp.bfloat16)
nn.Embedding(10, 3, device="cpu", dtype=np.dtype("float16"))
nn.Conv2d(3, 8, 3, device=NamedSharding(jax.make_mesh((1,), ("data",)), PartitionSpec()), dtype="bfloat16")
nn.Linear(3, 4, dtype=16)  # error: reportArgumentType
nn.LSTM(3, 4, device=0)  # error: reportArgumentType
nn.LazyConv2d(8, (3, 3), padding="same")
nn.LazyConv2d(8, "3")  # error: reportArgumentType
nn.LazyConvTranspose2d(8, 3, padding="same")  # error: reportArgumentType
nn.Linaer(3, 4)  # error: reportAttributeAccessIssue
nn.relu(x)  # error: reportAttributeAccessIssue

# Boxes.
for name, parameter in model.named_parameters():
    parameter.requires_grad = not name.endswith("bias")
    parameter.data = jnp.zeros_like(parameter)
    parameter.mul_(0.5)
    reveal_type(parameter.numel())  # is: int
    reveal_type(parameter.value.sum())  # is: Any
nn.Parameter(np.zeros(3, "float32"))
nn.Parameter([0.0, 1.0])  # error: reportArgumentType
nn.Buffer("mean")  # error: reportArgumentType
nn.init.kaiming_uniform_(model.head.weight, nonlinearity="relu")
nn.init.uniform_(model.head.weight, low=0)  # error: reportCallIssue
nn.init.zeros_(next(model.parameters()))
nn.init.zeros_(nn.Conv2d(3, 8, 3).bias)  # error: reportArgumentType
nn.init.normal_(model.head)  # error: reportArgumentType
nn.init.xavier_uniform(model.head.weight, gain="relu")  # error: reportArgumentType

# Functions.
reveal_type(F.relu(x))  # is: Array
reveal_type(F.cross_entropy(model(x), y, label_smoothing=0.1))  # is: Array
reveal_type(F.conv2d(x, x, stride=(1, 2)))  # is: Array
reveal_type(F.avg_pool2d(x, 2))  # is: Array
reveal_type(F.max_pool2d(x, 2, stride=2))  # is: Array
values, indices = F.max_pool2d(x, 2, return_indices=True)
reveal_type(indices)  # is: Array
reveal_type(F.max_pool1d(x, 2, None, 0, 1, False, True))  # is: tuple[Array, Array]
reveal_type(F.max_pool3d(x, 2, return_indices=bool(len(x))))  # is: Array | tuple[Array, Array]
reveal_type(F.adaptive_max_pool2d(x, (None, 3)))  # is: Array
reveal_type(F.adaptive_max_pool1d(x, 3, True))  # is: tuple[Array, Array]
reveal_type(F.fractional_max_pool2d(x, 3, output_ratio=0.5))  # is: Array
reveal_type(F.fractional_max_pool3d(x, 3, 4, return_indices=True))  # is: tuple[Array, Array]
F.max_pool2d(x)  # error: reportCallIssue
F.max_pool2d(x, 2, return_indices=True).sum()  # error: reportAttributeAccessIssue
F.adaptive_max_pool2d(x, "7")  # error: reportCallIssue
reveal_type(F.softmax(x, dim=-1))  # is: Array
reveal_type(nn.randn(2, 3, dtype=jnp.bfloat16))  # is: Array
nn.rand(2, dtype=16)  # error: reportArgumentType
nn.bernoulli(0.5)  # error: reportArgumentType
pad_sequence(3)  # error: reportArgumentType
reveal_type(pad_sequence([x, x], batch_first=True))  # is: Array
F.dropout(x, 0.5, key=jax.random.key(0))
F.dropout(x, 0.5, key=3)  # error: reportArgumentType
F.relu()  # error: reportCallIssue
F.softmax(x, dim="last")  # error: reportArgumentType
F.log_softmax(x, -1, dtype=jnp.float32)
F.log_softmax(x, -1, dtype=32)  # error: reportArgumentType
F.cross_entropy(x, y, smoothing=0.1)  # error: reportCallIssue
F.gelu(x, approximate=3)  # error: reportArgumentType
F.gleu(x)  # error: reportAttributeAccessIssue

# Optimizers and schedulers.
optimizer = nn.optim.AdamW(model, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
reveal_type(optimizer)  # is: AdamW
scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
reveal_type(scheduler)  # is: CosineAnnealingLR
reveal_type(scheduler.get_last_lr())  # is: list[Any]
lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10).step()
lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.95**epoch)
lr_scheduler.CyclicLR(optimizer, base_lr=[0.01], max_lr=0.1, cycle_momentum=False)
lr_scheduler.LambdaLR(optimizer, 0.95)  # error: reportArgumentType
lr_scheduler.OneCycleLR(optimizer, max_lr="0.1", total_steps=10)  # error: reportArgumentType
lr_scheduler.StepLR(model, step_size=3)  # error: reportArgumentType
lr_scheduler.StepLR(optimizer, step=3)  # error: reportCallIssue
lr_scheduler.ReduceLROnPlateau(model)  # error: reportArgumentType
nn.optim.SGD(model.parameters(), lr=jnp.asarray(0.1), momentum=0.9)
nn.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=np.float32(0.1))
nn.optim.Adam(model.named_parameters(), betas=(0.9, jnp.asarray(0.99)))
nn.optim.RMSprop([{"params": model.head.parameters(), "lr": 0.1}, {"params": [model.scale]}])
nn.optim.AdamW(model, learning_rate=1e-3)  # error: reportCallIssue
nn.optim.AdamW(model, lr="1e-3")  # error: reportArgumentType
nn.optim.AdamW(model, betas=0.9)  # error: reportArgumentType
nn.optim.AdamW(Net)  # error: reportArgumentType
nn.optim.SGD("model")  # error: reportArgumentType
nn.optim.Adamm(model)  # error: reportAttributeAccessIssue


# Transforms keep the signatures of what they are given.
@nn.jit(donate_argnums=0)
def train_step(model: Net, optimizer: nn.optim.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
    def loss(model: Net) -> jax.Array:
        return F.cross_entropy(model(x), y)

    value, gradients = nn.value_and_grad(loss)(model)
    reveal_type(value)  # is: Array
    nn.value_and_grad(loss)(x)  # error: reportArgumentType
    optimizer.step(model, gradients)
    return value


def score(model: Net, x: jax.Array) -> jax.Array:
    return model(x)


reveal_type(train_step(model, optimizer, x, y))  # is: Array
train_step(model, optimizer, x)  # error: reportCallIssue
train_step(model, x, x, y)  # error: reportArgumentType
train_step.lower(model, optimizer, x, y).compile()
reveal_type(nn.jit(score)(model, x))  # is: Array
reveal_type(nn.vmap(score, in_axes=(None, 0))(model, x))  # is: Array
reveal_type(nn.checkpoint(score)(model, x))  # is: Array
reveal_type(nn.no_grad(score)(model, x))  # is: Array
nn.vmap(score)(model)  # error: reportCallIssue
nn.grad(score)(model, "x")  # error: reportArgumentType
nn.checkpoint(score, prevent_csee=True)  # error: reportCallIssue
nn.jit(model)(x)
nn.vmap(model)(x)


def recur(carry: tuple[nn.GRUCell, jax.Array], x: jax.Array) -> tuple[tuple[nn.GRUCell, jax.Array], jax.Array]:
    cell, state = carry
    state = cell(x, state)
    return (cell, state), state


(cell, last), states = nn.scan(recur, (nn.GRUCell(3, 4), jnp.zeros((2, 4))), jnp.ones((10, 2, 3)))
reveal_type(cell)  # is: GRUCell
reveal_type(states)  # is: Array

with nn.no_grad(), nn.autocast(dtype=jnp.bfloat16), nn.rng(jax.random.key(0)):
    model(x)
with nn.set_grad_enabled(False), nn.inference_mode():
    model(x)
nn.autocast(dtyp=jnp.bfloat16)  # error: reportCallIssue

nn.autocast(dtype="bfloat16", enabled=False)
nn.autocast(dtype=16)  # error: reportArgumentType
nn.rng(0)  # error: reportArgumentType
with nn.rng(jax.random.key(0)) as generator, nn.device("meta"):
    reveal_type(generator)  # is: Generator
    reveal_type(nn.utils.skip_init(nn.Linear, 3, 4))  # is: Linear
nn.utils.skip_init(F.relu, 3)  # error: reportArgumentType

# Several devices.
mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("data",))
policy = nn.parallel.MixedPrecisionPolicy(param_dtype=jnp.bfloat16, reduce_dtype=jnp.float32)
nn.parallel.MixedPrecisionPolicy(param_dtype=16)  # error: reportArgumentType
reveal_type(nn.parallel.fully_shard(Net(), mesh=mesh, mp_policy=policy))  # is: Net
reveal_type(nn.parallel.fully_shard([model.head]))  # is: list[Linear]
reveal_type(nn.parallel.distribute_module(Net(), mesh.jax_mesh))  # is: Net
nn.parallel.fully_shard(Net(), mesh=(2, 4))  # error: reportArgumentType
nn.parallel.fully_shard(x)  # error: reportArgumentType

# Files and plain JAX.
nn.save(model.state_dict(), "model.pt")
nn.save(model.state_dict())  # error: reportCallIssue
model.load_state_dict(nn.load("model.pt"), strict=False)
nn.load("model.pt", map_location="cpu", weights_only=True)
nn.load("model.pt", weight_only=True)  # error: reportCallIssue
jax.jit(score)(model, x)
jax.tree.map(jnp.zeros_like, model)
nn.manual_seed("0")  # error: reportArgumentType
