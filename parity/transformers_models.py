"""Models of an installed transformers for `parity.packages --transformers`: its model files as they are.

Of each ``modeling_*.py`` only the imports from the rest of transformers change: they name `transformers_stand_ins.py`, which is
ported too. transformers is no dependency: ``pip install transformers`` beside PyTorch.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from parity.package_cases import Case

_CONFIG = (
    "hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=50, "
    "head_dim=4, rms_norm_eps=1e-6, attention_bias=False, attention_dropout=0.0, mlp_bias=False, hidden_act='silu', "
    "pad_token_id=0, max_position_embeddings=32, rope_parameters={'rope_type': 'default', 'rope_theta': 1e4}, "
    "_attn_implementation='eager', use_cache=False, sliding_window=None, use_sliding_window=False, "
    "layer_types=['full_attention'] * 2, max_window_layers=2, initializer_range=0.02"
)
_BERT = (
    "hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=50, hidden_act='gelu', "
    "pad_token_id=0, max_position_embeddings=32, type_vocab_size=2, layer_norm_eps=1e-12, hidden_dropout_prob=0.1, "
    "attention_probs_dropout_prob=0.1, is_decoder=False, is_encoder_decoder=False, add_cross_attention=False, "
    "chunk_size_feed_forward=0, _attn_implementation='eager', use_cache=False"
)
_VIT = (
    "hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, hidden_act='gelu', layer_norm_eps=1e-12, "
    "hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, image_size=8, patch_size=4, num_channels=3, qkv_bias=True, "
    "pooler_output_size=16, pooler_act='tanh', chunk_size_feed_forward=0, _attn_implementation='eager'"
)
_WHISPER = (
    "d_model=16, num_mel_bins=8, encoder_layers=2, decoder_layers=2, num_hidden_layers=2, encoder_attention_heads=4, "
    "decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_layerdrop=0.0, decoder_layerdrop=0.0, "
    "vocab_size=50, pad_token_id=0, decoder_start_token_id=1, max_source_positions=12, max_target_positions=16, dropout=0.1, "
    "attention_dropout=0.0, activation_dropout=0.0, activation_function='gelu', scale_embedding=False, is_encoder_decoder=True, "
    "apply_spec_augment=False, use_cache=True, _attn_implementation='eager'"
)
_TOKENS = "(torch.arange(12).view(2, 6) % 50,)"
_MASK = "{'attention_mask': torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])}"
_HEARD, _SAID = "(torch.randn(2, 8, 24),)", "{'decoder_input_ids': torch.arange(12).view(2, 6) % 50}"
_CACHED = '''

class Cached(torch.nn.Module):
    """The first tokens, then the others one by one, with the keys and values of those before."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor):
        cache = DynamicCache()
        states = [self.model(ids[:, :3], cache=cache, use_cache=True).last_hidden_state]
        for at in range(3, ids.shape[1]):
            states.append(self.model(ids[:, at : at + 1], cache=cache, use_cache=True).last_hidden_state)
        return torch.cat(states, dim=1)

'''

# By model file: cases as (name, class, config, inputs, keyword inputs, text before, the model's expression around it).
_CASES: dict[str, list[tuple[str, str, str, str, str, bool]]] = {
    "llama": [
        ("padded", "LlamaModel", _CONFIG, _TOKENS, _MASK, False),
        ("logits", "LlamaForCausalLM", _CONFIG, _TOKENS, "{}", False),
        ("cached", "LlamaModel", _CONFIG, _TOKENS, "{}", True),
    ],
    "qwen2": [
        ("padded", "Qwen2Model", _CONFIG, _TOKENS, _MASK, False),
        ("cached", "Qwen2Model", _CONFIG, _TOKENS, "{}", True),
    ],
    "bert": [
        ("plain", "BertModel", _BERT, _TOKENS, "{}", False),
        ("padded", "BertModel", _BERT, _TOKENS, _MASK, False),
    ],
    "vit": [("image", "ViTModel", _VIT, "(torch.randn(2, 3, 8, 8),)", "{}", False)],
    "whisper": [
        ("whole", "WhisperModel", _WHISPER, _HEARD, _SAID, False),
        ("logits", "WhisperForConditionalGeneration", _WHISPER, _HEARD, _SAID, False),
        ("encoder", "WhisperEncoder", _WHISPER, _HEARD, "{}", False),
    ],
}  # fmt: skip


def build(folder: Path) -> list[Case]:
    """Write each model's package into `folder`, as `parity.packages` finds packages, and give the cases.

    Raises:
        RuntimeError: transformers is not installed.
    """
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise RuntimeError("--transformers: transformers is not installed here: pip install transformers")
    models = Path(spec.origin).parent / "models"
    stand_ins = Path(__file__).with_name("transformers_stand_ins.py").read_text(encoding="utf-8")
    found = []
    for name, cases in _CASES.items():
        package = f"transformers-{name}"
        home = folder / package / f"tf_{name}"
        home.mkdir(parents=True, exist_ok=True)
        text = (models / name / f"modeling_{name}.py").read_text(encoding="utf-8")
        text = re.sub(
            r"^from (\.\.\.[\w.]*|\.(configuration|generation)_\w+) import", "from .stand_ins import", text, flags=re.M
        )
        (home / "__init__.py").write_text("", encoding="utf-8")
        (home / "stand_ins.py").write_text(stand_ins, encoding="utf-8")
        (home / f"modeling_{name}.py").write_text(text, encoding="utf-8")
        for case, kind, config, inputs, keywords, cached in cases:
            imports = (
                f"from tf_{name}.modeling_{name} import {kind}\nfrom tf_{name}.stand_ins import Config, DynamicCache"
            )
            model = f"{kind}(Config({config}))"
            found.append(
                Case(
                    package,
                    f"tf_{name}",
                    f"{name}-{case}",
                    imports + (_CACHED if cached else ""),
                    f"Cached({model})" if cached else model,
                    inputs,
                    keywords,
                )
            )
    return found
