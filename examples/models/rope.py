"""Rotary positions and every way to stretch them that transformers has for the Llama family.

Su et al., "RoFormer", 2021; linear and dynamic scaling: u/kaiokendev, u/bloc97 and u/emozilla, 2023; Peng et al.,
"YaRN", 2023; Ding et al., "LongRoPE", 2024; Llama 3.1: Grattafiori et al., "The Llama 3 Herd of Models", 2024.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from models.llama_config import LlamaConfig


def _periods(theta: float, size: int) -> np.ndarray:
    """``theta ** (2 i / size)``, rounded where PyTorch rounds it: trained models know these very numbers."""
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return (theta ** exponents.astype(np.float64)).astype(np.float32)


def _frequencies(theta: float, size: int) -> np.ndarray:
    return np.float32(1) / _periods(theta, size)


def _linear(rope, size, longest):
    return _frequencies(rope.rope_theta, size) / np.float32(rope.factor), 1.0


def _llama3(rope, size, longest):
    """Long waves are stretched, short ones are not, and between the two it changes smoothly."""
    plain, length = _frequencies(rope.rope_theta, size), rope.original_max_position_embeddings
    low, high = rope.low_freq_factor, rope.high_freq_factor
    wavelength = np.float32(2 * math.pi) / plain
    smooth = np.clip((length / wavelength - low) / (high - low), 0, 1).astype(np.float32)
    return ((1 - smooth) * plain / np.float32(rope.factor) + smooth * plain).astype(np.float32), 1.0


def _yarn(rope, size, longest):
    """As `_llama3`, by the number of turns over the original length; and attention is sharpened."""
    length = rope.original_max_position_embeddings
    factor = rope.factor or longest / length

    def place(turns):
        return size * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(rope.rope_theta))

    def scale(weight=1.0):
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    low, high = place(rope.beta_fast or 32), place(rope.beta_slow or 1)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    high += 0.001 if low == high else 0
    stretched = np.clip((np.arange(size // 2, dtype=np.float32) - low) / (high - low), 0, 1).astype(np.float32)
    plain = _frequencies(rope.rope_theta, size)
    attention = rope.attention_factor
    if attention is None:
        both = rope.mscale and rope.mscale_all_dim
        attention = scale(rope.mscale) / scale(rope.mscale_all_dim) if both else scale()
    return plain / np.float32(factor) * stretched + plain * (1 - stretched), attention


def _longrope(rope, size, longest):
    """Each frequency has a factor of its own; of two sets, long texts take the other one."""
    length = rope.original_max_position_embeddings
    factor = rope.factor or longest / length
    attention = rope.attention_factor
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(length)) if factor > 1 else 1.0
    periods, factors = _periods(rope.rope_theta, size), np.array([rope.short_factor, rope.long_factor], np.float32)
    return np.float32(1) / (factors * periods), attention


def _proportional(rope, size, longest):
    """The first part of the frequencies; the rest of the head does not turn."""
    turned = int(rope.partial_rotary_factor * size // 2)
    plain = np.where(np.arange(size // 2) < turned, _frequencies(rope.rope_theta, size), 0).astype(np.float32)
    return plain / np.float32(rope.factor or 1.0), 1.0


def _default(rope, size, longest):
    return _frequencies(rope.rope_theta, size), 1.0


_SCALINGS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _default,  # as long as the text is no longer than those of the training
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
    "proportional": _proportional,
}


class LlamaRotaryEmbedding(nn.Module):
    """Positions (batch, time) to the cosines and sines of their angles, each (batch, 1, time, head_dim)."""

    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.rope, self.longest, self.size = config.rope_parameters, config.max_position_embeddings, config.head_dim
        frequencies, self.attention_scaling = _SCALINGS[self.rope.rope_type](self.rope, self.size, self.longest)
        self.inv_freq = nn.Buffer(jnp.asarray(frequencies), persistent=False)

    def _current(self, position_ids):
        """The frequencies, which two ways of scaling choose by the length of the text."""
        if self.rope.rope_type == "longrope":
            return self.inv_freq[(position_ids.max() >= self.rope.original_max_position_embeddings).astype(int)]
        if self.rope.rope_type != "dynamic":
            return self.inv_freq
        # torch: transformers keeps the base of the longest text so far; here the text at hand decides.
        length = jnp.maximum(position_ids.max() + 1, self.longest).astype(jnp.float32)
        grown = self.rope.factor * length / self.longest - (self.rope.factor - 1)
        base = self.rope.rope_theta * grown ** (self.size / (self.size - 2))
        longer = base ** -(jnp.arange(0, self.size, 2, dtype=jnp.float32) / self.size)
        return jnp.where(length > self.longest, longer, self.inv_freq)

    def forward(self, position_ids, dtype):
        angles = position_ids[:, None, :, None].astype(jnp.float32) * self._current(position_ids)
        angles = jnp.concatenate([angles, angles], axis=-1)
        cos, sin = jnp.cos(angles) * self.attention_scaling, jnp.sin(angles) * self.attention_scaling
        return cos.astype(dtype), sin.astype(dtype)


def rotate_half(x):
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-second, first], axis=-1)


def apply_rotary_pos_emb(q, k, cos, sin):
    """Turn the pairs (i, i + head_dim / 2) of queries and keys by the angles of their positions."""
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
