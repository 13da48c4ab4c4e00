"""Text from a language model, token by token: one compiled step, whatever the length; greedy or drawn; in batches.

session = Session(model, batch=1, capacity=1024, sampling=Sampling(temperature=0.7, top_p=0.9))
for tokens in session.stream(ids, max_new_tokens=200):
    ...
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from models.llama import StaticCache

import jaxnn as nn

# A prompt is read in pieces of these sizes, the last one padded: as many programs are compiled, whatever its length.
CHUNKS = (256, 32)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, by the names of ``transformers.GenerationConfig`` and in its order.

    Args:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: draw among so many of the likeliest tokens; 0 for all.
        top_p: draw among the likeliest tokens that together have this probability.
        min_p: leave out tokens less likely than this fraction of the likeliest one's probability.
        repetition_penalty: tokens of the text so far have positive logits divided by it, negative ones multiplied.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self):
        ranges = {
            "temperature": (self.temperature >= 0, "at least 0"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "in (0, 1]"),
            "min_p": (0 <= self.min_p <= 1, "in [0, 1]"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
        }
        for name, (holds, expected) in ranges.items():
            if not holds:
                raise ValueError(f"Sampling: {name}: expected a number {expected}, got {getattr(self, name)}")

    def steps(self) -> tuple[str, ...]:
        """What has an effect: this much is part of the compiled program, the numbers are not."""
        drawn = self.temperature > 0
        effects = {
            "repetition_penalty": self.repetition_penalty != 1,
            "temperature": drawn,
            "top_k": drawn and self.top_k > 0,
            "top_p": drawn and self.top_p < 1,
            "min_p": drawn and self.min_p > 0,
        }
        return tuple(name for name, has in effects.items() if has)


def adjusted(logits, seen, numbers: dict, steps: tuple[str, ...]):
    """Logits (batch, vocabulary) with what may not be drawn at -inf. `seen` marks the tokens of the text so far."""
    if "repetition_penalty" in steps:
        penalty = numbers["repetition_penalty"]
        logits = jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)
    if "temperature" in steps:
        logits = logits / numbers["temperature"]
    if "top_k" in steps or "top_p" in steps:
        ordered = -jnp.sort(-logits, axis=-1)
        if "top_k" in steps:
            last = jnp.minimum(numbers["top_k"], logits.shape[-1]) - 1
            ordered = jnp.where(ordered < jnp.take(ordered, last, axis=-1)[:, None], -jnp.inf, ordered)
        if "top_p" in steps:
            likelihood = jax.nn.softmax(ordered, axis=-1)
            before = jnp.cumsum(likelihood, axis=-1) - likelihood
            ordered = jnp.where(before < numbers["top_p"], ordered, -jnp.inf)
        least = jnp.where(jnp.isneginf(ordered), jnp.inf, ordered).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if "min_p" in steps:
        logits = jnp.where(logits < logits.max(-1, keepdims=True) + jnp.log(numbers["min_p"]), -jnp.inf, logits)
    return logits


@functools.partial(nn.jit, static_argnames=("steps",), donate_argnums=(1, 4))
def advance(model, cache, ids, mask, seen, numbers, steps):
    """Read `ids` (batch, time) into the cache, and choose what follows the last column that is not padding.

    The same function reads a piece of a prompt and takes one step; the cache is updated in its own memory.

    Returns:
        The chosen tokens (batch, 1), and `seen` with the tokens of `ids`; None stays None.
    """
    last = jnp.where(mask.any(0), jnp.arange(mask.shape[1]), 0).max()
    x = model.model(ids, mask, cache=cache)
    logits = model.lm_head(jax.lax.dynamic_index_in_dim(x, last, axis=1, keepdims=False)).astype(jnp.float32)
    if seen is not None:
        rows = jnp.arange(len(ids))[:, None]
        seen = seen.at[rows, jnp.where(mask, ids, seen.shape[1])].set(True, mode="drop")
    logits = adjusted(logits, seen, numbers, steps)
    token = jax.random.categorical(nn.next_key(), logits) if "temperature" in steps else logits.argmax(-1)
    return token[:, None].astype(jnp.int32), seen


def padded(texts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Texts of different lengths as ids and mask (batch, time), padded on the left."""
    longest = max(map(len, texts))
    ids, mask = np.zeros((2, len(texts), longest), np.int32)
    for row, text in enumerate(texts):
        ids[row, longest - len(text) :], mask[row, longest - len(text) :] = text, 1
    return ids, mask.astype(bool)


class Session:
    """A batch of texts that grow: what the model has read stays in the cache, so that a chat goes on where it ended.

    Args:
        model: in evaluation mode.
        batch: number of texts.
        capacity: how many tokens of each there is room for, padding included.
        sampling: how tokens are chosen; may be exchanged between calls.
    """

    def __init__(self, model, batch: int = 1, capacity: int = 1024, sampling: Sampling = Sampling()):  # noqa: B008
        self.model, self.sampling, self.capacity = model, sampling, capacity
        dtype = model.model.embed_tokens.weight.dtype
        self.cache = StaticCache(model.config, batch, -(-capacity // CHUNKS[-1]) * CHUNKS[-1] + CHUNKS[-1], dtype)
        self.seen = jnp.zeros((batch, model.config.vocab_size), bool)
        self.used = 0  # columns of the cache
        self._pending: list[jax.Array] = []  # chosen and not read yet

    def _advance(self, ids, mask):
        numbers = {name: np.float32(value) for name, value in dataclasses.asdict(self.sampling).items()}
        numbers["top_k"] = np.int32(self.sampling.top_k)
        steps = self.sampling.steps()
        token, self.seen = advance(self.model, self.cache, ids, mask, self.seen, numbers, steps=steps)
        return token

    def read(self, ids: np.ndarray, mask: np.ndarray | None = None) -> jax.Array:
        """Read `ids` (batch, time) behind the text so far; gives the tokens chosen to follow, (batch, 1).

        Raises:
            ValueError: no room for them, or no token at all.
        """
        ids = np.asarray(ids, np.int32)
        mask = np.ones(ids.shape, bool) if mask is None else np.asarray(mask, bool)
        if self._pending:
            before = np.concatenate(self._pending, axis=1)
            ids, mask = np.hstack([before, ids]), np.hstack([np.ones(before.shape, bool), mask])
            self._pending = []
        time = ids.shape[1]
        if not time or self.used + time > self.capacity:
            raise ValueError(
                f"read: ids: expected 1 to {self.capacity - self.used} tokens, as there is room, got {time}"
            )
        at, token = 0, None
        while at < time:
            size = next((size for size in CHUNKS if size <= time - at), CHUNKS[-1])
            fill = ((0, 0), (0, max(0, at + size - time)))
            piece, real = np.pad(ids[:, at : at + size], fill), np.pad(mask[:, at : at + size], fill)
            token = self._advance(piece, real)
            at += size
        self.used += time
        return token

    def stream(
        self, ids: np.ndarray, mask: np.ndarray | None = None, max_new_tokens: int = 256, eos: Iterable[int] = ()
    ) -> Iterator[np.ndarray]:
        """Read `ids`, then give the tokens (batch,) that follow, one step after the other.

        It ends where every text has had a token of `eos`, which is still given, or where there is no more room. The
        next step runs while the tokens of this one are looked at.
        """
        token, eos = self.read(ids, mask), list(eos)
        done = np.zeros(len(token), bool)
        one = np.ones(token.shape, bool)
        for left in range(max_new_tokens - 1, -1, -1):
            following = None
            if left and self.used < self.capacity:
                following = self._advance(token, one)
                self.used += 1
            self._pending = [] if following is not None else [np.asarray(token)]
            given = np.asarray(token)[:, 0]
            yield given
            done |= np.isin(given, eos)
            if done.all() or following is None:
                return
            token = following


def generate(model, texts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling = Sampling(), eos=None):  # noqa: B008
    """What follows each of `texts` (lists of token ids), up to and with the first token of `eos`; a list for each.

    Args:
        model: in evaluation mode.
        texts: prompts of any lengths, each of at least one token.
        max_new_tokens: how many at most.
        sampling: how tokens are chosen; drawn ones come from the generator that ``nn.manual_seed`` seeds.
        eos: ids that end a text; by default those of the model's configuration.
    """
    eos = model.config.eos_token_id if eos is None else tuple(eos)
    ids, mask = padded(texts)
    session = Session(model, len(texts), ids.shape[1] + max_new_tokens, sampling)
    columns = list(session.stream(ids, mask, max_new_tokens, eos))
    results = []
    for row in np.stack(columns, axis=1).tolist():
        ends = [at for at, token in enumerate(row) if token in eos]
        results.append(row[: ends[0] + 1] if ends else row)
    return results


def pieces(tokens: Iterable[int], decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> Iterator[str]:
    """The text of `tokens` as it grows, in pieces that can be printed; it ends before the first of the `stop` texts.

    Held back are bytes that are no whole character yet, and what may be the beginning of a stop text.
    """
    ids: list[int] = []
    given = 0
    for token in tokens:
        ids.append(token)
        text = decode(ids)
        found = [at for at in (text.find(word, max(0, given - len(word))) for word in stop if word) if at >= 0]
        if found:
            yield text[given : min(found)]
            return
        whole = text.rstrip("\ufffd")
        sure = len(whole) - max(
            (size for word in stop for size in range(len(word)) if whole.endswith(word[:size])), default=0
        )
        if sure > given:
            yield text[given:sure]
            given = sure
    yield decode(ids)[given:]
