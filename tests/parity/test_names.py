"""Every public name below torch.nn can be imported here from the same path, or is left out for a reason."""

import fnmatch
import importlib
import pickle

import pytest

import jaxnn as nn
from parity import names


def test_no_name_of_the_record_is_missing():
    assert not [name for name in names.missing(names.recorded()) if not names.reason(name)]


def test_the_record_is_the_installed_pytorchs():
    pytest.importorskip("torch")
    assert names.walk() == names.recorded()
    assert sum(map(len, names.recorded().values())) > 900


def test_no_reason_without_a_name():
    missing = list(names.missing(names.recorded()))
    assert not [pattern for pattern in names.left_out() if not fnmatch.filter(missing, pattern)]


# Names with an underscore that model files and libraries import nevertheless.
PRIVATE = {
    "common_types": ["_size_1_t", "_size_2_t", "_size_3_t", "_size_any_t", "_ratio_any_t", "_maybe_indices_t"],
    "modules.activation": ["MultiheadAttention"],
    "modules.batchnorm": ["_BatchNorm", "_NormBase", "_LazyNormBase"],
    "modules.conv": ["_ConvNd", "_ConvTransposeNd", "LazyConv2d"],
    "modules.dropout": ["_DropoutNd"],
    "modules.instancenorm": ["_InstanceNorm"],
    "modules.loss": ["_Loss", "_WeightedLoss"],
    "modules.module": ["_IncompatibleKeys", "_EXTRA_STATE_KEY_SUFFIX"],
    "modules.pooling": [
        *("_MaxPoolNd", "_AvgPoolNd", "_LPPoolNd", "_MaxUnpoolNd", "_AdaptiveAvgPoolNd", "_AdaptiveMaxPoolNd"),
    ],
    "modules.transformer": ["_get_activation_fn", "_get_clones"],
    "modules.utils": ["_ntuple", "_single", "_pair", "_triple", "_quadruple", "_reverse_repeat_tuple"],
    "init": ["_calculate_fan_in_and_fan_out", "_calculate_correct_fan"],
}


@pytest.mark.parametrize("path, name", [(path, name) for path, found in PRIVATE.items() for name in found])
def test_private_names_that_others_import(path, name):
    assert hasattr(importlib.import_module(f"jaxnn.{path}"), name)


@pytest.mark.parametrize("path", ["conv", "pooling", "batchnorm", "instancenorm", "dropout", "loss", "padding", "rnn"])
def test_subclasses_of_private_bases_are_torchs(path):
    torch = pytest.importorskip("torch")
    theirs = importlib.import_module(f"torch.nn.modules.{path}")
    ours = importlib.import_module(f"jaxnn.modules.{path}")
    classes = [name for name, value in vars(theirs).items() if isinstance(value, type) and hasattr(ours, name)]
    classes = [name for name in classes if "Lazy" not in name]  # ours are subclasses of what they become
    for base in [name for name in classes if issubclass(getattr(theirs, name), torch.nn.Module)]:
        for name in classes:
            wanted = issubclass(getattr(theirs, name), getattr(theirs, base))
            assert issubclass(getattr(ours, name), getattr(ours, base)) == wanted, (name, base)


def test_helpers_of_sizes():
    from jaxnn.modules.utils import _list_with_default, _ntuple, _pair, _reverse_repeat_tuple

    assert _pair(3) == (3, 3) and _pair([1, 2]) == (1, 2) and _ntuple(5)(0) == (0,) * 5
    assert _reverse_repeat_tuple((1, 2), 2) == (2, 2, 1, 1)
    assert _list_with_default([None, 4], [1, 2, 3]) == [2, 4] and _list_with_default(3, [1]) == 3
    with pytest.raises(ValueError, match="less than 2"):
        _list_with_default([1, 2, 3], [1, 2])


def test_apply_permutation_warns_and_permutes():
    import jax.numpy as jnp

    from jaxnn.modules.rnn import apply_permutation

    with pytest.warns(FutureWarning, match="deprecated"):
        assert apply_permutation(jnp.arange(6).reshape(2, 3), jnp.array([2, 0, 1])).tolist() == [[2, 0, 1], [5, 3, 4]]


def test_lazy_classes_pickle_from_where_torch_keeps_them():
    for name in ("LazyConv2d", "LazyLinear", "LazyBatchNorm1d", "LazyInstanceNorm3d"):
        cls = getattr(nn, name)
        assert pickle.loads(pickle.dumps(cls)) is cls
