# ruff: noqa: B007, UP006, UP035, UP045 - as such files are written
"""An encoder and decoder as Whisper's: convolutions, sinusoids, shifted tokens, attention across, a frozen table, layer drop."""

import math
from typing import Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class SpeechConfig:
    model_type = "speech"
    attribute_map = {"hidden_size": "d_model"}

    def __init__(
        self,
        d_model=12,
        num_mel_bins=5,
        heads=3,
        layers=1,
        vocab_size=18,
        max_source=6,
        max_target=8,
        pad_token_id=0,
        decoder_start_token_id=1,
        layerdrop=0.0,
        dropout=0.1,
        activation_function="gelu",
        **kwargs,
    ):
        self.d_model, self.num_mel_bins, self.heads, self.layers = d_model, num_mel_bins, heads, layers
        self.vocab_size, self.max_source, self.max_target = vocab_size, max_source, max_target
        self.pad_token_id, self.decoder_start_token_id = pad_token_id, decoder_start_token_id
        self.layerdrop, self.dropout, self.activation_function = layerdrop, dropout, activation_function
        for key, value in kwargs.items():
            setattr(self, key, value)


def sinusoids(length: int, channels: int, max_timescale: float = 10000) -> torch.Tensor:
    if channels % 2 != 0:
        raise ValueError(f"channels has to be even, got {channels}")
    log_timescale_increment = math.log(max_timescale) / (channels // 2 - 1)
    inv_timescales = torch.exp(-log_timescale_increment * torch.arange(channels // 2))
    scaled_time = torch.arange(length).view(-1, 1) * inv_timescales.view(1, -1)
    return torch.cat([scaled_time.sin(), scaled_time.cos()], dim=1)


def shift_tokens_right(input_ids: torch.Tensor, pad_token_id: int, decoder_start_token_id: int):
    shifted_input_ids = input_ids.new_zeros(input_ids.shape)
    shifted_input_ids[:, 1:] = input_ids[:, :-1].clone()
    shifted_input_ids[:, 0] = decoder_start_token_id
    shifted_input_ids.masked_fill_(shifted_input_ids == -100, pad_token_id)
    return shifted_input_ids


class PositionalEmbedding(nn.Embedding):
    def __init__(self, num_positions: int, embedding_dim: int, padding_idx: Optional[int] = None):
        super().__init__(num_positions, embedding_dim)

    def forward(self, input_ids, past_key_values_length=0):
        return self.weight[past_key_values_length : past_key_values_length + input_ids.shape[1]]


class Attention(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.head_dim = embed_dim // num_heads
        if (self.head_dim * num_heads) != self.embed_dim:
            raise ValueError(f"embed_dim must be divisible by num_heads (got `embed_dim`: {self.embed_dim}).")
        self.scaling = self.head_dim**-0.5
        self.k_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def _shape(self, tensor: torch.Tensor, seq_len: int, bsz: int):
        return tensor.view(bsz, seq_len, self.num_heads, self.head_dim).transpose(1, 2).contiguous()

    def forward(
        self, hidden_states: torch.Tensor, key_value_states: Optional[torch.Tensor] = None, attention_mask=None
    ):
        bsz, tgt_len, _ = hidden_states.size()
        source = hidden_states if key_value_states is None else key_value_states
        query_states = self._shape(self.q_proj(hidden_states) * self.scaling, tgt_len, bsz)
        key_states = self._shape(self.k_proj(source), -1, bsz)
        value_states = self._shape(self.v_proj(source), -1, bsz)
        proj_shape = (bsz * self.num_heads, -1, self.head_dim)
        query_states = query_states.view(*proj_shape)
        key_states, value_states = key_states.reshape(*proj_shape), value_states.reshape(*proj_shape)
        attn_weights = torch.bmm(query_states, key_states.transpose(1, 2))
        src_len = key_states.size(1)
        if attention_mask is not None:
            attn_weights = attn_weights.view(bsz, self.num_heads, tgt_len, src_len) + attention_mask
            attn_weights = attn_weights.view(bsz * self.num_heads, tgt_len, src_len)
        attn_probs = F.dropout(F.softmax(attn_weights, dim=-1), p=self.dropout, training=self.training)
        attn_output = torch.bmm(attn_probs, value_states)
        if attn_output.size() != (bsz * self.num_heads, tgt_len, self.head_dim):
            raise ValueError(f"{attn_output.size()}")
        attn_output = attn_output.view(bsz, self.num_heads, tgt_len, self.head_dim).transpose(1, 2)
        return self.out_proj(attn_output.reshape(bsz, tgt_len, self.embed_dim))


class Block(nn.Module):
    def __init__(self, config: SpeechConfig, across: bool):
        super().__init__()
        self.self_attn = Attention(config.d_model, config.heads, config.dropout)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = Attention(config.d_model, config.heads) if across else None
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model) if across else None
        self.activation_fn = getattr(F, config.activation_function)
        self.fc1, self.fc2 = nn.Linear(config.d_model, 16), nn.Linear(16, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, hidden_states: torch.Tensor, attention_mask=None, encoder_hidden_states=None):
        residual = hidden_states
        hidden_states = residual + self.self_attn(
            self.self_attn_layer_norm(hidden_states), attention_mask=attention_mask
        )
        if self.encoder_attn is not None and encoder_hidden_states is not None:
            normed = self.encoder_attn_layer_norm(hidden_states)
            hidden_states = hidden_states + self.encoder_attn(normed, key_value_states=encoder_hidden_states)
        hidden_states = hidden_states + self.fc2(self.activation_fn(self.fc1(self.final_layer_norm(hidden_states))))
        if hidden_states.dtype == torch.float16 and not torch.isfinite(hidden_states).all():
            limit = torch.finfo(hidden_states.dtype).max - 1000
            hidden_states = torch.clamp(hidden_states, min=-limit, max=limit)
        return hidden_states


class Encoder(nn.Module):
    def __init__(self, config: SpeechConfig):
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_source, config.d_model)
        self.embed_positions.requires_grad_(False)
        with torch.no_grad():
            self.embed_positions.weight.copy_(sinusoids(*self.embed_positions.weight.shape))
        self.layers = nn.ModuleList([Block(config, across=False) for _ in range(config.layers)])
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, input_features: torch.Tensor):
        expected = self.config.max_source * self.conv1.stride[0] * self.conv2.stride[0]
        if input_features.shape[-1] != expected:
            raise ValueError(f"expected {expected} frames, found {input_features.shape[-1]}")
        inputs_embeds = F.gelu(self.conv1(input_features))
        inputs_embeds = F.gelu(self.conv2(inputs_embeds)).permute(0, 2, 1)
        all_positions = torch.arange(self.embed_positions.num_embeddings, device=inputs_embeds.device)
        hidden_states = inputs_embeds + self.embed_positions(all_positions)
        hidden_states = F.dropout(hidden_states, p=self.config.dropout, training=self.training)
        for idx, encoder_layer in enumerate(self.layers):
            to_drop = False
            if self.training and self.config.layerdrop > 0:
                dropout_probability = torch.rand([])
                if dropout_probability < self.config.layerdrop:
                    to_drop = True
            if not to_drop:
                hidden_states = encoder_layer(hidden_states)
        return self.layer_norm(hidden_states)


class SpeechModel(nn.Module):
    _tied_weights_keys = ["proj_out.weight"]

    def __init__(self, config: SpeechConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.embed_positions = PositionalEmbedding(config.max_target, config.d_model)
        self.layers = nn.ModuleList([Block(config, across=True) for _ in range(config.layers)])
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.proj_out = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.proj_out.weight = self.embed_tokens.weight
        self.register_buffer("bands", torch.from_numpy(np.linspace(0, 1, config.num_mel_bins, dtype=np.float32)))

    def _mask_input_features(self, input_features: torch.Tensor, spans=None):
        if spans is not None:
            input_features = input_features.clone()
            for start, end in spans:
                input_features[:, :, start:end] = 0
        return input_features * self.bands[None, :, None]

    def forward(self, input_features: torch.Tensor, labels: torch.Tensor, spans=None):
        input_features = self._mask_input_features(input_features, spans)
        encoded = self.encoder(input_features)
        decoder_input_ids = shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)
        length = decoder_input_ids.shape[-1]
        mask = torch.empty(length, length).fill_(float("-inf")).triu_(1)
        hidden_states = self.embed_tokens(decoder_input_ids) + self.embed_positions(decoder_input_ids)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, encoded)
        logits = self.proj_out(self.layer_norm(hidden_states))
        loss = nn.CrossEntropyLoss()(logits.view(-1, self.config.vocab_size), labels.reshape(-1))
        return loss, logits, encoded


def speech():
    labels = torch.tensor([[4, 9, 3, -100], [7, 2, 11, 5]])
    return SpeechModel(SpeechConfig()), (torch.randn(2, 5, 12), labels, [(3, 6), (8, 9)])
