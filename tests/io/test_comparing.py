"""`jaxnn compare`: what differs between two files, whatever their formats."""

import numpy as np
import pytest

import jaxnn as nn
from jaxnn.__main__ import main
from jaxnn.io.comparing import compare_files


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_a_file_and_its_copy_in_another_format_are_equal(model, tmp_path):
    nn.save(model.state_dict(), tmp_path / "a.pt")
    nn.save(model.state_dict(), tmp_path / "b.safetensors")
    rows, totals, equal = compare_files(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert equal and rows == [] and totals.startswith("7 tensors in both, 7 equal; 0 in the first")


def test_each_kind_of_difference_has_its_row(tmp_path):
    one = {"same": np.ones(3), "value": np.array([1.0, 2.0]), "shape": np.ones((2, 3)), "gone": np.ones(1)}
    one |= {"dtype": np.ones(2, np.float32), "long": np.array([2**53])}
    two = {**one, "value": np.array([1.0, 2.5]), "shape": np.ones((3, 2)), "new": np.ones(1)}
    two |= {"dtype": np.ones(2, np.float64), "long": np.array([2**53 + 1])}
    del two["gone"]
    nn.save(one, tmp_path / "a.pt")
    nn.save(two, tmp_path / "b.pt")
    rows, totals, equal = compare_files(tmp_path / "a.pt", tmp_path / "b.pt")
    found = {name: rest for name, *rest in rows}
    assert not equal and totals == "5 tensors in both, 1 equal; 1 in the first alone, 1 in the other"
    assert found == {
        "value": ["2 float64", "2 float64", "0.5"],
        "shape": ["2×3 float64", "3×2 float64", ""],
        "gone": ["1 float64", "not there", ""],
        "new": ["not there", "1 float64", ""],
        "dtype": ["2 float32", "2 float64", "0"],
        "long": ["1 int64", "1 int64", "1"],
    }


def test_numbers_that_are_none_or_infinite(tmp_path):
    nn.save({"same": np.array([np.nan, np.inf]), "other": np.array([np.nan, 1.0])}, tmp_path / "a.pt")
    nn.save({"same": np.array([np.nan, np.inf]), "other": np.array([0.0, np.inf])}, tmp_path / "b.pt")
    rows, _, _ = compare_files(tmp_path / "a.pt", tmp_path / "b.pt", rtol=1.0, atol=1e9)
    assert [(name, largest) for name, _, _, largest in rows] == [("other", "inf")]


def test_on_the_command_line(tmp_path, capsys):
    nn.save({"w": np.array([1.0, 2.0])}, tmp_path / "a.pt")
    nn.save({"w": np.array([1.0, 2.001])}, tmp_path / "b.pt")
    files = [str(tmp_path / "a.pt"), str(tmp_path / "b.pt")]
    assert main(["compare", *files]) == 1
    said = capsys.readouterr().out
    assert "0.001" in said and "1 tensors in both, 0 equal" in said
    assert main(["compare", *files, "--rtol", "1e-3"]) == 0
    assert main(["compare", files[0], files[0]]) == 0
    assert main(["compare", files[0], str(tmp_path / "c.pt")]) == 2
    assert "error: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare", *files, "--atol", "-1"])
    assert "takes a number of at least 0, not -1" in capsys.readouterr().err
