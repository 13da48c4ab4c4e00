"""Record what transformers' models of the Llama family give, with weights that NumPy draws.

    pip install transformers==5.24.0
    python -m tests.examples.record_llama

Writes ``recorded/llama.npz``: for each family its configuration, the names and shapes of its weights, the logits in float32
and float64, and greedy tokens of padded prompts.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

RECORDED = Path(__file__).parent / "recorded" / "llama.npz"
SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
    "pad_token_id": None,
}
TURNS = {"original_max_position_embeddings": 16, "rope_theta": 10000.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.0, 2.0, 3.0, 4.0]}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0} | TURNS
YARN = {"rope_type": "yarn", "factor": 4.0}
# Class of transformers, its options, and the number of tokens; more than 16 are longer than the training's texts.
FAMILIES = {
    "llama 2": ("Llama", {}, 12),
    "llama 3": ("Llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}, 12),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}, 12),
    "mistral": ("Mistral", {"sliding_window": 5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 12),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}, 12),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}, 12),
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}, 12),
    "dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 500.0}}, 24),
    "yarn": ("Qwen3", {"head_dim": 16, "rope_parameters": YARN | TURNS}, 24),
    "yarn, scaled": ("Llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.5, "truncate": False}}, 9),
    "longrope, short": ("Llama", {"rope_parameters": LONG | {"factor": 4.0} | TURNS}, 12),
    "longrope, long": ("Llama", {"rope_parameters": LONG | TURNS, "max_position_embeddings": 64}, 24),
    "proportional": ("Llama", {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.5}}, 12),
}
# As transformers 4 wrote them.
OLD = {
    "llama": {"rope_theta": 500000.0, "rope_scaling": {**LLAMA3, "rope_theta": 500000.0}, "eos_token_id": [1, 2]},
    "mistral": {"rope_theta": 1e6, "sliding_window": None, "eos_token_id": 2},
    "qwen2": {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}, "use_sliding_window": False},
}
PROMPTS = [[7, 1, 33], list(range(3, 48)), [5]]
TOKENS = 40
GENERATING = ("qwen3", "llama 3", "mistral", "qwen2")


def tokens(length: int) -> np.ndarray:
    return np.random.RandomState(1).randint(0, 50, (2, length))


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """By name alone, none of them 0 or 1; tied ones are one array."""
    drawn = {}
    for name, shape in shapes.items():
        seed = sum(name.replace("lm_head", "model.embed_tokens").encode())
        array = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
        drawn[name] = 1 + 0.2 * array if "norm" in name else 0.3 * array
    return drawn


def main() -> None:
    import torch
    import transformers

    found = {}
    for name, (family, options, length) in FAMILIES.items():
        config = getattr(transformers, f"{family}Config")(**SMALL | options)
        given = json.dumps(config.to_dict())
        model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        model.load_state_dict({key: torch.tensor(value) for key, value in weights(shapes).items()})
        ids = torch.tensor(tokens(length))
        with torch.no_grad():
            found[f"{name}/float32"] = model(ids).logits.numpy()
            if name in GENERATING:
                mask = torch.zeros(len(PROMPTS), max(map(len, PROMPTS)), dtype=torch.long)
                batch = torch.zeros_like(mask)
                for row, prompt in enumerate(PROMPTS):
                    batch[row, -len(prompt) :], mask[row, -len(prompt) :] = torch.tensor(prompt), 1
                greedy = {"do_sample": False, "max_new_tokens": TOKENS, "eos_token_id": None, "pad_token_id": 0}
                out = model.generate(batch, attention_mask=mask, **greedy)
                found[f"{name}/greedy"] = out[:, batch.shape[1] :].numpy()
            if name == "qwen3":
                alone = torch.tensor([PROMPTS[1]])
                out = model.generate(alone, attention_mask=alone * 0 + 1, repetition_penalty=1.3, **greedy)
                found["greedy, penalised"] = out[:, alone.shape[1] :].numpy()
            found[f"{name}/float64"] = model.double()(ids).logits.numpy()
        found[f"{name}/config"] = given
        found[f"{name}/shapes"] = json.dumps(shapes)
    for kind, options in OLD.items():
        config = transformers.AutoConfig.for_model(**{"model_type": kind, **SMALL, **options})
        found[f"old {kind}"] = json.dumps(config.to_dict())
    np.savez_compressed(
        RECORDED, version=f"transformers {transformers.__version__}, torch {torch.__version__}", **found
    )


if __name__ == "__main__":
    main()
