"""The error measure, the gate, and the stand-ins: known answers, no torch."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from parity import compare, record
from parity.case import Case, Dtype, Expected, Make, Name, Packed, Slot, slots
from parity.check import check
from parity.families import family_of
from parity.known import known


def test_error_is_relative_to_the_largest_number():
    truth = np.array([0.0, 10.0, -20.0])
    assert compare.error(truth + np.array([1.0, 0.0, 0.0]), truth) == pytest.approx(0.05)
    assert compare.error(np.zeros(3), np.zeros(3)) == 0.0
    assert compare.error(np.full(3, 1e-3), np.zeros(3)) == pytest.approx(1e-3)
    assert compare.error(np.zeros(2), np.zeros(3)) == math.inf
    assert compare.error(np.zeros((0, 3)), np.zeros((0, 3))) == 0.0


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_infinities_and_nans_must_stand_where_truth_has_them(bad):
    truth = np.array([1.0, bad])
    assert compare.error(np.array([1.0, bad]), truth) == 0.0
    assert compare.error(np.array([1.0, 2.0]), truth) == math.inf
    assert compare.error(np.array([bad, bad]), truth) == math.inf
    if not np.isnan(bad):
        assert compare.error(np.array([1.0, -bad]), truth) == math.inf


def test_gate_is_eight_times_torchs_error_or_the_floor():
    truth, own = np.ones(1), np.array([1 + 1e-4])
    assert compare.judge("x", truth + 7.9e-4, truth, own, "float32").held
    assert not compare.judge("x", truth + 8.1e-4, truth, own, "float32").held
    assert compare.judge("x", truth + 1.9e-5, truth, truth, "float32").held
    assert not compare.judge("x", truth + 2.1e-5, truth, truth, "float32").held
    assert not compare.judge("x", np.ones(2), truth, truth, "float32").held


def test_torchs_own_overflow_is_not_held_against_us():
    truth, own = np.array([1e39, 1.0]), np.array([np.inf, 1.0])
    assert compare.judge("x", np.array([np.inf, 1.0]), truth, own, "float32").held
    assert not compare.judge("x", np.array([np.nan, 1.0]), truth, own, "float32").held


def test_ratio_counts_one_rounding_as_exact():
    exact = compare.Tensor("x", 0.0, 0.0, True)
    assert compare.ratio([exact], "float32") == 1.0
    assert compare.ratio([compare.Tensor("x", 4e-7, 1e-7, True)], "float32") == pytest.approx(4.0)
    assert compare.ratio([compare.Tensor("x", 1.0, None, True)], "float32") is None


def test_families_know_the_odd_names():
    assert family_of("l1_loss") == "loss"
    assert family_of("local_response_norm") == "normalization"
    assert family_of("LazyConvTranspose2d") == "convolution"
    assert family_of("multi_head_attention_forward") == "attention"
    assert family_of("relu") == "activation"


def test_trees_survive_the_recording():
    make = Make(
        "TransformerEncoder", (Make("Linear", (3, 4), {"bias": False}),), {"activation": Name("functional.relu")}
    )
    tree = (
        Slot(0),
        [Slot(1), None, (1, 2.5)],
        {"dtype": Dtype("float32"), "p": math.inf},
        make,
        Packed(Slot(2), Slot(3)),
    )
    assert record.decode(record.encode(tree)) == tree
    assert list(slots(tree)) == [0, 1, 2, 3]


def test_recorded_truth_keeps_ten_digits():
    truth = np.random.default_rng(0).standard_normal(1000)
    assert compare.error(record.rounded_truth(truth), truth) < 2e-10
    assert np.isnan(record.rounded_truth(np.array([np.nan]))).all()


def _case(value: float) -> Case:
    array = np.array([-1.0, 2.0], np.float32)
    case = Case("own", "relu", "x", None, (Slot(0),), {}, [array], wrt=[])
    case.expected = {"output 0": Expected(np.array([0.0, value]), 0.0, "float32")}
    return case


def test_a_wrong_number_fails_and_a_right_one_holds():
    assert check(_case(2.0)).status == "held"
    result = check(_case(2.1))
    assert result.status == "failed" and "output 0" in result.message


def test_a_name_that_is_not_there_is_missing():
    case = _case(2.0)
    case.name = "no_such_function"
    assert check(case).status == "missing"


def test_known_cases_have_reasons():
    case = _case(2.0)
    assert known("random", case) is None
    case.name = "dropout"
    assert known("random", case)


def _near(*numbers: float) -> Callable[[], list[dict[str, np.ndarray]]]:
    return lambda: [{"output 0": np.array([0.0, number])} for number in numbers]


def test_an_error_that_torch_has_too_for_numbers_a_rounding_away_is_chance():
    assert check(_case(3.0), "bfloat16", neighbours=_near(3.0, 2.4)).status == "known"
    assert check(_case(3.0), "bfloat16", neighbours=_near(3.0, 2.6)).status == "failed"  # less than half of ours
    assert check(_case(3.0), "bfloat16", neighbours=_near(math.nan)).status == "failed"


@pytest.mark.parametrize(
    ("truth", "own", "status"), [(3.0, math.nan, "known"), (3.0, 3.0, "failed"), (2.0, math.nan, "held")]
)
def test_numbers_that_torchs_own_run_of_16_bits_has_none_of_are_beyond_it(truth, own, status):
    case = _case(truth)
    case.expected["output 0"].own = np.array([0.0, own])
    assert check(case, "float16").status == status
    case.expected["output 0"].own = np.array([1.0, own])  # a right number does not hide a wrong one
    case.expected["output 0"].truth = np.array([1.0, truth])
    assert check(case, "float16").status == "failed"
    assert check(case, "float32").status == "failed"
