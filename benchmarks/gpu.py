"""Training steps of ResNet-50, ViT-B/16 and GPT-2 (124M) on a GPU, beside PyTorch eager and compiled.

    python -m benchmarks.gpu [--only NAME] [--rounds 10] [--no-compile] [--device cuda] [--tiny]

Each in float32 with the precisions "highest" and "high" of matrix products, and under bfloat16 autocast. The models are
the files of examples/models, over torch by exchanging their imports; both start from the same weights, and the losses
of the first step are printed beside the times. With --tiny the same command can be tried on a CPU.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch wants memory beside JAX

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
import jaxnn.functional as F
from benchmarks.models import LR, MOMENTUM, STEPS
from benchmarks.timing import medians

PRECISIONS = ("highest", "high", "bfloat16")


class Workload(NamedTuple):
    """A model file of examples/models, how a network is made of it, and what it is given: `input` is of one image."""

    file: str
    make: Callable[[Any], Any]
    batch: int
    input: tuple[int, ...]
    classes: int
    tokens: bool = False


def _gpt2(**sizes: int) -> Callable[[Any], Any]:
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return lambda file: file.GPT2LMHeadModel(file.GPT2Config(**off, **sizes))


WORKLOADS = {
    "ResNet-50": Workload("resnet", lambda file: file.resnet50(), 64, (3, 224, 224), 1000),
    "ViT-B/16": Workload("vit", lambda file: file.vit_b_16(), 64, (3, 224, 224), 1000),
    "GPT-2 124M": Workload("gpt2", _gpt2(), 8, (1024,), 50257, tokens=True),
}
TINY = {
    "ResNet-50": Workload("resnet", lambda file: file.ResNet(file.Bottleneck, [1, 1, 1, 1], 10), 2, (3, 64, 64), 10),
    "ViT-B/16": Workload(
        "vit", lambda file: file.VisionTransformer(32, 16, 2, 4, 64, 128, num_classes=10), 2, (3, 32, 32), 10
    ),
    "GPT-2 124M": Workload(
        "gpt2", _gpt2(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=4), 2, (32,), 64, tokens=True
    ),
}


class _Pending:
    """What PyTorch has been asked for and may not have done yet, for ``jax.block_until_ready``."""

    def __init__(self, loss: Any) -> None:
        self.loss = loss

    def block_until_ready(self) -> None:
        self.loss.item()


def data_of(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """A batch and its targets."""
    rng = np.random.default_rng(0)
    if workload.tokens:
        tokens = rng.integers(0, workload.classes, (workload.batch, workload.input[0] + 1), np.int32)
        return tokens[:, :-1], tokens[:, 1:]
    images = rng.standard_normal((workload.batch, *workload.input), np.float32)
    return images, rng.integers(0, workload.classes, workload.batch, np.int32)


def our_step(workload: Workload, precision: str) -> Callable[[], Any]:
    """One step of jaxnn, which gives up the old weights' memory for the new."""
    nn.manual_seed(0)
    model = workload.make(importlib.import_module(f"examples.models.{workload.file}"))
    optimizer = nn.optim.SGD(model, lr=LR, momentum=MOMENTUM)
    x, y = map(jnp.asarray, data_of(workload))

    @nn.jit(donate_argnums=(0, 1))
    def step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        def loss_of(model: Any) -> jax.Array:
            with nn.autocast(dtype=jnp.bfloat16, enabled=precision == "bfloat16"):
                return F.cross_entropy(model(x).reshape(-1, workload.classes), y.reshape(-1))

        loss, grads = nn.value_and_grad(loss_of)(model)
        optimizer.step(model, grads)
        return loss

    return lambda: step(model, optimizer, x, y)


def their_step(workload: Workload, precision: str, device: str, compiled: bool) -> Callable[[], Any]:
    """One step of PyTorch."""
    import torch

    from tests.examples import twin

    torch.manual_seed(0)
    with torch.device("cpu"):  # the same numbers as ours
        model = workload.make(twin.load(workload.file))
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    x, y = (torch.tensor(array, device=device) for array in data_of(workload))
    y = y.long()
    forward = torch.compile(model) if compiled else model

    def step() -> _Pending:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = forward(x)
            loss = torch.nn.functional.cross_entropy(logits.reshape(-1, workload.classes), y.reshape(-1))
        loss.backward()
        optimizer.step()
        return _Pending(loss.detach())

    return step


def set_precision(precision: str) -> None:
    """That of float32 products, and in PyTorch of cuDNN's convolutions too, in both libraries."""
    import torch

    products = "highest" if precision == "highest" else "high"
    nn.set_float32_matmul_precision(products)
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = products == "high"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    parser.add_argument("--device", default="cuda", help="PyTorch's; JAX takes its default")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args(argv)
    import torch

    torch.set_default_device(arguments.device)  # the positions that GPT-2 counts are made where its weights are
    others = ["jaxnn", *([] if arguments.no_compile else ["torch.compile"])]
    print(f"| training step | precision | torch eager, ms | {', ratio | '.join(others)}, ratio | first losses |")
    print("|---" * (4 + len(others)) + "|")
    for name, workload in (TINY if arguments.tiny else WORKLOADS).items():
        if arguments.only.lower() not in name.lower():
            continue
        for precision in PRECISIONS:
            set_precision(precision)
            contenders = {
                "torch": their_step(workload, precision, arguments.device, compiled=False),
                "jaxnn": our_step(workload, precision),
            }
            if not arguments.no_compile:
                contenders["torch.compile"] = their_step(workload, precision, arguments.device, compiled=True)
            losses = f"{contenders['torch']().loss.item():.4f}, {float(contenders['jaxnn']()):.4f}"
            times = medians(contenders, STEPS, arguments.rounds)
            ratios = " | ".join(f"{times[other] / times['torch']:.2f}" for other in others)
            print(f"| {name} | {precision} | {times['torch'] / 1000:.1f} | {ratios} | {losses} |", flush=True)
            contenders.clear()


if __name__ == "__main__":
    main()
