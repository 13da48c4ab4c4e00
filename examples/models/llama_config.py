"""Sizes of the Llama family: read from the hub's ``config.json``, or from the metadata of a GGUF file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


@dataclasses.dataclass(frozen=True)
class RopeParameters:
    """How positions become angles, by the names of ``rope_parameters`` in a ``config.json``; `models.rope` has the maths."""

    rope_type: str = "default"
    rope_theta: float = 10000.0
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    partial_rotary_factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """By the names of ``transformers.LlamaConfig``; the defaults are Llama 2 7B.

    `qkv_bias`, `o_bias`, `qk_norm` and `layer_windows` stand for what differs between the classes of transformers.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 32
    head_dim: int = 128
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters = RopeParameters()
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    layer_windows: tuple[int | None, ...] = ()  # of each layer: how many tokens it sees, None for all
    bos_token_id: int | None = None
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None

    def window(self, layer: int) -> int | None:
        return self.layer_windows[layer] if self.layer_windows else None

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> LlamaConfig:
        """Of what a ``config.json`` holds, written by transformers 4 or 5.

        Raises:
            ValueError: another architecture, or a way to scale positions that is not known.
        """
        kind = config.get("model_type", "llama")
        if kind not in MODEL_TYPES:
            raise ValueError(f"from_config: model_type: expected one of {', '.join(MODEL_TYPES)}, got {kind!r}")
        fields = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in config.items() if name in fields and value is not None}
        heads = values.setdefault("num_attention_heads", 32)
        layers = values.setdefault("num_hidden_layers", 32)
        values.setdefault("num_key_value_heads", {"mistral": 8, "qwen2": 32, "qwen3": 32}.get(kind, heads))
        values.setdefault("head_dim", 128 if kind == "qwen3" else values.get("hidden_size", 4096) // heads)
        values.setdefault("max_position_embeddings", {"llama": 2048, "mistral": 131072}.get(kind, 32768))
        begin, end = (1, 2) if kind in ("llama", "mistral") else (None, None)
        values["bos_token_id"], eos = config.get("bos_token_id", begin), config.get("eos_token_id", end)
        values["eos_token_id"] = (eos,) if isinstance(eos, int) else tuple(eos or ())
        bias = bool(config.get("attention_bias", False)) and kind in ("llama", "qwen3")
        values |= {"qkv_bias": bias or kind == "qwen2", "o_bias": bias, "qk_norm": kind == "qwen3"}
        values["mlp_bias"] = bool(config.get("mlp_bias", False)) and kind == "llama"
        values["layer_windows"] = _windows(kind, config, layers)
        values["rope_parameters"] = _rope(config, values["max_position_embeddings"])
        return cls(**values)

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> LlamaConfig:
        """Of a ``config.json``."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], names: Mapping[str, Any] = {}) -> LlamaConfig:  # noqa: B006 (only read)
        """Of what ``jaxnn.io.gguf_metadata`` gives, and the arrays of the file by name.

        Llama 3 stores what its positions are divided by as an array, ``rope_freqs.weight``.

        Raises:
            ValueError: another architecture, or a way to scale positions that is not known.
        """
        kind = metadata["general.architecture"]
        about = {key.removeprefix(f"{kind}."): value for key, value in metadata.items()}
        heads, width = about["attention.head_count"], about["embedding_length"]
        scaling = about.get("rope.scaling.type", "none")
        rope = {"rope_theta": about.get("rope.freq_base", 10000.0), "rope_type": scaling.replace("none", "default")}
        if scaling != "none":
            rope["factor"] = about["rope.scaling.factor"]
            rope["original_max_position_embeddings"] = about.get("rope.scaling.original_context_length")
        if "rope_freqs.weight" in names:
            factors = [float(factor) for factor in names["rope_freqs.weight"]]
            rope |= {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0}
        return cls.from_dict(
            {
                "model_type": kind,
                "vocab_size": about.get("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ()))),
                "hidden_size": width,
                "intermediate_size": about["feed_forward_length"],
                "num_hidden_layers": about["block_count"],
                "num_attention_heads": heads,
                "num_key_value_heads": about.get("attention.head_count_kv", heads),
                "head_dim": about.get("attention.key_length", width // heads),
                "max_position_embeddings": about["context_length"],
                "rms_norm_eps": about["attention.layer_norm_rms_epsilon"],
                "sliding_window": about.get("attention.sliding_window"),
                "tie_word_embeddings": bool(names) and "lm_head.weight" not in names,
                "rope_parameters": rope,
                "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
                "eos_token_id": metadata.get("tokenizer.ggml.eos_token_id"),
                "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
            }
        )


def _windows(kind: str, config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """How far each layer sees: Mistral's all alike, Qwen's from some layer on, Llama's without an end."""
    if kind == "llama":
        return ()
    window = config.get("sliding_window", 4096)
    if kind == "mistral":
        return (window,) * layers if window else ()
    if not config.get("use_sliding_window", False) or not window:
        return ()
    first = config.get("max_window_layers", 28)
    types = config.get("layer_types") or ["sliding_attention" if i >= first else "" for i in range(layers)]
    return tuple(window if name == "sliding_attention" else None for name in types)


def _rope(config: Mapping[str, Any], longest: int) -> RopeParameters:
    """Of ``rope_parameters`` (transformers 5), or of ``rope_theta`` and ``rope_scaling`` beside it."""
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    given.setdefault("rope_type", given.pop("type", "default"))
    given.setdefault("rope_theta", config.get("rope_theta") or 10000.0)
    if given["rope_type"] not in ROPE_TYPES:
        raise ValueError(
            f"from_config: rope_parameters: expected a rope_type of {', '.join(ROPE_TYPES)}, got {given['rope_type']!r}"
        )
    if given["rope_type"] in ("llama3", "yarn", "longrope"):
        outside = config.get("original_max_position_embeddings")
        if outside or not given.get("original_max_position_embeddings"):
            given["original_max_position_embeddings"] = outside or longest
    for name in ("short_factor", "long_factor"):
        given[name] = tuple(given.get(name) or ())
    fields = {field.name for field in dataclasses.fields(RopeParameters)}
    return RopeParameters(**{name: value for name, value in given.items() if name in fields and value is not None})
