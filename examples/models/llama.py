"""Llama 2 and 3, SmolLM2, Mistral, Qwen2 and Qwen3; parameters are named as in ``transformers`` and on the hub.

    model = LlamaForCausalLM.from_pretrained("Llama-3.2-1B")           # a folder: config.json and *.safetensors
    model = LlamaForCausalLM.from_pretrained("SmolLM2.Q4_1.gguf")      # needs: pip install "jaxnn-torch[gguf]"
    logits = model(input_ids)

Touvron et al., "Llama 2", 2023; Jiang et al., "Mistral 7B", 2023; Yang et al., "Qwen2" and "Qwen3", 2024 and 2025.
"""

from __future__ import annotations

import os
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxnn as nn
import jaxnn.functional as F
from models.llama_config import LlamaConfig
from models.rope import LlamaRotaryEmbedding, apply_rotary_pos_emb

ACT2FN = {"silu": nn.SiLU, "gelu": nn.GELU, "gelu_pytorch_tanh": lambda: nn.GELU("tanh"), "relu": nn.ReLU}


class LayerCache(nn.Module):
    """Keys and values of one layer; given as (batch, kv_heads, capacity, head_dim), and held without dimensions of size 1.

    XLA's CPU compiler takes dimensions of size 1 off for its product, and that would be another array than the one that
    is given back: it would copy the whole cache, in every step, in place of writing to it where it lies.
    """

    def __init__(self, shape: tuple[int, ...], dtype):
        super().__init__()
        self.shape, held = shape, (*(size for size in shape[:2] if size != 1), *shape[2:])
        self.keys = nn.Buffer(jnp.zeros(held, dtype))
        self.values = nn.Buffer(jnp.zeros(held, dtype))

    def update(self, k, v, start):
        """Put the keys and values of new tokens in their places; gives those of all tokens."""
        self.keys, self.values = self._put(self.keys, k, start), self._put(self.values, v, start)
        return self.keys.reshape(self.shape), self.values.reshape(self.shape)

    def _put(self, held, new, start):
        new = new.reshape(*held.shape[:-2], *new.shape[-2:])
        return jax.lax.dynamic_update_slice_in_dim(held, new, start, axis=held.ndim - 2)


class StaticCache(nn.Module):
    """Keys and values of the tokens seen so far, in arrays of one size: a compiled step serves texts of every length.

    A step writes the keys of its tokens behind those that are there. `positions` has each place's position in its text,
    -1 where there is none: padding takes places, and is never looked at.

    Args:
        config: of the model.
        batch: number of texts.
        capacity: how many tokens of each, padding included.
        dtype: of the keys and values.
    """

    def __init__(self, config: LlamaConfig, batch: int, capacity: int, dtype=jnp.float32):
        super().__init__()
        shape = (batch, config.num_key_value_heads, capacity, config.head_dim)
        self.layers = nn.ModuleList([LayerCache(shape, dtype) for _ in range(config.num_hidden_layers)])
        self.positions = nn.Buffer(jnp.full((batch, capacity), -1, jnp.int32))
        self.length = nn.Buffer(jnp.zeros((), jnp.int32))

    @property
    def capacity(self) -> int:
        return self.positions.shape[1]

    def place(self, attention_mask):
        """Positions of new tokens, (batch, time): each text goes on where it ended, and padding has none."""
        start = self.positions.max(1, keepdims=True)
        positions = jnp.where(attention_mask, start + jnp.cumsum(attention_mask, axis=1, dtype=jnp.int32), -1)
        self.positions = jax.lax.dynamic_update_slice_in_dim(self.positions, positions, self.length, axis=1)
        return positions

    def attend(self, q, k, v, mask):
        """Attention of a piece of a text over the first quarter of the places, or half, where no other is in use yet."""

        def over(places):
            return lambda q, k, v, mask: F.scaled_dot_product_attention(
                q, k[:, :, :places], v[:, :, :places], mask[..., :places], enable_gqa=True
            )

        sizes = [max(self.capacity // 4, 1), max(self.capacity // 2, 1), self.capacity]
        used = self.length + q.shape[2]
        return jax.lax.switch(
            sum((used > size).astype(int) for size in sizes[:-1]), list(map(over, sizes)), q, k, v, mask
        )

    def advance(self, attention_mask) -> None:
        """The new tokens are in; padding behind the last token of all texts is overwritten by what comes next."""
        used = jnp.where(attention_mask.any(0), jnp.arange(1, attention_mask.shape[1] + 1), 0)
        self.length = self.length + used.max().astype(jnp.int32)


class LlamaMLP(nn.Module):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]()

    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class LlamaAttention(nn.Module):
    def __init__(self, config: LlamaConfig, layer_idx: int):
        super().__init__()
        self.layer_idx, self.head_dim, self.attention_dropout = layer_idx, config.head_dim, config.attention_dropout
        heads, kv_heads = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, heads, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads, bias=config.qkv_bias)
        self.o_proj = nn.Linear(heads, config.hidden_size, bias=config.o_bias)
        if config.qk_norm:
            self.q_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)
            self.k_norm = nn.RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        else:
            self.q_norm = self.k_norm = nn.Identity()

    def forward(self, x, position_embeddings, attention_mask, cache=None):
        batch, time, _ = x.shape
        q = self.q_norm(self.q_proj(x).reshape(batch, time, -1, self.head_dim)).swapaxes(1, 2)
        k = self.k_norm(self.k_proj(x).reshape(batch, time, -1, self.head_dim)).swapaxes(1, 2)
        v = self.v_proj(x).reshape(batch, time, -1, self.head_dim).swapaxes(1, 2)
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if cache is not None:
            k, v = cache.layers[self.layer_idx].update(k, v, cache.length)
        dropout = self.attention_dropout if self.training else 0.0
        causal = attention_mask is None
        if cache is not None and time > 1 and not dropout:
            y = cache.attend(q, k, v, attention_mask)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attention_mask, dropout, causal, enable_gqa=True)
        return self.o_proj(y.swapaxes(1, 2).reshape(batch, time, -1))


class LlamaDecoderLayer(nn.Module):
    def __init__(self, config: LlamaConfig, layer_idx: int):
        super().__init__()
        self.self_attn = LlamaAttention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x, position_embeddings, attention_mask, cache=None):
        x = x + self.self_attn(self.input_layernorm(x), position_embeddings, attention_mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


def visible(queries, keys, window: int | None, segment_ids=None):
    """Which keys each query sees, (batch, 1, time, keys): of its text those at its position and before, and `window`."""
    queries, keys = queries[:, None, :, None], keys[:, None, None, :]
    seen = (keys >= 0) & (keys <= queries)
    if segment_ids is not None:
        seen &= segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return seen if window is None else seen & (queries - keys < window)


def positions_in(segment_ids):
    """Positions (batch, time) in texts that lie one behind the other, each with a number of its own; -1 for number 0."""
    places = jnp.arange(segment_ids.shape[1])
    begins = jnp.diff(segment_ids, axis=1, prepend=-1) != 0
    return jnp.where(segment_ids != 0, places - jax.lax.cummax(jnp.where(begins, places, 0), axis=1), -1)


class LlamaModel(nn.Module):
    """Token ids (batch, time) to hidden states (batch, time, hidden_size)."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([LlamaDecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)

    def masks(self, positions, attention_mask, cache, segment_ids):
        """Of each window that layers have: None where a plain causal mask does."""
        windows = {self.config.window(index) for index in range(len(self.layers))}
        if cache is not None:
            keys = cache.positions
        elif attention_mask is segment_ids is None and positions.shape[1] <= min(
            (w for w in windows if w), default=1 << 30
        ):
            return dict.fromkeys(windows)
        else:
            keys = positions
        return {window: visible(positions, keys, window, segment_ids) for window in windows}

    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, segment_ids=None):
        real = jnp.ones(input_ids.shape, bool) if attention_mask is None else attention_mask != 0
        if cache is not None:
            positions = cache.place(real)
        elif position_ids is not None:
            positions = jnp.broadcast_to(position_ids, input_ids.shape)
        elif segment_ids is not None:
            positions = positions_in(segment_ids)
        else:
            positions = jnp.where(real, jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1, -1)
        masks = self.masks(positions, attention_mask, cache, segment_ids)
        x = self.embed_tokens(input_ids)
        position_embeddings = self.rotary_emb(positions, x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, position_embeddings, masks[self.config.window(index)], cache)
        if cache is not None:
            cache.advance(real)
        return self.norm(x)


class LlamaForCausalLM(nn.Module):
    """A language model: token ids (batch, time) to logits (batch, time, vocab_size).

    `attention_mask` (batch, time) is 0 where a text is padded, before it or behind it. With a `cache`, the tokens
    follow those that it has seen. `segment_ids` (batch, time) number texts that lie one behind the other in a row, 0 is
    padding: none sees another, and each has positions of its own. `logits_to_keep` asks
    for the logits of the last so many tokens alone.
    """

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, cache=None, segment_ids=None, logits_to_keep: int = 0
    ):
        x = self.model(input_ids, attention_mask, position_ids, cache, segment_ids)
        return self.lm_head(x[:, -logits_to_keep:])

    @classmethod
    def from_config(cls, path: str | os.PathLike[str]) -> LlamaForCausalLM:
        """Random weights for a ``config.json``."""
        return cls(LlamaConfig.from_json(path))

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], dtype=None) -> LlamaForCausalLM:
        """With weights of a folder as the hub has it, or of a GGUF file, in evaluation mode.

        Args:
            path: a folder with config.json and either model.safetensors or its parts and their index; or a GGUF file.
            dtype: of the weights; None takes what the file has, float32 where it is quantized.

        Raises:
            FileNotFoundError: no such file.
            ValueError: an architecture that this file does not have.
        """
        path = Path(path)
        if path.is_dir():
            index = path / "model.safetensors.index.json"
            weights = nn.load(index if index.exists() else path / "model.safetensors")
            config = LlamaConfig.from_json(path / "config.json")
        else:
            from jaxnn.io import gguf_metadata

            weights = nn.load(path, dtype=dtype)
            config = LlamaConfig.from_gguf(gguf_metadata(path), weights)
            weights.pop("rope_freqs.weight", None)
        model = jax.eval_shape(lambda: cls(config))  # of shapes alone: the weights come from the file
        model.model.rotary_emb = LlamaRotaryEmbedding(config)
        if config.tie_word_embeddings:  # files hold one of the two names
            weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        model.load_state_dict(weights, assign=True)
        return (model if dtype is None else model.to(dtype)).eval()
