"""XLA's threads on several CPU devices: collectives that run side by side take one each, and wait."""

import os
import subprocess
import sys
import warnings

import pytest

from jaxnn.parallel import device_mesh
from tests.parallel import scaled

# Two chains of collectives that do not depend on each other, on eight devices.
CHAINS = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, PartitionSpec as P

mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
turn = [(i, (i + 1) % 4) for i in range(4)]

def chains(arrays):
    for _ in range(2):
        arrays = [jnp.sin((jax.lax.ppermute(x, "b", turn) if i % 2 else jax.lax.psum(x, "a")) @ x) for i, x in enumerate(arrays)]
    return arrays

run = jax.jit(jax.shard_map(chains, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False))
arrays = [jnp.full((64, 64), float(i)) for i in range(6)]
for _ in range(100):
    arrays = run(arrays)
jax.block_until_ready(arrays)
"""


def test_collectives_side_by_side_end_where_there_are_threads_for_them():
    run = subprocess.run(
        [sys.executable, "-c", CHAINS], env=scaled.environment(), capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parametrize(
    "cores, told, devices, warns",
    [(2, None, 8, True), (64, "4", 8, True), (2, "64", 8, False), (64, None, 8, False), (1, None, 1, False)],
)
def test_few_threads_are_warned_of(monkeypatch, cores, told, devices, warns):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.delenv("NPROC", raising=False)
    if told is not None:
        monkeypatch.setenv("NPROC", told)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        device_mesh._warn_of_few_threads.__wrapped__(devices)
    assert len(caught) == warns
    if warns:
        assert "NPROC=64" in str(caught[0].message)
