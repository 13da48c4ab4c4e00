"""Low-rank adaptation: a linear layer's weight W is read as W + alpha / r * B @ A, and only A and B are trained.

    add_lora(model, r=8, alpha=16, targets=("q_proj", "v_proj"))
    ...                                     # train: A and B are the parameters that require gradients
    save_lora(model, "adapter")             # A and B alone, as peft reads and writes them
    merge_lora(model)                       # the layers are plain again, and as fast

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. Names and files are those of the peft package.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxnn as nn
from jaxnn.utils import parametrize

PREFIX = "base_model.model."


class LoRA(nn.Module):
    """A weight (out, in) to the weight with a product of rank r added, which is zero at first."""

    def __init__(self, shape: tuple[int, int], r: int, alpha: float, dtype=jnp.float32):
        super().__init__()
        self.r, self.alpha = r, alpha
        self.lora_A = nn.Parameter(jnp.zeros((r, shape[1]), dtype))
        self.lora_B = nn.Parameter(jnp.zeros((shape[0], r), dtype))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, weight):
        product = (self.lora_B @ self.lora_A) * (self.alpha / self.r)
        return weight + product.astype(weight.dtype)


def _places(model) -> dict[str, LoRA]:
    """The names of the adapted layers, and their LoRA."""
    return {
        name: module.parametrizations.weight[0]
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations.weight[0], LoRA)
    }


def add_lora(model, r: int = 8, alpha: float = 16, targets: Sequence[str] = ("q_proj", "v_proj")) -> list[str]:
    """Adapt the linear layers whose name ends in one of `targets`; nothing else requires gradients from then on.

    Draws A from the generator that ``nn.manual_seed`` seeds. A and B are float32 whatever the model's dtype.

    Returns:
        The names of the layers.

    Raises:
        ValueError: no such layer, or a rank below 1.
    """
    if r < 1:
        raise ValueError(f"add_lora: r: expected at least 1, got {r}")
    places = [
        (name, module)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in targets and isinstance(module, nn.Linear)
    ]
    if not places:
        raise ValueError(f"add_lora: targets: expected names of linear layers, got {', '.join(targets)}")
    for parameter in model.parameters():
        parameter.requires_grad = False
    for _, module in places:
        parametrize.register_parametrization(module, "weight", LoRA(module.weight.shape, r, alpha))
    return [name for name, _ in places]


def merge_lora(model) -> None:
    """Put the sums in the place of the weights, and make every layer plain again."""
    for name in _places(model):
        parametrize.remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=True)


def unload_lora(model) -> None:
    """Make every layer plain again, with the weights it had before `add_lora`."""
    for name in _places(model):
        parametrize.remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=False)


def lora_state_dict(model) -> dict[str, jax.Array]:
    """A and B alone, by the names of peft's ``adapter_model.safetensors``."""
    return {
        f"{PREFIX}{name}.{part}.weight": getattr(lora, part)
        for name, lora in _places(model).items()
        for part in ("lora_A", "lora_B")
    }


def load_lora_state_dict(model, state) -> None:
    """Copy what `lora_state_dict` gave into a model that was adapted alike.

    Raises:
        KeyError: names that the two do not share.
    """
    places = _places(model)
    expected = {f"{PREFIX}{name}.{part}.weight" for name in places for part in ("lora_A", "lora_B")}
    if expected != set(state):
        raise KeyError(f"load_lora_state_dict: names of one side alone: {sorted(expected ^ set(state))[:4]}")
    for name, lora in places.items():
        lora.load_state_dict({part: state[f"{PREFIX}{name}.{part}.weight"] for part in ("lora_A", "lora_B")})


def save_lora(model, folder: str | os.PathLike[str]) -> None:
    """Write the adapter as peft does: ``adapter_model.safetensors`` and ``adapter_config.json``."""
    places, folder = _places(model), Path(folder)
    first = next(iter(places.values()))
    folder.mkdir(parents=True, exist_ok=True)
    nn.save(lora_state_dict(model), folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": first.r,
        "lora_alpha": first.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted({name.rpartition(".")[2] for name in places}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_lora(model, folder: str | os.PathLike[str]) -> None:
    """Adapt `model` as a folder of `save_lora`, or of peft's ``save_pretrained``, says."""
    folder = Path(folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    add_lora(model, config["r"], config["lora_alpha"], config["target_modules"])
    load_lora_state_dict(model, nn.load(folder / "adapter_model.safetensors"))
