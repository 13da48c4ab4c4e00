"""``python -m parity train``: the same model, data, optimizer and seed in PyTorch and in jaxnn, step by step.

Three curves for each pair of model and optimizer: the loss in both, and how far the weights are apart; beside them the
distance of PyTorch's own float32 from its float64, which is what rounding alone does.
"""

from __future__ import annotations

import argparse
import copy
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import jaxnn as nn
import jaxnn.functional as F

BATCH, CLASSES, LENGTH, WIDTH = 16, 5, 12, 16


def cnn(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def _last(nn: Any) -> Any:
    """The last step of a recurrent layer's output."""

    class Last(nn.Module):
        def forward(self, outputs: Any) -> Any:
            return outputs[0][:, -1]

    return Last()


def lstm(nn: Any) -> Any:
    return nn.Sequential(nn.LSTM(3, WIDTH, 2, batch_first=True), _last(nn), nn.Linear(WIDTH, CLASSES))


def _mean(nn: Any) -> Any:
    class Mean(nn.Module):
        def forward(self, tokens: Any) -> Any:
            return tokens.mean(1)

    return Mean()


def transformer(nn: Any) -> Any:
    layers = [nn.TransformerEncoderLayer(WIDTH, 4, 32, 0.0, "gelu", batch_first=True) for _ in range(2)]
    return nn.Sequential(nn.Linear(3, WIDTH), *layers, _mean(nn), nn.Linear(WIDTH, CLASSES))


MODELS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "cnn": (cnn, (3, 8, 8)),
    "lstm": (lstm, (LENGTH, 3)),
    "transformer": (transformer, (LENGTH, 3)),
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.05, momentum=0.9, weight_decay=1e-4),
    "Adam": dict(lr=1e-3),
    "AdamW": dict(lr=1e-3, weight_decay=0.01),
    "RMSprop": dict(lr=1e-3, momentum=0.5),
    "Adagrad": dict(lr=1e-2),
}


class Curves(NamedTuple):
    """One pair of runs. Distances are relative to the norm of all weights, after each step."""

    model: str
    optimizer: str
    theirs: np.ndarray[Any, Any]
    ours: np.ndarray[Any, Any]
    distance: np.ndarray[Any, Any]
    own_distance: np.ndarray[Any, Any]

    @property
    def loss_error(self) -> float:
        """The largest relative difference of the losses."""
        return float(np.max(np.abs(self.ours - self.theirs) / np.abs(self.theirs)))

    @property
    def held(self) -> bool:
        """Within 1e-3 at every step, or 8 times what rounding does to PyTorch itself."""
        return self.loss_error <= 1e-3 or bool(
            np.all(self.distance <= 8 * np.maximum.accumulate(self.own_distance) + 1e-5)
        )


def batches(shape: tuple[int, ...], steps: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Inputs whose class can be learnt: the sign pattern of fixed projections, with noise."""
    rng = np.random.RandomState(0)
    directions = rng.randn(CLASSES, int(np.prod(shape)))
    found = []
    for _ in range(steps):
        x = rng.randn(BATCH, *shape).astype(np.float32)
        found.append((x, np.argmax(x.reshape(BATCH, -1) @ directions.T, 1)))
    return found


def _distance(weights: list[np.ndarray[Any, Any]], truth: list[np.ndarray[Any, Any]]) -> float:
    apart = sum(float(np.sum((a.astype(np.float64) - b) ** 2)) for a, b in zip(weights, truth))
    return (apart / sum(float(np.sum(b.astype(np.float64) ** 2)) for b in truth)) ** 0.5


def _torch_run(torch: Any, model: Any, optimizer: str, data: Any, dtype: Any) -> tuple[list[float], list[Any]]:
    model = copy.deepcopy(model).to(dtype)
    stepper = getattr(torch.optim, optimizer)(model.parameters(), **OPTIMIZERS[optimizer])
    losses, weights = [], []
    for x, y in data:
        stepper.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(torch.tensor(x, dtype=dtype)), torch.tensor(y))
        loss.backward()
        stepper.step()
        losses.append(loss.item())
        weights.append([tensor.detach().numpy().copy() for tensor in model.parameters()])
    return losses, weights


def _our_run(model: Any, optimizer: str, data: Any) -> tuple[list[float], list[Any]]:
    stepper = getattr(nn.optim, optimizer)(model, **OPTIMIZERS[optimizer])

    @nn.jit
    def step(model: Any, stepper: Any, x: Any, y: Any) -> Any:
        loss, grads = nn.value_and_grad(lambda m: F.cross_entropy(m(x), y))(model)
        stepper.step(model, grads)
        return loss

    losses, weights = [], []
    for x, y in data:
        losses.append(float(step(model, stepper, x, y)))
        weights.append([np.asarray(box.value) for box in model.parameters()])
    return losses, weights


def compare_runs(model: str, optimizer: str, steps: int) -> Curves:
    """Train in PyTorch (float32 and float64) and in jaxnn from one seed."""
    import torch

    make, shape = MODELS[model]
    data = batches(shape, steps)
    torch.manual_seed(0)
    theirs = make(torch.nn)
    nn.manual_seed(0)
    ours = make(nn)
    losses, weights = _torch_run(torch, theirs, optimizer, data, torch.float32)
    _, truth = _torch_run(torch, theirs, optimizer, data, torch.float64)
    our_losses, our_weights = _our_run(ours, optimizer, data)
    return Curves(
        model,
        optimizer,
        np.array(losses),
        np.array(our_losses),
        np.array([_distance(a, b) for a, b in zip(our_weights, truth)]),
        np.array([_distance(a, b) for a, b in zip(weights, truth)]),
    )


def plot(runs: list[Curves], path: pathlib.Path) -> None:
    """Losses above, distances of the weights below, one column a model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(run.model for run in runs))
    figure, axes = plt.subplots(2, len(names), figsize=(4.2 * len(names), 6.4), squeeze=False, layout="constrained")
    for column, name in enumerate(names):
        top, bottom = axes[:, column]
        for run, color in zip([run for run in runs if run.model == name], plt.cm.tab10.colors):  # type: ignore
            top.plot(run.theirs, color=color, lw=3, alpha=0.35)
            top.plot(run.ours, color=color, lw=1, label=run.optimizer)
            bottom.semilogy(run.own_distance, color=color, lw=3, alpha=0.35)
            bottom.semilogy(run.distance, color=color, lw=1)
        top.set(title=name, ylabel="loss")
        bottom.set(xlabel="step", ylabel="distance of the weights from float64")
    axes[0, 0].legend(fontsize=8, title="jaxnn thin, PyTorch wide", title_fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all")
    parser.add_argument("--optimizer", action="append", choices=OPTIMIZERS, help="default: all")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/parity/train.png"))


def main(arguments: argparse.Namespace) -> int:
    """Print a table and draw the curves; 0 when every run held."""
    runs = []
    print(
        "| model | optimizer | last loss, PyTorch | last loss, jaxnn | largest difference | weights apart | PyTorch's own |"
    )
    print("|---|---|---|---|---|---|---|")
    for model in arguments.model or MODELS:
        for optimizer in arguments.optimizer or OPTIMIZERS:
            run = compare_runs(model, optimizer, arguments.steps)
            runs.append(run)
            numbers = f"{run.theirs[-1]:.5f} | {run.ours[-1]:.5f} | {run.loss_error:.1e}"
            distances = f"{run.distance[-1]:.1e} | {run.own_distance[-1]:.1e}"
            print(f"| {model} | {optimizer} | {numbers} | {distances} |{'' if run.held else ' PARTS'}", flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    plot(runs, arguments.out)
    print(f"\ncurves: {arguments.out}")
    return 0 if all(run.held for run in runs) else 1
