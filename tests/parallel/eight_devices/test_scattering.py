"""Gradients of gathered weights: one reduce-scatter each, in the dtype that was asked for, with one device's numbers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.base import scattering
from jaxnn.base.scattering import Way, way_through
from jaxnn.parallel import (
    ColwiseParallel,
    MixedPrecisionPolicy,
    fully_shard,
    init_device_mesh,
    parallelize_module,
    shard_batch,
)

RING = [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (2, 1), (1, 1), (0, 1)]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(32, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        self.back = nn.ConvTranspose1d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 32)

    def forward(self, ids):
        return self.head(self.back(self.conv(self.embed(ids).swapaxes(1, 2))).swapaxes(1, 2))


IDS = np.random.default_rng(0).integers(0, 32, (8, 16)).astype(np.int32)


def _loss(model, x):
    return F.cross_entropy(model(x).astype(jnp.float32).swapaxes(1, 2), x)


def _built():
    nn.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def alone():
    return {name: np.asarray(value) for name, value in nn.jit(nn.grad(_loss))(_built(), IDS).items()}


def _flattened():
    return init_device_mesh("cpu", (4, 2), mesh_dim_names=("a", "b"))._flatten("fsdp")


MESHES = {
    "one axis": (lambda: init_device_mesh("cpu", (8,), mesh_dim_names=("fsdp",)), 1),
    "copies of parts": (lambda: init_device_mesh("cpu", (2, 4), mesh_dim_names=("data", "fsdp")), 1),
    "two axes as one": (_flattened, 2),
    "a ring": (lambda: init_device_mesh("cpu", (8,), mesh_dim_names=("fsdp",)), 2),
    "tensor parallelism": (lambda: init_device_mesh("cpu", (2, 4), mesh_dim_names=("fsdp", "tp")), 1),
    "all of them": (lambda: init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("data", "fsdp", "tp")), 1),
}


@pytest.mark.parametrize("kind", MESHES)
def test_each_weight_has_one_device_s_gradient_by_reduce_scatter(kind, alone, monkeypatch):
    make, steps = MESHES[kind]
    mesh, model = make(), _built()
    if kind == "a ring":
        monkeypatch.setattr(scattering, "way_along", lambda mesh, axis: way_through(RING))
    if "tp" in mesh.mesh_dim_names:
        parallelize_module(model, mesh["tp"], {"head": ColwiseParallel()})
        mesh = mesh["fsdp"] if mesh.ndim == 2 else mesh["data", "fsdp"]
    fully_shard(model, mesh=mesh)
    step, x = nn.jit(nn.grad(_loss)), shard_batch(IDS, mesh)
    text = step.lower(model, x).compile().as_text()
    assert len(re.findall(r" reduce-scatter\(", text)) == 4 * steps
    if kind == "tensor parallelism":  # the head's, which a device has a fourth of before the exchange
        assert re.search(r"f32\[8,8\]\S* reduce-scatter\(", text)
    grads = step(model, x)
    for name, value in alone.items():
        np.testing.assert_allclose(grads[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max())
        assert grads[name].sharding == dict(model.named_parameters())[name].sharding


def test_sums_are_in_reduce_dtype():
    mesh = init_device_mesh("cpu", (8,), mesh_dim_names=("fsdp",))
    x = shard_batch(IDS, mesh)
    for reduce, found in ((jnp.float32, {"f32"}), (None, {"bf16"})):
        model = fully_shard(_built(), mesh=mesh, mp_policy=MixedPrecisionPolicy(jnp.bfloat16, reduce))
        text = str(jax.make_jaxpr(nn.jit(nn.grad(_loss)))(model, x))
        assert set(re.findall(r":(\w+)\[[\d,]*\]\S* = reduce_scatter", text)) == found


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(jnp.ones((8, 8)))

    def forward(self, x):
        return x @ self.weight


def test_a_matrix_that_is_summed_in_another_dtype_is_named():
    mesh = init_device_mesh("cpu", (8,), mesh_dim_names=("fsdp",))
    model = fully_shard(Product(), mesh=mesh, mp_policy=MixedPrecisionPolicy(jnp.bfloat16, jnp.float32))
    with pytest.warns(UserWarning, match=r"reduce_dtype=float32: .* that give them: weight\. Leave reduce_dtype out"):
        nn.jit(model).lower(jnp.ones((8, 8)))


def test_a_batch_that_does_not_divide_is_left_to_the_compiler(alone):
    mesh = init_device_mesh("cpu", (8,), mesh_dim_names=("fsdp",))
    x = IDS[:3, :15]
    want = nn.jit(nn.grad(_loss))(_built(), x)
    got = nn.jit(nn.grad(_loss))(fully_shard(_built(), mesh=mesh), x)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5 * np.abs(np.asarray(value)).max())


def test_the_way_through_a_machine():
    line = [(0, number, 0) for number in range(4)]
    assert way_through(line) == Way()
    grid = [(x, y, 0) for x in range(2) for y in range(3)]
    assert way_through(grid) == Way((((0, 3), (1, 4), (2, 5)), ((0, 1, 2), (3, 4, 5))))
    assert way_through(RING).order == (0, 7, 1, 6, 2, 5, 3, 4)
    assert way_through([(0, 0), (0, 1), (1, 1)]) == Way()
