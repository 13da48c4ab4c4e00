"""Modules, optimizers and generators in other processes, spawned and forked."""

import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

COMPILATION = "full"  # see conftest.py: other processes compile so
X = jnp.arange(12.0).reshape(4, 3)


def make():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    model[3].weight = model[3].weight * 2
    model[0].get_parameter("bias").requires_grad = False
    return model


def train(model, optimizer, generator):
    """Two steps; what they leave, as NumPy arrays."""
    for _ in range(2):
        with nn.rng(generator.next_key()):
            _, grads = nn.value_and_grad(lambda model: model(X).sum())(model)
        optimizer.step(model, grads)
    state = {name: np.asarray(value) for name, value in model.state_dict().items()}
    return state, jax.tree.map(np.asarray, optimizer.state_dict()["state"]), generator.get_state()


def train_pickled(pickled):
    return train(*pickle.loads(pickled))


def _assert_equal(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_goes_on_in_a_spawned_process_where_it_was_sent_from():
    model = make()
    optimizer = nn.optim.Adam(model, lr=0.1)
    generator = nn.Generator().manual_seed(3)
    train(model, optimizer, generator)
    pickled = pickle.dumps((model, optimizer, generator))
    expected = train(model, optimizer, generator)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(train_pickled, pickled).result(timeout=300)
    _assert_equal(found, expected)
    _assert_equal(train_pickled(pickled), expected)


FORKED = """
import os, pickle, sys, threading, warnings
warnings.filterwarnings("ignore", message="os.fork")
import jax, jax.numpy as jnp, numpy as np
import jaxnn as nn
from jaxnn.core import tree

nn.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
copy = jax.tree.map(lambda leaf: leaf, model)  # not built yet
weights = {name: np.asarray(value) for name, value in model.state_dict().items()}
held, over = threading.Event(), threading.Event()

def hold():  # every lock there is, while the process forks
    with tree._building.held, nn.default_generator._lock.held:
        nn.default_generator._taken[0] = None
        held.set()
        over.wait()

threading.Thread(target=hold).start()
held.wait()
reader, writer = os.pipe()
if os.fork() == 0:
    nn.manual_seed(1)
    drawn = nn.default_generator.host.get_state()
    found = {name: box.shape for name, box in copy.named_parameters()}
    os.write(writer, pickle.dumps((found, sorted(copy.state_dict()), drawn.tobytes())))
    os._exit(0)
os.close(writer)
chunks = []
while chunk := os.read(reader, 65536):
    chunks.append(chunk)
over.set()
found, names, drawn = pickle.loads(b"".join(chunks))
assert os.wait()[1] == 0
assert found == {name: box.shape for name, box in model.named_parameters()}
assert names == sorted(weights)
nn.manual_seed(1)
assert drawn == nn.default_generator.host.get_state().tobytes()
print("whole")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_waits_for_no_lock_of_the_threads_that_it_lacks():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "whole", done.stderr[-3000:]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle(protocol):
    model = make()
    again = pickle.loads(pickle.dumps(model, protocol))
    _assert_equal(again.state_dict(), model.state_dict())
    assert [box.requires_grad for box in again.parameters()] == [box.requires_grad for box in model.parameters()]
    assert jax.tree.structure(again) == jax.tree.structure(model)


def test_a_process_that_ends_says_nothing_of_boxes_that_are_freed_last():
    script = (
        "import jaxnn as nn, jax.numpy as jnp\nfrom jaxnn.boxes import slot\n"
        "model = nn.Linear(3, 3)\nmodel(jnp.ones(3))\nheld = list(model.parameters())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
