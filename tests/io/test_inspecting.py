"""``jaxnn inspect``: groups, what is not read, exported programs, a pipe that is closed."""

import argparse
import contextlib
import os
import pickle
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.__main__ import main
from jaxnn.io.inspect import describe_file


def _checkpoint(path):
    weights = {"conv.weight": np.zeros((2, 3), np.float32), "conv.bias": np.zeros(2, np.float32)}
    moments = {0: {"step": np.int64(3), "exp_avg": np.zeros((2, 3), np.float32)}}
    saved = {"model": weights, "optimizer": {"state": moments, "lr": 0.1, "betas": (0.9, 0.99)}, "epoch": 7}
    nn.save(saved | {"tied": weights["conv.weight"]}, path)


def test_depth_sums_up_what_lies_below(tmp_path):
    _checkpoint(tmp_path / "x.pt")
    rows, totals = describe_file(tmp_path / "x.pt", depth=1)
    assert rows == [
        ("optimizer.*", "2 tensors, 2 plain values", "int64, float32", "32 B"),
        ("epoch", "7", "int", ""),
        ("model.*", "2 tensors", "float32", "32 B"),
        ("tied", "2×3", "float32", "= model.conv.weight"),
    ]
    assert totals == describe_file(tmp_path / "x.pt")[1] == "5 tensors, 15 values, 64 B"
    names = [row[0] for row in describe_file(tmp_path / "x.pt", depth=2)[0]]
    assert names == ["optimizer.lr", "optimizer.betas", "epoch", "model.conv.*", "optimizer.state.*", "tied"]
    whole = describe_file(tmp_path / "x.pt")[0]
    assert describe_file(tmp_path / "x.pt", depth=9)[0] == whole and len(whole) == 8


@pytest.mark.parametrize("given", ["0", "-1", "all"])
def test_a_depth_is_a_number_from_1_up(given, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path), "--depth", given])
    assert "--depth" in capsys.readouterr().err


def test_what_is_not_read_stands_below_the_table(tmp_path, capsys):
    (tmp_path / "x.pt").write_bytes(b"")
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.zeros(2), "args": argparse.Namespace(lr=0.1), "path": tmp_path}, tmp_path / "x.pt")
    assert main(["inspect", str(tmp_path / "x.pt")]) == 0  # warnings are errors here
    shown = capsys.readouterr().out
    assert "not read: path (pathlib" in shown and "not read: the class of args (argparse.Namespace)" in shown
    assert "args.lr" in shown


def test_an_exported_program_is_listed(tmp_path, capsys):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    program = nn.export.export(
        model, (jnp.ones((4, 3)),), dynamic_shapes=({0: nn.export.Dim("b", max=8)},), platforms="cpu"
    )
    nn.export.save(program, tmp_path / "x.jaxnn", extra_files={"labels": "a b"})
    assert main(["inspect", str(tmp_path / "x.jaxnn")]) == 0
    shown = capsys.readouterr().out
    for text in (
        "(float32[b, 3])",
        "arrays.0.weight",
        "2×3",
        "arrays.1.num_batches_tracked",
        "training",
        "labels",
        "7 tensors",
    ):
        assert text in shown, text
    # A file of the same members that is broken, and one that only has the name.
    (tmp_path / "y.jaxnn").write_bytes((tmp_path / "x.jaxnn").read_bytes().replace(b'"format": 1', b'"format": x'))
    (tmp_path / "z.jaxnn").write_bytes(b"nothing")
    for name, says in (("y.jaxnn", "no exported program"), ("z.jaxnn", "not a file of torch.save")):
        assert main(["inspect", str(tmp_path / name)]) == 1
        assert says in capsys.readouterr().err


def test_a_folder_of_orbax_is_named(tmp_path, capsys):
    (tmp_path / "_METADATA").write_text("{}")
    assert main(["inspect", str(tmp_path)]) == 1
    assert "orbax.checkpoint.StandardCheckpointer().restore(path)" in capsys.readouterr().err


def test_a_closed_pipe_ends_it_in_silence(tmp_path, monkeypatch, capfd):
    nn.save({"weight": np.zeros(1)}, tmp_path / "x.pt")
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does when it has seen enough
    with open(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with contextlib.suppress(SystemExit):  # rich's own way
            assert main(["inspect", str(tmp_path / "x.pt")]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("old", [True, False], ids=["old format", "zip"])
def test_the_content_tells_the_format_whatever_the_name(tmp_path, old):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    nn.save({"w": array}, tmp_path / "zip.pt")
    if old:
        torch = pytest.importorskip("torch")
        torch.save({"w": torch.tensor(array)}, tmp_path / "zip.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "zip.pt").rename(tmp_path / "renamed.safetensors")
    np.testing.assert_array_equal(nn.load(tmp_path / "renamed.safetensors")["w"], array)


def test_a_header_that_begins_like_a_pickle_is_one_of_safetensors(tmp_path):
    """Headers of 640 bytes begin with the bytes of a pickle of protocol 2; the format allows spaces at their end."""
    nn.save({"w": np.ones(2, np.float32)}, tmp_path / "x.safetensors")
    content = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    for wanted in (0x0280, 0x4B50):  # "\x80\x02", "PK"
        padded = content[8 : 8 + length].ljust(wanted)
        (tmp_path / "x.bin").write_bytes(wanted.to_bytes(8, "little") + padded + content[8 + length :])
        np.testing.assert_array_equal(nn.load(tmp_path / "x.bin")["w"], np.ones(2, np.float32))


def test_pickles_stay_pickles(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(nn.io.CheckpointError, match="torch"):
        nn.load(tmp_path / "x.safetensors")
