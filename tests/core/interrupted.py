"""Trains in a process of its own while a thread sends it SIGINT; fails where anything did not move with the rest.

Run as ``python -m tests.core.interrupted KIND SECONDS``; `KIND` is one of `KINDS`.
"""

import os
import random
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnn as nn

KINDS = ("jit", "donated", "bundle", "scan", "structure", "tracing", "eager", "gradients", "loading")


class Net(nn.Module):
    """Parts of every kind that count the steps: parameters, a buffer, containers of arrays."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(6))
        for layer in self.layers:
            layer.weight = jnp.zeros((1, 1))
        self.count = nn.Buffer(jnp.zeros(()))
        self.kept = [jnp.zeros(()), {"a": jnp.zeros(())}]

    def forward(self, x):
        self.count = self.count + 1
        self.kept = [self.kept[0] + 1, {"a": self.kept[1]["a"] + 1}]
        nn.next_key()
        return sum(layer(x).sum() for layer in self.layers)


def _count():
    def update(gradients, state, params=None):
        return jax.tree.map(lambda gradient: -gradient, gradients), state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def make_step(kind):
    def step(model, optimizer, x):
        value, grads = nn.value_and_grad(lambda model: model(x))(model)
        optimizer.step(model, grads)
        return value

    def body(carry, x):
        return carry, step(*carry, x)

    def restructured(model, optimizer, x):
        model.flag = not getattr(model, "flag", False)
        return step(model, optimizer, x)

    if kind == "donated":
        return nn.jit(step, donate_argnums=(0, 1))
    if kind == "bundle":  # two modules that share boxes
        both = nn.jit(lambda model, layers, optimizer, x: step(model, optimizer, x))
        return lambda model, optimizer, x: both(model, model.layers, optimizer, x)
    if kind == "tracing":  # each call traces and compiles anew
        return lambda model, optimizer, x: nn.jit(lambda *args: step(*args))(model, optimizer, x)
    if kind == "scan":
        return lambda model, optimizer, x: nn.scan(body, (model, optimizer), x[None])[1]
    return nn.jit(restructured if kind == "structure" else step)


def counts(model, optimizer):
    """How many steps each part has seen."""
    found = [model.count, model.kept[0], model.kept[1]["a"], *(-layer.weight for layer in model.layers)]
    found += [box.value for name, box in optimizer._slots.items() if name.startswith("state")]
    return {float(jnp.squeeze(array)) for array in found}


class Stream:
    """How many times the global random stream was split since it was seeded."""

    def __init__(self):
        nn.manual_seed(0)
        self.key, self.numbers = self._now(), {}

    def _now(self):
        return nn.get_rng_state()[5056:].tobytes()

    def count(self):
        now = self._now()
        while now not in self.numbers:
            self.numbers[self.key] = float(len(self.numbers))
            key = jax.random.wrap_key_data(jnp.asarray(np.frombuffer(self.key, np.uint32)))
            self.key = np.asarray(jax.random.key_data(jax.random.split(key))[0]).tobytes()
            assert len(self.numbers) < 1_000_000
        return self.numbers[now]


class Sender:
    """A thread that sends SIGINT to this process, once for each time that `pending` is set.

    No lock and no event, for the interrupt may come in the middle of setting one.
    """

    def __init__(self):
        self.within = 0.003  # seconds
        self.pending, self.over = False, False
        self.thread = threading.Thread(target=self._send)
        self.thread.start()

    def _send(self):
        while not self.over:
            time.sleep(random.uniform(0, self.within))
            if self.pending:
                os.kill(os.getpid(), signal.SIGINT)
                self.pending = False

    def close(self):
        self.over = True
        self.thread.join()


def interrupted(step, seconds, sender):
    """Call `step` again and again; yields after every interrupt."""
    start = time.time()
    for _ in range(4):
        step()
    sender.within = (time.time() - start) / 2  # about two steps
    end = time.time() + seconds
    while time.time() < end:
        try:
            while time.time() < end or sender.pending:
                sender.pending = True
                step()
        except (KeyboardInterrupt, ValueError) as error:
            # jax's: a KeyboardInterrupt while it compares tree structures becomes a ValueError.
            if isinstance(error, ValueError) and "checking equality" not in str(error):
                raise
            yield


def eager_counts(seconds, sender):
    """Optimizer steps without nn.jit: parameters and the optimizer's state move together."""
    model = Net()
    optimizer = nn.optim.Optimizer(model, _count())
    grads = {name: jnp.ones_like(box.value) for name, box in model.named_parameters()}
    optimizer.step(model, grads)
    for _ in interrupted(lambda: optimizer.step(model, grads), seconds, sender):
        state = [box.value for name, box in optimizer._slots.items() if name.startswith("state")]
        arrays = [*(-layer.weight for layer in model.layers), *state]
        yield {float(jnp.squeeze(array)) for array in arrays}


def gradient_counts(seconds, sender):
    """Gradients without nn.jit: buffers, containers and the random stream move together."""
    stream, model, x = Stream(), Net(), jnp.ones((1, 1))
    function = nn.value_and_grad(lambda model: model(x))
    for _ in interrupted(lambda: function(model), seconds, sender):
        found = {float(array) for array in (model.count, model.kept[0], model.kept[1]["a"])}
        yield found | {stream.count()}


def loading_counts(seconds, sender):
    """Two states loaded in turn, of a model and of its optimizer: each is there as a whole."""
    model = Net()
    optimizer = nn.optim.SGD(model, lr=0.0, momentum=0.5)
    optimizer.step(model, {name: jnp.zeros_like(box.value) for name, box in model.named_parameters()})
    models, optimizers = [], []
    for number in range(2):
        models.append({name: jnp.full(value.shape, float(number)) for name, value in model.state_dict().items()})
        saved = optimizer.state_dict()
        saved["state"] = jax.tree.map(lambda array, number=number: jnp.full_like(array, number), saved["state"])
        saved["param_groups"][0]["lr"] = float(number)
        optimizers.append(saved)
    turn = [0]

    def load():
        turn[0] += 1
        model.load_state_dict(models[turn[0] % 2])
        optimizer.load_state_dict(optimizers[turn[0] % 2])

    for _ in interrupted(load, seconds, sender):
        of_model = {float(jnp.squeeze(value)) for value in model.state_dict().values()}
        state = optimizer.state_dict()
        of_optimizer = {float(jnp.squeeze(leaf)) for leaf in jax.tree.leaves(state["state"])}
        of_optimizer.add(state["param_groups"][0]["lr"])
        yield of_model if len(of_model) > 1 else of_optimizer


def jitted_counts(kind, seconds, sender):
    stream, model, x = Stream(), Net(), jnp.ones((1, 1))
    optimizer, step = nn.optim.Optimizer(model, _count()), make_step(kind)
    for _ in range(4):  # compiles all that there is to compile
        step(model, optimizer, x)
    assert counts(model, optimizer) | {stream.count()} == {4.0}
    for _ in interrupted(lambda: step(model, optimizer, x), seconds, sender):
        yield counts(model, optimizer) | {stream.count()}


def main(kind, seconds):
    sender = Sender()
    number, found, torn = 0, {0.0}, False
    try:
        others = {"eager": eager_counts, "gradients": gradient_counts, "loading": loading_counts}
        for found in others[kind](seconds, sender) if kind in others else jitted_counts(kind, seconds, sender):
            number += 1
            torn = len(found) > 1
            if torn:
                break
    finally:
        sender.close()
    print(f"{kind}: {number} interrupts, steps of each part: {found}")
    sys.exit(torn or number < 3)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
