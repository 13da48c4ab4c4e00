"""Run by test_process_group.py: one process ends while the others compute with it."""

import os
import sys
import time

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxnn as nn
from jaxnn.multihost import spanning
from tests.parallel.children import say

how = sys.argv[1]
nn.parallel.init_process_group(timeout=8)
rank = nn.parallel.get_rank()
mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
x = spanning.place(np.ones(4, np.float32), NamedSharding(mesh, PartitionSpec("data")))
total = jax.jit(lambda x: x.sum())
total(x).block_until_ready()
nn.parallel.barrier()
say("begun", time.time())
if rank == 1 and how == "killed":
    os._exit(7)
if rank == 1 and how == "raises":
    raise ValueError("the data of process 1 is broken")
if rank == 0 and how == "first raises":
    raise ValueError("the data of process 0 is broken")
while True:
    total(x).block_until_ready()
    time.sleep(0.05)
