"""Record the names, shapes, dtypes and seeded weights of the originals of ``examples/models``.

    pip install --no-deps --target SITE torchvision==0.28.0 transformers huggingface_hub tokenizers regex pyyaml filelock httpx
    git clone https://github.com/milesial/Pytorch-UNet
    PYTHONPATH=SITE python -m tests.examples.record_models --unet Pytorch-UNet --tutorial sequence_models_tutorial.py

Writes ``recorded/models.json``. Large networks are held by a checksum of their list, the smaller ones by the list.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import sys
import types
from pathlib import Path

import numpy as np

RECORDED = Path(__file__).parent / "recorded" / "models.json"
LISTED = 200  # entries; above, a checksum


def entries(state_dict) -> list[str]:
    """One line for each array: its name, shape and dtype."""
    return [f"{name} {tuple(a.shape)} {str(a.dtype).removeprefix('torch.')}" for name, a in state_dict.items()]


def names_of(state_dict) -> list[str] | str:
    """The lines, or where they are many their number and checksum."""
    lines = entries(state_dict)
    if len(lines) <= LISTED:
        return lines
    return f"{len(lines)} {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


def weights_of(state_dict) -> dict[str, list[float]]:
    """For each array that has been drawn: its first and last number, and the sum of all in float64."""
    figures = {}
    for name, array in state_dict.items():
        flat = np.asarray(array, np.float64).reshape(-1)
        if not np.all(flat == flat[0]):
            figures[name] = [float(flat[0]), float(flat[-1]), float(flat.sum())]
    return figures


def originals(unet: Path | None, tutorial: Path | None):
    """Name of the recording, what makes the original, and whether to record its weights from seed 0."""
    import torch

    # The classifiers need none of torchvision's compiled operators, which a wheel for CUDA cannot load here.
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("_meta_registrations"))
    try:
        from torchvision.models import resnet, vision_transformer

        for name in (
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnet152",
            "resnext50_32x4d",
            "wide_resnet50_2",
        ):
            yield f"resnet.{name}", getattr(resnet, name), name == "resnet18"
        for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"):
            yield f"vit.{name}", getattr(vision_transformer, name), False
        thin = {"image_size": 16, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
        yield "vit.thin", lambda: vision_transformer.VisionTransformer(**thin, representation_size=8), True
    except ImportError as error:
        print(f"torchvision is not recorded: {error}", file=sys.stderr)
    try:
        from transformers import GPT2Config, GPT2LMHeadModel

        yield "gpt2.gpt2", lambda: GPT2LMHeadModel(GPT2Config()), False
        thin = {"vocab_size": 48, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
        yield "gpt2.thin", lambda: GPT2LMHeadModel(GPT2Config(**thin)), True
    except ImportError as error:
        print(f"transformers is not recorded: {error}", file=sys.stderr)
    if unet:
        sys.path.insert(0, str(unet))
        from unet import UNet

        kind = "unet.older" if UNet(3, 2).inc.double_conv[0].bias is not None else "unet.unet"
        yield kind, lambda: UNet(3, 2, bilinear=False), kind == "unet.unet"
        yield f"{kind}_bilinear", lambda: UNet(3, 2, bilinear=True), False
    if tutorial:
        tree = ast.parse(tutorial.read_text())
        tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        namespace = {"nn": torch.nn, "torch": torch, "F": torch.nn.functional}
        exec(compile(tree, str(tutorial), "exec"), namespace)
        yield "lstm_tagger.tagger", lambda: namespace["LSTMTagger"](6, 5, 9, 3), True


def main() -> None:
    """Add to what is recorded, or replace it."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unet", type=Path, help="a checkout of milesial/Pytorch-UNet, of any date")
    parser.add_argument("--tutorial", type=Path, help="sequence_models_tutorial.py of PyTorch's tutorials")
    options = parser.parse_args()
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    for name, make, seeded in originals(options.unet, options.tutorial):
        if seeded:
            torch.manual_seed(0)
            recorded[name] = {"names": names_of(make().state_dict())}
            torch.manual_seed(0)
            recorded[name]["weights"] = weights_of(make().state_dict())
        else:
            with torch.device("meta"):
                recorded[name] = {"names": names_of(make().state_dict())}
        print(name)
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text(json.dumps(dict(sorted(recorded.items())), indent=0) + "\n")


if __name__ == "__main__":
    main()
