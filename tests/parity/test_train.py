"""`parity train`: every model and optimizer of the table follows PyTorch's run."""

import pytest

pytest.importorskip("torch")


@pytest.mark.parametrize("model, optimizer", [("cnn", "Adam"), ("lstm", "SGD"), ("transformer", "RMSprop")])
def test_runs_stay_together(model, optimizer):
    from parity.train import compare_runs

    run = compare_runs(model, optimizer, 12)
    assert run.held, (run.loss_error, run.distance, run.own_distance)
    assert run.loss_error < 1e-3
    assert run.theirs.std() > 0.01


def test_the_command(tmp_path, capsys):
    from parity.cli import main

    picture = tmp_path / "train.png"
    assert main(["train", "--model", "cnn", "--optimizer", "AdamW", "--steps", "5", "--out", str(picture)]) == 0
    assert "| cnn | AdamW |" in capsys.readouterr().out and picture.stat().st_size > 10_000
