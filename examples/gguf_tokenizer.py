"""The tokenizer and the chat template that a GGUF file carries: byte-level BPE, through the ``tokenizers`` package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# How text is cut before pairs are merged, by llama.cpp's names (``tokenizer.ggml.pre``).
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {
    "llama-bpe": rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}",
    "qwen2": rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}",
}
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")
_GPT2 = ("default", "gpt-2", "gpt2")
_CONTROL, _OWN = 3, 4  # types of tokens that text is searched for as a whole; control tokens do not show


class GGUFTokenizer:
    """Texts to ids and back, and a chat as a text, from what ``jaxnn.io.gguf_metadata`` gives.

    Raises:
        ValueError: a tokenizer of another kind than byte-level BPE.
    """

    def __init__(self, metadata: Mapping[str, Any]):
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

        kind, cut = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "default")
        if kind != "gpt2" or cut not in (*_PATTERNS, *_SINGLE_DIGITS, *_GPT2):
            raise ValueError(f"GGUFTokenizer: expected byte-level BPE (gpt2) of a known form, got {kind!r} ({cut!r})")
        tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
        merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
        vocabulary = {token: index for index, token in enumerate(tokens)}
        bpe = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=cut == "llama-bpe")
        self.tokenizer = Tokenizer(bpe)
        if cut in _PATTERNS:
            first = pre_tokenizers.Split(Regex(_PATTERNS[cut]), "isolated")
            parts = [first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        else:
            digits = [pre_tokenizers.Digits(individual_digits=True)] if cut in _SINGLE_DIGITS else []
            parts = [*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        self.tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
        self.tokenizer.decoder = decoders.ByteLevel()
        for types_of, special in ((_CONTROL, True), (_OWN, False)):
            added = [
                AddedToken(token, special=special, normalized=False) for token, t in zip(tokens, types) if t == types_of
            ]
            (self.tokenizer.add_special_tokens if special else self.tokenizer.add_tokens)(added)
        self.names = {
            name: tokens[metadata[f"tokenizer.ggml.{name}_token_id"]]
            if f"tokenizer.ggml.{name}_token_id" in metadata
            else ""
            for name in ("bos", "eos")
        }
        self.begin = [metadata["tokenizer.ggml.bos_token_id"]] if metadata.get("tokenizer.ggml.add_bos_token") else []
        self.chat_template = metadata.get("tokenizer.chat_template")

    def encode(self, text: str, begin: bool = True) -> list[int]:
        """Token ids; names of control tokens in the text become those tokens. `begin` adds the first one, if there is."""
        return self.begin * begin + self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without control tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages, each with a role and a content, as the text that the model was trained on.

        The template comes from the file, so it runs in jinja's sandbox.
        """
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if not self.chat_template:
            raise ValueError("chat: the file has no chat template; use encode")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        return environment.from_string(self.chat_template).render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=self.names["bos"],
            eos_token=self.names["eos"],
        )


def _raise(message: str) -> None:
    raise ValueError(f"chat: {message}")
