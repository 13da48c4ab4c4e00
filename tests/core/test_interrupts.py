"""SIGINT during steps, and steps that donate and fail: everything moves together, or the error names what is gone."""

import copy
import dis
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests import compilation
from tests.core import interrupted
from tests.core.interrupted import KINDS

X = jnp.ones((3, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_finds_all_written_or_nothing(kind):
    command = [sys.executable, "-m", "tests.core.interrupted", kind, "4"]
    environment = {**os.environ, "XLA_FLAGS": compilation.flags()}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


class At:
    """Raises KeyboardInterrupt at one of the instants where a signal's handler may run: after calls and jumps back."""

    NAMES = {"take", "moved", "release", "__enter__", "__exit__", "finish"}  # of functions
    MODULES = {"jaxnn.core.random", "jaxnn.core.lift", "jaxnn.boxes.writes", "jaxnn.transforms.jit"}
    NAMES_OF_JIT = NAMES | {"has", "wrapper", "_finish", "write_back", "write_all"}

    def __init__(self, number, names):
        self.left, self.names, self.reached = number, names, False

    def __call__(self, frame, event, arg):
        code = frame.f_code
        if code.co_name not in self.names or frame.f_globals.get("__name__") not in self.MODULES:
            return None
        if frame.f_back.f_code.co_name == "next_key":  # within a trace, from that trace's own stream
            return None
        before = "RESUME"

        def local(frame, event, arg):
            nonlocal before
            if event == "opcode":
                last, before = before, dis.opname[code.co_code[frame.f_lasti]]
                if last.startswith(("RESUME", "CALL", "JUMP_BACKWARD")) and before != "RESUME" and not self.reached:
                    self.left -= 1
                    if self.left < 0:
                        self.reached = True
                        raise KeyboardInterrupt
            return local

        frame.f_trace = local  # Python 3.13 gives opcodes to a frame that has one when it asks for them
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return local


@pytest.mark.parametrize("kind", ["jit", "donated", "bundle", "scan", "gradients"])
def test_after_an_interrupt_at_any_instant_the_random_stream_moves_with_the_rest(kind):
    model, x = interrupted.Net(), jnp.ones((1, 1))
    optimizer, names = nn.optim.Optimizer(model, interrupted._count()), At.NAMES
    if kind == "scan":
        step = lambda model, *_: nn.scan(lambda model, x: (model, model(x)), model, x[None])  # noqa: E731
    elif kind == "gradients":
        step = lambda model, *_: nn.value_and_grad(lambda model: model(x))(model)  # noqa: E731
    else:
        step, names = interrupted.make_step(kind), At.NAMES_OF_JIT

    def counts():
        if kind in ("scan", "gradients"):  # which do not train
            return {float(model.count), float(model.kept[0]), float(model.kept[1]["a"])}
        return interrupted.counts(model, optimizer)

    with nn.fork_rng():
        stream = interrupted.Stream()
        for _ in range(3):
            step(model, optimizer, x)
        number, reached, before = 0, True, sys.gettrace()
        while reached:
            at = At(number, names)
            sys.settrace(at)
            try:
                step(model, optimizer, x)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(before)
            number, reached = number + 1, at.reached
            assert counts() == {stream.count()}, number
            assert not any(claim.locked() for claim in nn.default_generator._taken.values())
            step(model, optimizer, x)  # works from the stream, and not from a branch
            assert counts() == {stream.count()}, number
    assert number > 10


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.bn(self.fc(x))


def fails_on_the_host(x):
    raise ValueError("on the host")


def step(model, optimizer, x, where):
    loss, grads = nn.value_and_grad(lambda model: (model(x) ** 2).sum())(model)
    optimizer.step(model, grads)
    if where == "traced":
        raise ValueError("while tracing")
    if where == "run":
        loss += jax.pure_callback(fails_on_the_host, jax.ShapeDtypeStruct((), np.float32), loss)
    return loss


@pytest.fixture
def trained():
    """A model, its optimizer, a donating step, and their state after two steps."""
    model = Net()
    optimizer = nn.optim.SGD(model, lr=0.1, momentum=0.9)
    donating = nn.jit(step, donate_argnums=(0, 1), static_argnums=3)
    for _ in range(2):
        donating(model, optimizer, X, "")
    saved = {name: np.asarray(value).copy() for name, value in model.state_dict().items()}
    return model, optimizer, donating, (saved, copy.deepcopy(optimizer.state_dict()))


def test_a_donating_step_that_fails_while_traced_loses_nothing(trained):
    model, optimizer, donating, (saved, _) = trained
    with pytest.raises(ValueError, match="while tracing"):
        donating(model, optimizer, X, "traced")
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, saved[name])
    donating(model, optimizer, X, "")


def test_a_donating_step_that_fails_says_what_is_gone_and_the_way_out_works(trained):
    model, optimizer, donating, saved = trained
    with pytest.raises(jax.errors.JaxRuntimeError, match="on the host") as failure:
        donating(model, optimizer, X, "run")
    (note,) = [note for note in failure.value.__notes__ if "donate_argnums" in note]
    assert "Net.fc.weight, Net.fc.bias, Net.bn.weight" in note and "load_state_dict" in note
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    expected, other = Net(), None
    expected.load_state_dict(saved[0])
    other = nn.optim.SGD(expected, lr=0.1, momentum=0.9)
    other.load_state_dict(saved[1])
    assert float(donating(model, optimizer, X, "")) == float(nn.jit(step, static_argnums=3)(expected, other, X, ""))


USES = {
    "nn.jit": lambda model, optimizer: nn.jit(lambda model: model(X))(model),
    "the step": lambda model, optimizer: nn.jit(step, static_argnums=3)(model, optimizer, X, ""),
    "a call": lambda model, optimizer: model(X),
    "a call of a part": lambda model, optimizer: model.bn(model.fc(X)),
    "value_and_grad": lambda model, optimizer: nn.value_and_grad(lambda model: model(X).sum())(model),
    "optimizer.step": lambda model, optimizer: optimizer.step(model, {"bn.weight": jnp.ones(4)}),
    "state_dict": lambda model, optimizer: model.state_dict(),
    "deepcopy": lambda model, optimizer: copy.deepcopy(model),
}


@pytest.mark.parametrize("use", USES)
def test_the_use_of_an_array_that_is_gone_names_it(trained, use):
    model, optimizer, _, _ = trained
    for array in (model.bn.weight, optimizer._slots["options.0"].value):  # as if a plain jax.jit had taken them over
        array.delete()
    with pytest.raises(nn.DeletedArrayError, match=r"(weight|options\.0).*donate_argnums.*load_state_dict"):
        USES[use](model, optimizer)
