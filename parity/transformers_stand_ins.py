"""What transformers' model files import from the rest of transformers, in a hundred lines of PyTorch.

`parity.transformers_models` puts a copy of this file beside each model file, and both are ported.
"""

import torch
from torch import nn


class Output:
    """A model's outputs: attributes, and by place those that are not None."""

    hidden_states = attentions = cross_attentions = past_key_values = cache = loss = None

    def __init__(self, *recorded, **values):
        self.__dict__.update(values)

    def __getitem__(self, at):
        return [value for value in self.__dict__.values() if value is not None][at]


class Config:
    def __init__(self, **values):
        self.__dict__.update(values)

    def get_text_config(self, **kwargs):
        return self


ACT2FN = {"silu": nn.SiLU(), "gelu": nn.GELU(), "tanh": nn.Tanh()}


class PreTrainedModel(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config

    def post_init(self):
        pass


class GradientCheckpointingLayer(nn.Module):
    pass


class GenerationMixin:
    pass


WhisperGenerationMixin = GenerationMixin


class Attentions:
    def get_interface(self, name, default):
        return default


ALL_ATTENTION_FUNCTIONS = Attentions()
ROPE_INIT_FUNCTIONS = {}


class Cache:
    """Keys and values by layer, with room for `limit` places that are written in place."""

    limit = 16

    def __init__(self, config=None):
        self.keys, self.values, self.length = {}, {}, 0
        self.is_updated = {}

    def get_seq_length(self, layer=0):
        return self.length

    def update(self, key: torch.Tensor, value: torch.Tensor, layer, *args, **kwargs):
        batch, heads, new, size = key.shape
        if layer not in self.keys:
            self.keys[layer] = torch.zeros(batch, heads, self.limit, size, dtype=key.dtype, device=key.device)
            self.values[layer] = torch.zeros(batch, heads, self.limit, size, dtype=value.dtype, device=value.device)
        start = self.length if layer == 0 else self.length - new
        keys, values = self.keys[layer].clone(), self.values[layer].clone()
        keys[:, :, start : start + new] = key
        values[:, :, start : start + new] = value
        self.keys[layer], self.values[layer] = keys, values
        if layer == 0:
            self.length = start + new
        return keys[:, :, : self.length], values[:, :, : self.length]


class DynamicCache(Cache):
    pass


class EncoderDecoderCache(Cache):
    def __init__(self, own, across):
        super().__init__()
        self.self_attention_cache, self.cross_attention_cache = own, across

    def get_seq_length(self, layer=0):
        return self.self_attention_cache.get_seq_length(layer)


def create_causal_mask(
    config, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None, cache=None, **kwargs
):
    """What is later is hidden, and what is padded: written into a copy, place by place, as transformers did for years."""
    batch, new = inputs_embeds.shape[:2]
    past = cache.get_seq_length() if cache is not None else 0
    low = torch.finfo(inputs_embeds.dtype).min
    mask = torch.full((new, past + new), fill_value=low, dtype=inputs_embeds.dtype, device=inputs_embeds.device)
    if new != 1:
        mask = torch.triu(mask, diagonal=past + 1)
    mask *= torch.arange(past + new, device=inputs_embeds.device) > past + torch.arange(new).reshape(-1, 1)
    mask = mask[None, None, :, :].expand(batch, 1, -1, -1)
    if attention_mask is not None:
        mask = mask.clone()
        length = attention_mask.shape[-1]
        padding = mask[:, :, :, :length] + attention_mask[:, None, None, :].to(mask.dtype)
        padding = padding == 0
        mask[:, :, :, :length] = mask[:, :, :, :length].masked_fill(padding, low)
    return mask


def create_bidirectional_mask(
    config, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
):
    if attention_mask is None:
        return None
    inverted = 1.0 - attention_mask[:, None, None, :].to(inputs_embeds.dtype)
    return inverted.masked_fill(inverted.to(torch.bool), torch.finfo(inputs_embeds.dtype).min)


def apply_chunking_to_forward(fn, chunk, dim, *xs):
    return fn(*xs)


def slice_logits_to_keep(states: torch.Tensor, kept):
    return states[:, -kept:] if kept else states


def torch_int(x):
    return int(x)


class logging:
    @staticmethod
    def get_logger(name):
        return None


def plain(*args, **kwargs):
    """A decorator without a meaning here, with or without arguments."""
    if len(args) == 1 and callable(args[0]) and not kwargs:
        return args[0]
    return lambda function: function


class Unpack:
    def __class_getitem__(cls, x):
        return cls


class initialization:
    pass


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    if name.startswith("use_kernel"):
        return lambda *args, **kwargs: lambda function: function
    return Output if name[0].isupper() else plain
