"""A NumPy array in ported code stands for a tensor: torch's methods, beside torch; NumPy's where only NumPy takes the call."""

import warnings

import jax
import numpy as np
import pytest

import jaxnn as nn
from jaxnn import tensor as T

_X = np.asarray([[3, 1, 2], [0, 5, 4]], np.float32)

# How torch's method is called, for each method that both have; none: torch's own arguments are optional.
_CALLS = {
    "all": [(), (1,)], "any": [(), (1,)], "argmax": [(1, True)], "argmin": [()], "argsort": [(), (0,)],
    "clip": [(1, 3)], "conj": [()], "cumprod": [(0,)], "cumsum": [(1,)], "diagonal": [(), (1,)], "dot": [],
    "flatten": [(), (0,), (0, 1)], "item": [], "max": [(), (1,), (0, True)], "mean": [(), (1,), (1, True)],
    "min": [(), (1,), (0, True)], "nonzero": [()], "prod": [(), (1,)], "ravel": [()], "repeat": [(2, 1), (1, 2, 3), ((2, 2),)],
    "reshape": [(3, 2), ((3, -1),), (-1,)], "round": [()], "sort": [(), (0,), (1, True)], "squeeze": [(), (0,)],
    "std": [(), (1,), (1, False), (1, True, True)], "sum": [(), (1,), (1, True)], "swapaxes": [(0, 1)], "take": [],
    "tolist": [()], "trace": [()], "transpose": [(0, 1), (-2, -1), (0, 0)], "var": [(), (1,), (False,)],
    "view": [(3, 2), (-1,), (1, 2, 3)],
}  # fmt: skip
_BY_NAME = {
    "argmax": [{"dim": 1}, {"axis": 1}], "max": [{"dim": 1}, {"axis": 1}, {"dim": 0, "keepdim": True}],
    "mean": [{"dim": 1}, {"dim": (0, 1), "keepdim": True}, {"axis": 0, "keepdims": True}], "min": [{"axis": 0}],
    "std": [{"dim": 1}, {"axis": 1}, {"dim": 1, "unbiased": False}, {"correction": 0}], "sort": [{"descending": True}],
    "var": [{"dim": (0, 1)}, {"axis": 0, "keepdims": True}], "sum": [{"dim": 1}, {"axis": 1}], "flatten": [{"start_dim": 0}],
    "squeeze": [{"dim": 0}], "clip": [{"min": 2}, {"max": 2}], "round": [{"decimals": 1}],
}  # fmt: skip
_NOT_TORCHS = {"put", "resize"}  # torch's own take other arguments, and the porter writes no dispatch for them


def _shared(torch):
    names = set(dir(np.ndarray)) & set(dir(torch.Tensor))
    return {name for name in names if not name.startswith("__") and callable(getattr(np.ndarray, name))} - _NOT_TORCHS


def _flat(result):
    if isinstance(result, tuple):
        return [leaf for one in result for leaf in _flat(one)]
    return [np.asarray(result)]


@pytest.mark.filterwarnings("ignore:dispatch")
def test_the_methods_that_numpy_and_torch_share_are_torchs():
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    x, compared, wrong = _X, 0, []
    assert _shared(torch) == set(_CALLS)
    calls = [(name, args, {}) for name in _CALLS for args in _CALLS[name]]
    calls += [(name, (), options) for name in _BY_NAME for options in _BY_NAME[name]]
    for name, args, options in calls:
        theirs = _flat(getattr(torch.from_numpy(x.copy()), name)(*args, **options))
        ours = _flat(T.dispatch(x.copy(), name)(*args, **options))
        same = len(ours) == len(theirs) and all(a.shape == b.shape for a, b in zip(ours, theirs))
        if not same or not all(np.allclose(a, b, 1e-6, 0, equal_nan=True) for a, b in zip(ours, theirs)):
            wrong.append((name, args, options, ours, theirs))
        compared += 1
    assert not wrong and compared > 60


def test_methods_of_torch_that_numpy_lacks():
    x = _X.copy()
    for same in ("cpu", "cuda", "detach", "contiguous"):
        assert T.dispatch(x, same)() is x
    assert T.dispatch(x, "numel")() == 6 and T.dispatch(x, "size")(1) == 3 and T.dispatch(x, "dim")() == 2
    assert T.dispatch(x, "unsqueeze")(0).shape == (1, 2, 3) and T.dispatch(x, "long")().dtype == np.int32
    assert isinstance(T.dispatch(x, "numpy")(), np.ndarray) and isinstance(T.dispatch(x, "float")(), jax.Array)
    assert T.dispatch(np.asarray([2**40]), "tolist")() == [2**40]  # nothing is converted
    assert T.dispatch(np.asarray([2.5], np.float64), "item")() == 2.5
    with pytest.raises(OverflowError, match="do not fit int32"):
        T.dispatch(np.asarray([2**40]), "unsqueeze")(0)
    with pytest.raises(T.NotPorted, match="no method 'cholesky_inverse'"):
        T.dispatch(x, "cholesky_inverse")


def test_what_only_numpy_takes_is_numpys():
    x = _X.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(T.dispatch(x, "repeat")(2, axis=0), x.repeat(2, axis=0))
        np.testing.assert_array_equal(T.dispatch(x, "transpose")(), x.T)
        np.testing.assert_array_equal(T.dispatch(x, "transpose")((1, 0)), x.T)
        np.testing.assert_array_equal(T.dispatch(x[None], "transpose")(2, 0, 1), x[None].transpose(2, 0, 1))
        np.testing.assert_allclose(T.dispatch(x, "std")(axis=0, ddof=0), x.std(0))
        np.testing.assert_array_equal(T.dispatch(x, "round")(1), x.round(1))
        np.testing.assert_array_equal(T.dispatch(x, "take")([0, 1], axis=1), x.take([0, 1], axis=1))
        assert T.dispatch(x, "sort")(kind="stable") is None and x[0].tolist() == [1, 2, 3]
    text = np.asarray(["b", "a"])  # no tensor holds text
    T.dispatch(text, "sort")()
    assert text.tolist() == ["a", "b"] and not T.is_tensor(text)


@pytest.mark.parametrize(("name", "args"), [("repeat", (2,)), ("transpose", (0, 1)), ("std", ()), ("var", (1,))])
def test_what_both_take_and_mean_different_things_by_warns(name, args):
    with pytest.warns(UserWarning, match=f"{name} of a NumPy array: taken as torch's") as caught:
        T.dispatch(_X, name)(*args)
    assert caught[0].filename == __file__


def test_a_batch_of_the_loader_is_a_tensor():
    batch = next(iter(nn.utils.data.DataLoader([np.ones(2, np.float32)] * 4, batch_size=2)))
    assert isinstance(batch, np.ndarray) and T.is_tensor(batch)
    assert not T.is_tensor(np.float32(1)) and not T.is_tensor(np.asarray([None]))
