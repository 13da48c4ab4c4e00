"""The examples' command lines: what cannot be is one line that names the argument, and the help says the defaults."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

EXAMPLES = ("digits", "cifar_style", "gpt", "crepe", "minilm", "chat", "finetune")
BAD = {
    "digits": "--batch 0|--batch 1|--batch 100000|--batch many|--epochs 0|--epochs 1.5|--seed -1|--seed 4294967296",
    "cifar_style": "--batch 1|--batch 100000|--epochs 0|--lr -1|--lr nan|--workers -1|--seed -1|--resume",
    "gpt": "--heads 7|--heads 0|--steps 0|--steps -3|--batch 0|--context 0|--width 0|--layers 0|--dropout 1|--dropout nan"
    "|--lr -1|--evaluate 0|--sample -1|--seed -1|--context 1000000",
    "crepe": "--seconds 0|--seconds nan|--seconds 1e9|--runs 0|--model huge",
    "minilm": "--runs 0|--runs x",
    "chat": "--seed -1|--context 0|--max-new-tokens 0|--top-k -1|--temperature -1|--temperature nan|--dtype int8",
    "finetune": "--steps 0|--batch 0|--accumulate 0|--context 1|--rank 0|--seed -1|--lr nan|--save-every 0",
}


@pytest.mark.parametrize("arguments", [(name, bad) for name in EXAMPLES for bad in BAD[name].split("|")], ids=" ".join)
def test_what_cannot_be_is_one_line(arguments, tmp_path, capsys):
    name, bad = arguments
    if name in ("digits", "cifar_style"):
        for needed in ("matplotlib", "sklearn", "tqdm", *(["tensorboardX"] if name == "cifar_style" else [])):
            pytest.importorskip(needed)
    out = () if name in ("minilm", "chat") else ("--out", str(tmp_path / "out"))
    with pytest.raises(SystemExit) as exit:
        importlib.import_module(name).main([*bad.split(), *out])
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said.count("\n") == 1 and bad.split()[0] in said, said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_help_says_what_each_option_is_and_its_default(name, capsys):
    with pytest.raises(SystemExit) as exit:
        importlib.import_module(name).main(["--help"])
    text = capsys.readouterr().out
    assert exit.value.code == 0 and "(default: " in text and "None" not in text and "False" not in text


def test_a_run_of_one_step_has_a_schedule():
    assert float(importlib.import_module("gpt").cosine(1, 0.5)(0)) == 0.5
