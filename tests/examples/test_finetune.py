"""examples/finetune.py: packing, a habit that is learned, and going on after a stop as if there had been none."""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxnn as nn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import finetune  # noqa: E402
from models.llama import LlamaForCausalLM  # noqa: E402
from models.llama_config import LlamaConfig  # noqa: E402

from tests.examples.record_llama import SMALL  # noqa: E402
from tests.examples.test_chat import END, Letters  # noqa: E402

OPTIONS = "--steps 4 --batch 2 --accumulate 2 --context 24 --save-every 2 --rank 2 --chunk 16"


def _small():
    nn.manual_seed(3)
    config = LlamaConfig.from_dict(SMALL | {"eos_token_id": END, "max_position_embeddings": 64, "num_hidden_layers": 1})
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def small(monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    monkeypatch.setattr(finetune, "load", lambda path: (_small(), Letters()))
    monkeypatch.setattr(finetune, "model_file", lambda: Path("x.gguf"))
    monkeypatch.setattr(finetune, "draw", lambda path, history: None)
    monkeypatch.setattr(finetune, "answers", lambda model, tokenizer, questions: ["no form"] * len(questions))
    pairs = [("ab" * (i % 3 + 1), "c" * (i % 4 + 1) + "d") for i in range(12)]
    monkeypatch.setattr(finetune, "examples", lambda seed: pairs)
    quick = {"xla_backend_optimization_level": 0}
    monkeypatch.setattr(nn, "jit", functools.partial(nn.jit, compiler_options=quick))
    finetune.make_steps.cache_clear()


def test_packed_texts_are_as_by_themselves():
    texts = [([1, 2, 3], [4, 5]), ([6], [7, 8, 9]), ([10, 11, 12, 13], [14]), ([15, 16], [17])]
    data = finetune.packed(texts, 10)
    assert data["ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 0], [10, 11, 12, 13, 14, 15, 16, 17, 0, 0]]
    assert data["segments"].tolist() == [[1] * 5 + [2] * 4 + [0], [1] * 5 + [2] * 3 + [0, 0]]
    assert data["targets"][0].tolist() == [-100, -100, 4, 5, -100, 7, 8, 9, -100, -100]
    model = _small()
    forward = nn.jit(lambda model, ids, segments: model(ids, segment_ids=segments))
    out = forward(model, data["ids"], data["segments"])
    alone = np.zeros((4, 10), np.int32)
    numbers = np.zeros((4, 10), np.int32)
    for row, (prompt, answer) in enumerate(texts):
        whole = prompt + answer
        alone[row, : len(whole)], numbers[row, : len(whole)] = whole, 1
    single = forward(model, alone, numbers)
    places = [(0, 0, 5), (0, 5, 9), (1, 0, 5), (1, 5, 8)]
    for text, (row, begin, end) in enumerate(places):
        np.testing.assert_allclose(out[row, begin:end], single[text, : end - begin], atol=2e-5)
    assert finetune.packed([([1] * 8, [2] * 8)], 10)["ids"].shape == (1, 10)


@pytest.mark.parametrize("kind", ["", "--full"])
def test_goes_on_as_if_it_had_not_stopped(kind, small, tmp_path, capsys):
    def run(folder, *more):
        assert (
            finetune.main([*OPTIONS.split(), *kind.split(), "--lr", "0.01", "--out", str(tmp_path / folder), *more])
            == 0
        )
        return nn.load(tmp_path / folder / "checkpoint.pt")

    whole = run("whole")
    run("parts", "--steps", "2")
    saved = nn.load(tmp_path / "parts" / "checkpoint.pt")
    nn.save(saved | {"settings": saved["settings"] | {"steps": 4}}, tmp_path / "parts" / "checkpoint.pt")
    parts = run("parts", "--resume")
    assert whole["history"] == parts["history"] and len(whole["history"]) == 4
    assert whole["trained"].keys() == parts["trained"].keys()
    for name, value in whole["trained"].items():
        np.testing.assert_array_equal(value, parts["trained"][name])
    assert (tmp_path / "whole" / "adapter" / "adapter_model.safetensors").exists() == (kind == "")
    shown = capsys.readouterr().out
    assert "before: 0 of 8 answers have the form" in shown and "weights are trained" in shown


def test_accumulated_gradients_are_those_of_one_batch(small):
    model, _ = finetune.load(None)
    data = finetune.packed([([1, 2, 3], [4, 5]), ([6], [7, 8, 9])], 5)
    gradients, _ = finetune.make_steps(False, 3)
    names = ("ids", "segments", "targets")
    loss, whole = gradients(model, *(data[name] for name in names))
    parts = [gradients(model, *(data[name][row : row + 1] for name in names)) for row in range(2)]
    np.testing.assert_allclose(float(loss), float(parts[0][0] + parts[1][0]), rtol=1e-6)
    for name, grad in whole.items():
        np.testing.assert_allclose(grad, parts[0][1][name] + parts[1][1][name], rtol=1e-4, atol=1e-5)


def test_the_texts_have_the_form():
    pairs = finetune.examples(0)
    assert len(pairs) > 100 and all(finetune.FORM.fullmatch(answer) for _, answer in pairs)
    assert pairs != finetune.examples(1) and not {question for question, _ in pairs} & set(finetune.HELD_OUT)


def test_main_refuses(small, tmp_path, capsys):
    assert finetune.main(["--resume", "--out", str(tmp_path)]) == 2
    assert "there is no" in capsys.readouterr().err
    assert finetune.main(["--targets", "nothing", "--out", str(tmp_path)]) == 2
    assert "add_lora: targets" in capsys.readouterr().err
