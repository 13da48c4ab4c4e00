# ruff: noqa: B007, UP006, UP035, UP045 - as such files are written
"""A decoder as Llama's and Qwen's: rotary positions, grouped queries, a cache, a router that counts; loss of shifted tokens."""

from dataclasses import dataclass, field
from typing import Callable, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class DecoderConfig:
    vocab_size: int = 24
    hidden_size: int = 16
    intermediate_size: int = 20
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    num_experts: int = 3
    max_position_embeddings: int = 32
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    attention_bias: bool = True
    attention_dropout: float = 0.1
    initializer_range: float = 0.2
    rope: dict = field(default_factory=lambda: {"theta": 1e4, "factor": 2.0})
    tie_word_embeddings: bool = True

    @property
    def head_dim(self):
        return self.hidden_size // self.num_attention_heads


@dataclass
class ModelOutput:
    logits: torch.Tensor = None
    loss: Optional[torch.Tensor] = None
    past_key_values: Optional["StaticCache"] = None


ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "relu2": lambda x: F.relu(x).square()}


class StaticCache:
    """Keys and values of all layers; what is new is written into its place."""

    def __init__(self, config: DecoderConfig, batch: int, dtype=torch.float32, device=None):
        shape = (batch, config.num_key_value_heads, config.max_position_embeddings, config.head_dim)
        self.key_cache = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.value_cache = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.seen = 0

    def get_seq_length(self) -> int:
        return self.seen

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int) -> Tuple[torch.Tensor, torch.Tensor]:
        end = self.seen + key.shape[-2]
        self.key_cache[layer_idx][:, :, self.seen : end] = key
        self.value_cache[layer_idx][:, :, self.seen : end] = value
        if layer_idx == len(self.key_cache) - 1:
            self.seen = end
        return self.key_cache[layer_idx][:, :, :end], self.value_cache[layer_idx][:, :, :end]


class RMSNorm(nn.Module):
    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.variance_epsilon = eps

    def forward(self, hidden_states):
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


class Rotary(nn.Module):
    def __init__(self, config: DecoderConfig, device=None):
        super().__init__()
        steps = torch.arange(0, config.head_dim, 2, dtype=torch.int64).to(device=device, dtype=torch.float)
        inv_freq = 1.0 / (config.rope["theta"] ** (steps / config.head_dim))
        self.register_buffer("inv_freq", inv_freq / config.rope.get("factor", 1.0), persistent=False)

    @torch.no_grad()
    def forward(self, x, position_ids):
        inv_freq_expanded = self.inv_freq[None, :, None].float().expand(position_ids.shape[0], -1, 1).to(x.device)
        position_ids_expanded = position_ids[:, None, :].float()
        device_type = x.device.type if isinstance(x.device.type, str) and x.device.type != "mps" else "cpu"
        with torch.autocast(device_type=device_type, enabled=False):
            freqs = (inv_freq_expanded.float() @ position_ids_expanded.float()).transpose(1, 2)
            emb = torch.cat((freqs, freqs), dim=-1)
            cos, sin = emb.cos(), emb.sin()
        return cos.to(dtype=x.dtype), sin.to(dtype=x.dtype)


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def rotated(q, k, cos, sin, unsqueeze_dim=1):
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return (q * cos) + (rotate_half(q) * sin), (k * cos) + (rotate_half(k) * sin)


def repeat_kv(hidden_states: torch.Tensor, n_rep: int) -> torch.Tensor:
    batch, heads, length, size = hidden_states.shape
    if n_rep == 1:
        return hidden_states
    hidden_states = hidden_states[:, :, None, :, :].expand(batch, heads, n_rep, length, size)
    return hidden_states.reshape(batch, heads * n_rep, length, size)


def eager_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    key, value = repeat_kv(key, module.groups), repeat_kv(value, module.groups)
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask[:, :, :, : key.shape[-2]]
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


ATTENTION = {"eager": eager_attention}


class Attention(nn.Module):
    def __init__(self, config: DecoderConfig, layer_idx: int):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        for name, heads in (
            ("q", config.num_attention_heads),
            ("k", config.num_key_value_heads),
            ("v", config.num_key_value_heads),
        ):
            setattr(
                self, f"{name}_proj", nn.Linear(config.hidden_size, heads * self.head_dim, bias=config.attention_bias)
            )
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor, position_embeddings, attention_mask, past_key_values=None, **kwargs):
        input_shape = hidden_states.shape[:-1]
        hidden_shape = (*input_shape, -1, self.head_dim)
        query_states = self.q_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        key_states = self.k_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        value_states = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)
        cos, sin = position_embeddings
        query_states, key_states = rotated(query_states, key_states, cos, sin)
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, self.layer_idx)
        interface: Callable = ATTENTION.get("eager", eager_attention)
        dropout = 0.0 if not self.training else self.config.attention_dropout
        output, weights = interface(
            self, query_states, key_states, value_states, attention_mask, self.scaling, dropout, **kwargs
        )
        return self.o_proj(output.reshape(*input_shape, -1).contiguous()), weights


class SparseMLP(nn.Module):
    """Each token goes to its best expert; how many went to which is counted while training."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.gate_proj = nn.Parameter(torch.empty(config.num_experts, config.hidden_size, config.intermediate_size))
        self.down_proj = nn.Parameter(torch.empty(config.num_experts, config.intermediate_size, config.hidden_size))
        self.act_fn = ACTIVATIONS[config.hidden_act]
        self.register_buffer("load", torch.zeros(config.num_experts))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        nn.init.normal_(self.gate_proj, std=config.initializer_range)
        self.down_proj.data.normal_(mean=0.0, std=config.initializer_range)

    def forward(self, hidden_states: torch.Tensor):
        batch, length, size = hidden_states.shape
        tokens = hidden_states.view(-1, size)
        scores = F.softmax(self.gate(tokens), dim=-1, dtype=torch.float)
        top, chosen = torch.topk(scores, 1, dim=-1)
        if self.training:
            self.steps += 1
            counts = F.one_hot(chosen.squeeze(-1), scores.size(-1)).float().mean(0)
            self.load.mul_(0.9).add_(counts.detach(), alpha=0.1)
        final = torch.zeros_like(tokens)
        for expert in range(self.gate_proj.shape[0]):
            hidden = self.act_fn(tokens @ self.gate_proj[expert]) @ self.down_proj[expert]
            final += torch.where(chosen == expert, hidden * top, torch.zeros_like(hidden))
        return final.reshape(batch, length, size)


class DecoderLayer(nn.Module):
    def __init__(self, config: DecoderConfig, layer_idx: int):
        super().__init__()
        self.self_attn = Attention(config=config, layer_idx=layer_idx)
        self.mlp = SparseMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, position_embeddings=None, **kwargs):
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        hidden_states, _ = self.self_attn(
            hidden_states=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        hidden_states = residual + hidden_states
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class Model(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.layers = nn.ModuleList([DecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = Rotary(config=config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.apply(self._init_weights)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def _init_weights(self, module):
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(mean=0.0, std=std)
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.data.normal_(mean=0.0, std=std)
            if module.padding_idx is not None:
                module.weight.data[module.padding_idx].zero_()

    def _causal_mask(self, attention_mask: Optional[torch.Tensor], inputs_embeds: torch.Tensor, past: int):
        batch, length = inputs_embeds.shape[0], inputs_embeds.shape[1]
        dtype, device = inputs_embeds.dtype, inputs_embeds.device
        min_dtype = torch.finfo(dtype).min
        target = past + length
        causal_mask = torch.full((length, target), fill_value=min_dtype, dtype=dtype, device=device)
        if length != 1:
            causal_mask = torch.triu(causal_mask, diagonal=past + 1)
        causal_mask *= torch.arange(target, device=device) > torch.arange(past, target, device=device).reshape(-1, 1)
        causal_mask = causal_mask[None, None, :, :].expand(batch, 1, -1, -1)
        if attention_mask is not None:
            causal_mask = causal_mask.clone()
            mask_length = attention_mask.shape[-1]
            padding_mask = causal_mask[:, :, :, :mask_length] + attention_mask[:, None, None, :].to(causal_mask.dtype)
            padding_mask = padding_mask == 0
            causal_mask[:, :, :, :mask_length] = causal_mask[:, :, :, :mask_length].masked_fill(padding_mask, min_dtype)
        return causal_mask

    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: Optional[torch.Tensor] = None,
        past_key_values: Optional[StaticCache] = None,
        labels: Optional[torch.LongTensor] = None,
        logits_to_keep: int = 0,
    ):
        inputs_embeds = self.embed_tokens(input_ids)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        position_ids = torch.arange(past, past + inputs_embeds.shape[1], device=inputs_embeds.device).unsqueeze(0)
        mask = self._causal_mask(attention_mask, inputs_embeds, past)
        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        for decoder_layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = decoder_layer(
                hidden_states,
                attention_mask=mask,
                past_key_values=past_key_values,
                position_embeddings=position_embeddings,
            )
        hidden_states = self.norm(hidden_states)
        slice_indices = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
        logits = self.lm_head(hidden_states[:, slice_indices, :])
        loss = None
        if labels is not None:
            shift_logits = logits[..., :-1, :].contiguous()
            shift_labels = labels[..., 1:].contiguous()
            loss = F.cross_entropy(
                shift_logits.view(-1, self.config.vocab_size), shift_labels.view(-1), ignore_index=-100
            )
        return ModelOutput(logits=logits, loss=loss)


class Generating(nn.Module):
    """The first tokens at once, then the others one by one, from the cache."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor):
        cache = StaticCache(self.model.config, input_ids.shape[0])
        outputs = [self.model(input_ids[:, :3], past_key_values=cache).logits]
        for at in range(3, input_ids.shape[1]):
            outputs.append(self.model(input_ids[:, at : at + 1], past_key_values=cache, logits_to_keep=1).logits)
        return torch.cat(outputs, dim=1)


def padded():
    ids = torch.tensor([[5, 7, 9, 2, 4, 3], [0, 0, 8, 1, 6, 5]])
    labels = torch.where(ids == 0, torch.full_like(ids, -100), ids)
    return Model(DecoderConfig()), (ids,), {"attention_mask": (ids != 0).long(), "labels": labels}


def generating():
    return Generating(Model(DecoderConfig(num_hidden_layers=1, tie_word_embeddings=False))), (
        torch.arange(10).view(2, 5),
    )
