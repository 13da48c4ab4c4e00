"""Small modules that the tests of the core are made of; they need nothing of jaxnn's layers."""

import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from jaxnn.core import random


class Affine(nn.Module):
    """A linear layer that counts its calls and keeps a running mean of its output."""

    def __init__(self, inp=3, out=3):
        super().__init__()
        self.inp, self.out = inp, out
        weight = np.random.RandomState(inp * 10 + out).randn(out, inp)
        self.weight = nn.Parameter(weight.astype(np.float32))
        self.bias = nn.Parameter(jnp.zeros(out))
        self.register_buffer("mean", jnp.zeros(out))
        self.register_buffer("calls", np.zeros((), np.int64))

    def forward(self, x):
        y = x @ self.weight.T + self.bias
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * y.reshape(-1, self.out).mean(0)
            self.calls = self.calls + 1
        return y

    def extra_repr(self):
        return f"inp={self.inp}, out={self.out}"


class Net(nn.Module):
    """Two layers and a nonlinearity."""

    def __init__(self):
        super().__init__()
        self.first = Affine(3, 4)
        self.act = jnp.tanh
        self.second = Affine(4, 3)

    def forward(self, x):
        return self.second(self.act(self.first(x)))


class Noise(nn.Module):
    """Adds noise from the key stream."""

    def forward(self, x):
        import jax

        return x + jax.random.normal(random.next_key(), x.shape)
