"""Records what PyTorch's optimizers, schedulers, loaders and GradScaler do, for tests where there is no PyTorch.

    python -m tests.recorded.make

An optimizer's weights are recorded in float64, beside how far torch's own float32 is from them.
"""

import pathlib
import warnings

import numpy as np
import torch

from tests.amp import scaled
from tests.optim import schedules
from tests.recorded import cases

FILE = pathlib.Path(__file__).with_name("torch.npz")


def weights(name, options, dtype):
    """Both weights, in one row, after each of `cases.SHOWN` steps."""
    a, b, x = (torch.tensor(value, dtype=dtype) for value in (cases.A, cases.B, cases.X))
    a, b = torch.nn.Parameter(a), torch.nn.Parameter(b)
    optimizer = getattr(torch.optim, name)([a, b], **options)
    found = []
    for step in range(1, cases.STEPS + 1):
        optimizer.zero_grad()
        (torch.tanh(x @ a) @ b).square().mean().backward()
        optimizer.step()
        if step in cases.SHOWN:
            found.append(torch.cat([a.detach().ravel(), b.detach().ravel()]).double().numpy())
    return np.stack(found)


def optimizers():
    for name, sets in cases.OPTIMIZERS.items():
        for number, options in enumerate(sets):
            exact = weights(name, options, torch.float64)
            yield f"optimizer {name} {number}", exact
            yield f"error {name} {number}", np.abs(weights(name, options, torch.float32) - exact).max(1)


def schedulers():
    for name, make in schedules.CASES.items():
        groups = [{"params": [torch.nn.Parameter(torch.ones(2))], **group} for group in schedules.GROUPS]
        optimizer = torch.optim.SGD(groups, lr=0.1, **schedules.OPTIMIZERS["SGD"])
        scheduler = make(torch.optim.lr_scheduler, optimizer)
        rows = []
        for _ in range(schedules.EPOCHS):
            rows.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        yield f"scheduler {name}", np.array(rows)


def orders():
    for name, make in cases.ORDERS.items():
        for seed in cases.SEEDS:
            torch.manual_seed(seed)
            yield f"order {name} {seed}", cases.epochs(torch.utils.data, make).astype(np.int16)


def scales():
    for name, options in scaled.OPTIONS.items():
        weight = torch.nn.Parameter(torch.full((1, scaled.WIDTH), 0.5))
        optimizer = torch.optim.SGD([weight], **scaled.OPTIMIZERS["SGD"])
        scaler = torch.amp.GradScaler("cpu", **options)
        rows = []
        for step in range(scaled.STEPS):
            optimizer.zero_grad()
            scaler.scale((weight * torch.from_numpy(scaled.slopes(step))).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            rows.append([*weight.detach().ravel().tolist(), scaler.get_scale(), scaler._get_growth_tracker()])
        yield f"scale {name}", np.array(rows)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {name: value for part in (optimizers, schedulers, orders, scales) for name, value in part()}
    np.savez_compressed(FILE, version=np.array(torch.__version__), **found)
    print(f"{len(found)} records of torch {torch.__version__}, {FILE.stat().st_size / 1e3:.0f} kB: {FILE}")
