"""Iterations with overflows under nn.amp.GradScaler; no PyTorch is needed here."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn

WIDTH, STEPS = 5, 14
OVERFLOWS = {3: np.inf, 4: np.nan, 9: -np.inf}
OPTIONS = {
    "torch's defaults": {},
    "often": {"init_scale": 8.0, "growth_interval": 3},
    "no powers of two": {"init_scale": 3.0, "growth_factor": 1.7, "backoff_factor": 0.3, "growth_interval": 2},
    "to the end of float32": {"init_scale": 2.0**127, "growth_interval": 1},
}
OPTIMIZERS = {"SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}, "Adam": {"lr": 0.05}, "AdamW": {"lr": 0.05}}


def slopes(step):
    """What the loss multiplies the weights by: tiny numbers, and an overflow now and then."""
    c = np.random.RandomState(step).randn(WIDTH).astype(np.float32) * np.float32(1e-3)
    if step in OVERFLOWS:
        c[step % WIDTH] = OVERFLOWS[step]
    return c


def ours(name, options, clip, mode):
    model = nn.Linear(WIDTH, 1, bias=False)
    model.weight = jnp.full((1, WIDTH), 0.5, jnp.float32)
    optimizer = getattr(nn.optim, name)(model, **OPTIMIZERS[name])
    scaler = nn.amp.GradScaler(**options)

    def step(model, optimizer, scaler, c):
        _, grads = nn.value_and_grad(lambda m: scaler.scale((m.weight * c).sum()))(model)
        if clip:
            grads = scaler.unscale_(optimizer, grads)
            grads, _ = nn.utils.clip_grad_norm_(grads, 1e-3)
        scaler.step(optimizer, model, grads)
        scaler.update()
        return model, optimizer, scaler

    run = {"eager": lambda f: f, "nn.jit": nn.jit, "jax.jit": jax.jit}[mode](step)
    found = []
    for number in range(STEPS):
        out = run(model, optimizer, scaler, slopes(number))
        if mode == "jax.jit":
            model, optimizer, scaler = out
        found.append((np.asarray(model.weight), scaler.get_scale(), scaler._get_growth_tracker()))
    return found, scaler, optimizer, run
