"""examples/generation.py: transformers' greedy tokens and filters, one compiled step, chats that go on."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import generation  # noqa: E402
from generation import Sampling, Session, adjusted, generate, pieces  # noqa: E402

from tests.examples.record_llama import GENERATING, PROMPTS, TOKENS  # noqa: E402
from tests.examples.test_llama import RECORDING, recorded  # noqa: E402


@pytest.fixture(scope="module")
def model():
    return recorded("qwen3")


@pytest.fixture
def traces(monkeypatch):
    """Grows by one whenever a step is traced anew."""
    seen = []
    monkeypatch.setattr(generation, "adjusted", lambda *args: seen.append(args[-1]) or adjusted(*args))
    return seen


def test_greedy_tokens_are_transformers(model, traces):
    """A batch of prompts of very different lengths, and one by itself with a penalty."""
    assert generate(model, PROMPTS, TOKENS, eos=()) == RECORDING["qwen3/greedy"].tolist()
    found = generate(model, PROMPTS[1:2], TOKENS, Sampling(repetition_penalty=1.3), eos=())
    assert found == RECORDING["greedy, penalised"].tolist() and len(set(found[0])) > 5
    assert len(traces) == 4  # a piece of a prompt and a step, of each batch


@pytest.mark.parametrize("name", GENERATING[1:])
def test_greedy_tokens_of_the_other_families(name):
    assert generate(recorded(name), PROMPTS, TOKENS, eos=()) == RECORDING[f"{name}/greedy"].tolist()


def test_length_and_numbers_compile_nothing(model, traces):
    session = Session(model, capacity=200, sampling=Sampling(temperature=1.0, top_k=5, top_p=0.9, min_p=0.01))
    for length, temperature in ((3, 0.5), (40, 2.0), (9, 0.1), (31, 1.1)):
        session.sampling = Sampling(temperature=temperature, top_k=length, top_p=0.5 + temperature / 9, min_p=0.02)
        assert len(list(session.stream(np.full((1, length), 4), max_new_tokens=5))) == 5
    assert len(traces) == 2
    assert session.used == int(session.cache.length) == 83 + 19


@pytest.mark.parametrize("batch", [1, 3])
def test_a_step_writes_to_the_cache_where_it_lies(model, batch):
    """No copy of a layer's keys or values among what the compiled step stores."""
    session = Session(model, batch, capacity=4096)
    ids = np.ones((batch, 1), np.int32)
    step = generation.advance.lower(model, session.cache, ids, ids > 0, session.seen, {}, steps=()).compile()
    assert step.memory_analysis().temp_size_in_bytes < session.cache.layers[0].keys.nbytes


def test_a_chat_goes_on_where_it_ended(model):
    session = Session(model, capacity=128)
    first = [int(tokens[0]) for tokens in session.stream(np.array([PROMPTS[0]]), max_new_tokens=6)]
    second = [int(tokens[0]) for tokens in session.stream(np.array([[9, 9, 4]]), max_new_tokens=6)]
    assert second == generate(model, [PROMPTS[0] + first + [9, 9, 4]], 6)[0]
    for tokens in session.stream(np.array([[1, 2]]), max_new_tokens=50, eos=[int(t) for t in range(50)]):
        third = int(tokens[0])  # any token ends it, and is part of the text
    text = PROMPTS[0] + first + [9, 9, 4] + second + [1, 2]
    assert third == generate(model, [text], 1)[0][0]
    fourth = [int(tokens[0]) for tokens in session.stream(np.array([[6]]), max_new_tokens=4)]
    assert fourth == generate(model, [[*text, third, 6]], 4)[0]


def test_each_text_ends_at_its_own_token(model):
    free = generate(model, PROMPTS, 12)
    eos = [free[0][4], free[1][7]]
    ended = generate(model, PROMPTS, 12, eos=eos)
    for long, short in zip(free, ended):
        ends = [at for at, token in enumerate(long) if token in eos]
        assert short == (long[: ends[0] + 1] if ends else long)
    assert len(ended[0]) <= 5


def test_draws_repeat_with_the_seed(model):
    sampling = Sampling(temperature=1.5)
    runs = []
    for seed in (1, 1, 2):
        nn.manual_seed(seed)
        runs.append(generate(model, PROMPTS[:1], 10, sampling))
    assert runs[0] == runs[1] != runs[2]


FILTERS = [
    {"top_k": 7},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"temperature": 0.3, "top_k": 9, "top_p": 0.8},
    {"temperature": 2.5, "top_k": 20, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.7},
    {"top_k": 400},
]


@pytest.mark.parametrize("options", FILTERS)
def test_filters_are_transformers(options):
    transformers = pytest.importorskip("transformers", reason="the original: pip install --no-deps transformers")
    import torch

    logits = 3 * np.random.RandomState(0).randn(4, 60).astype(np.float32)
    text = np.random.RandomState(1).randint(0, 60, (4, 10))
    sampling = Sampling(**{"temperature": 1.0} | options)
    process = transformers.LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        process.append(transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    process.append(transformers.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        process.append(transformers.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        process.append(transformers.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        process.append(transformers.MinPLogitsWarper(sampling.min_p))
    theirs = process(torch.from_numpy(text), torch.from_numpy(logits)).numpy()
    seen = np.zeros(logits.shape, bool)
    seen[np.arange(4)[:, None], text] = True
    numbers = {name: jnp.asarray(getattr(sampling, name)) for name in sampling.steps()}
    ours = np.asarray(adjusted(jnp.asarray(logits), seen, numbers, sampling.steps()))
    np.testing.assert_array_equal(np.isneginf(ours), np.isneginf(theirs))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_what_makes_no_sense_is_refused(model):
    for name, value in (("temperature", -1), ("top_k", -1), ("top_p", 0), ("min_p", 2), ("repetition_penalty", 0)):
        with pytest.raises(ValueError, match=f"Sampling: {name}: expected a number"):
            Sampling(**{name: value})
    session = Session(model, capacity=10)
    for ids in (np.zeros((1, 0)), np.zeros((1, 11))):
        with pytest.raises(ValueError, match="expected 1 to 10 tokens"):
            session.read(ids)
    assert len(list(session.stream(np.ones((1, 8), int), max_new_tokens=50))) == 3  # until there is no more room


def _bytes(ids):
    return bytes(ids).decode("utf-8", "replace")


@pytest.mark.parametrize("stop", [(), ("zz",), ("größer", "z")])
def test_pieces_are_whole_characters(stop):
    text = "naïve größe, größer 🙂 zz"
    out = list(pieces(text.encode(), _bytes, stop))
    ends = [text.find(word) for word in stop if word in text]
    assert "".join(out) == text[: min(ends, default=None)]
    assert len(out) > 5 and not any("\ufffd" in piece for piece in out)


def test_pieces_stop_within_a_token():
    tokens = ["Hello", " wor", "ld<", "end", "> more"]
    assert "".join(pieces(range(5), lambda ids: "".join(tokens[i] for i in ids), ["<end>"])) == "Hello world"
    assert "".join(pieces(range(4), lambda ids: "".join(tokens[i] for i in ids), ["<end>"])) == "Hello world<end"


TEXTS = ["Hello world, it's 2024!", "  two  spaces\n\n\ttab", "größer 🙂", "<|s|>user\nhi<|s|>", ""]


@pytest.mark.parametrize("cut", ["smollm", "llama-bpe", "qwen2", "gpt-2"])
def test_a_tokenizer_from_its_metadata(cut):
    """Trained, written as GGUF has it, and made anew: the same ids, and the texts back."""
    tokenizers = pytest.importorskip("tokenizers", reason="the package it is made with: pip install tokenizers")
    pytest.importorskip("jinja2", reason="the chat template's language: pip install jinja2")
    import json

    from gguf_tokenizer import GGUFTokenizer

    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    blank = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": cut, "tokenizer.ggml.merges": []}
    few = {"tokenizer.ggml.tokens": ["<|s|>"], "tokenizer.ggml.token_type": [3]}
    trained.pre_tokenizer = GGUFTokenizer({**blank, **few}).tokenizer.pre_tokenizer
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=["<|s|>"], initial_alphabet=alphabet)
    trained.train_from_iterator([Path(__file__).read_text()], trainer)
    model = json.loads(trained.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    metadata = {
        **blank,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token == "<|s|>" else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.add_bos_token": cut == "llama-bpe",
        "tokenizer.chat_template": "{% for m in messages %}{{ bos_token + m['role'] + ': ' + m['content'] }}{% endfor %}",
    }
    read = GGUFTokenizer(metadata)
    for text in TEXTS:
        ids = read.encode(text)
        assert ids == [0] * (cut == "llama-bpe") + trained.encode(text, add_special_tokens=False).ids
        assert read.decode(ids) == text.replace("<|s|>", "")
    parts = [part for part, _ in read.tokenizer.pre_tokenizer.pre_tokenize_str("2024's")]
    assert parts == [*{"llama-bpe": ["202", "4"], "gpt-2": ["2024"]}.get(cut, "2024"), "'s"]
    assert read.chat([{"role": "user", "content": "hi"}]) == "<|s|>user: hi"
    with pytest.raises(ValueError, match="expected byte-level BPE"):
        GGUFTokenizer({**metadata, "tokenizer.ggml.model": "llama"})
