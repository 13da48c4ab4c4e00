"""GPT-2; parameters are named as in ``transformers.GPT2LMHeadModel``, which stores its weights transposed (Conv1D).

Radford et al., 2019. The hub's file of weights holds the transformer alone, and its masks, which are no weights:

    model = GPT2LMHeadModel()
    model.transformer.load_state_dict(nn.load("gpt2/model.safetensors"), strict=False)
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
import jaxnn.functional as F


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """Sizes, by the names of ``transformers.GPT2Config``; the defaults are GPT-2 small."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5


class Conv1D(nn.Module):
    """A linear layer whose weight is (inputs, outputs)."""

    def __init__(self, nf: int, nx: int):
        super().__init__()
        self.weight = nn.Parameter(jnp.zeros((nx, nf)))
        self.bias = nn.Parameter(jnp.zeros((nf,)))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x):
        return F.linear(x, self.weight.T, self.bias)


class GPT2Attention(nn.Module):
    def __init__(self, config: GPT2Config):
        super().__init__()
        self.num_heads, self.attn_pdrop = config.n_head, config.attn_pdrop
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x):
        batch, time, width = x.shape
        x = self.c_attn(x).reshape(batch, time, 3, self.num_heads, -1)
        q, k, v = x[:, :, 0].swapaxes(1, 2), x[:, :, 1].swapaxes(1, 2), x[:, :, 2].swapaxes(1, 2)
        dropout = self.attn_pdrop if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        return self.resid_dropout(self.c_proj(x.swapaxes(1, 2).reshape(batch, time, width)))


class GPT2MLP(nn.Module):
    def __init__(self, config: GPT2Config):
        super().__init__()
        self.c_fc = Conv1D(4 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, 4 * config.n_embd)
        self.act = nn.GELU(approximate="tanh")
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x):
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class GPT2Block(nn.Module):
    def __init__(self, config: GPT2Config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2Model(nn.Module):
    """Token ids (batch, time) to hidden states (batch, time, n_embd)."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList([GPT2Block(config) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, (Conv1D, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, (GPT2Attention, GPT2MLP)):  # both add to the residual stream, in each layer
            nn.init.normal_(module.c_proj.weight, std=0.02 / math.sqrt(2 * len(self.h)))

    def forward(self, input_ids):
        x = self.drop(self.wte(input_ids) + self.wpe(jnp.arange(input_ids.shape[1])))
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class GPT2LMHeadModel(nn.Module):
    """GPT-2 with its language-model head, whose weight is that of the token embedding.

    Token ids (batch, time) to logits (batch, time, vocab_size): the ``.logits`` of the original's result.
    """

    def __init__(self, config: GPT2Config = GPT2Config()):  # noqa: B008 (frozen)
        super().__init__()
        self.config = config
        self.transformer = GPT2Model(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, input_ids):
        return self.lm_head(self.transformer(input_ids))

    def generate(self, input_ids, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None):
        """Continue `input_ids`, (batch, time), one token after the other.

        Call ``eval()`` first. Draws from the generator that ``nn.manual_seed`` seeds.

        Args:
            input_ids: at least one token in each row.
            max_new_tokens: how many to add. Beyond ``n_positions`` the model sees the last of them.
            temperature: logits are divided by it; 0 takes the likeliest token.
            top_k: draw among so many of the likeliest tokens only.

        Returns:
            The ids given and those added, (batch, time + max_new_tokens).
        """
        batch, start = input_ids.shape
        ids = np.zeros((batch, start + max_new_tokens), np.int32)
        ids[:, :start] = input_ids
        size = min(ids.shape[1], self.config.n_positions)  # one size for all steps, so one compilation
        if temperature == 0:
            temperature, top_k = 1.0, 1
        for end in range(start, ids.shape[1]):
            first = max(0, end - size)
            ids[:, end] = _next_token(self, ids[:, first : first + size], end - first - 1, temperature, top_k=top_k)
        return jnp.asarray(ids)


@functools.partial(nn.jit, static_argnames="top_k")
def _next_token(model, input_ids, position, temperature, top_k):
    """Draws what follows `position`; what stands behind it is hidden by causality."""
    logits = model.lm_head(model.transformer(input_ids)[:, position])
    if top_k is not None:
        logits = jnp.where(logits < jax.lax.top_k(logits, top_k)[0][:, -1:], -jnp.inf, logits)
    return jax.random.categorical(nn.next_key(), logits / temperature)
