"""A mixture of experts in place of a feed-forward part, as DeepSeek's and Mixtral's: stacked experts, the best k for each token.

    layer = MoE(dim=64, hidden_dim=128, num_experts=8, top_k=2)
    y = layer(x)                                                       # (batch, time, dim)
    nn.parallel.parallelize_module(model, mesh["ep"], {"layers.*.moe": nn.parallel.ExpertParallel()})

Shazeer et al., "Outrageously Large Neural Networks", 2017; Jiang et al., "Mixtral of Experts", 2024.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

import jaxnn as nn
import jaxnn.functional as F


class GroupedExperts(nn.Module):
    """SwiGLU experts, their weights stacked: rows that are sorted by expert go through one product for each weight."""

    def __init__(self, dim: int, hidden_dim: int, num_experts: int):
        super().__init__()
        self.w1 = nn.Parameter(jnp.zeros((num_experts, hidden_dim, dim)))
        self.w2 = nn.Parameter(jnp.zeros((num_experts, dim, hidden_dim)))
        self.w3 = nn.Parameter(jnp.zeros((num_experts, hidden_dim, dim)))
        for weight in (self.w1, self.w2, self.w3):
            nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[-1]))

    def forward(self, x, num_tokens_per_expert):
        offs = jnp.cumsum(num_tokens_per_expert, dtype=jnp.int32)
        gate = F.silu(F.grouped_mm(x, self.w1.mT, offs=offs))
        return F.grouped_mm(gate * F.grouped_mm(x, self.w3.mT, offs=offs), self.w2.mT, offs=offs)


class MoE(nn.Module):
    """Each token through its `top_k` of `num_experts` experts, weighed by the router, and through one that all share.

    Args:
        dim: width of the tokens.
        hidden_dim: width inside an expert.
        num_experts, top_k: how many there are, and how many each token gets.
        shared: whether there is one more expert that all tokens get.
    """

    def __init__(self, dim: int, hidden_dim: int, num_experts: int, top_k: int, shared: bool = False):
        super().__init__()
        self.top_k = top_k
        self.router = nn.Linear(dim, num_experts, bias=False)
        self.experts = GroupedExperts(dim, hidden_dim, num_experts)
        self.shared_experts = GroupedExperts(dim, hidden_dim, 1) if shared else None

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        scores, chosen = jax.lax.top_k(F.softmax(self.router(tokens), dim=-1), self.top_k)
        scores = scores / scores.sum(-1, keepdims=True)
        counts = jnp.bincount(chosen.ravel(), length=self.router.out_features)
        order = jnp.argsort(chosen.ravel(), stable=True)
        token = order // self.top_k
        y = self.experts(tokens[token], counts) * scores.ravel()[order][:, None]
        out = jnp.zeros_like(tokens).at[token].add(y)
        if self.shared_experts is not None:
            out = out + self.shared_experts(tokens, jnp.array([len(tokens)], jnp.int32))
        return out.reshape(x.shape)
