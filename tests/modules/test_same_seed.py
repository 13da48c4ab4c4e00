"""Same seed, same weights: every class of torch.nn with parameters, five seeds, against live torch."""

import inspect
import itertools

import numpy as np
import pytest

import jaxnn as nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")  # torch's own; ours says it too

CONVOLUTION = [((4, 6, 3), {}), ((4, 6, 3), {"groups": 2, "bias": False, "padding": 1}), ((16, 32, 5), {"dilation": 2})]
RECURRENT = [
    ((5, 7), {}),
    ((5, 8), {"num_layers": 3, "bidirectional": True, "batch_first": True}),
    ((5, 8), {"num_layers": 2, "bias": False, "dropout": 0.2}),
]
CELL = [((5, 7), {}), ((16, 16), {"bias": False})]
AFFINE = [((6,), {}), ((6,), {"affine": True, "track_running_stats": True, "momentum": None})]
LAYER = [((16, 4, 24), {}), ((16, 2), {"dim_feedforward": 8, "norm_first": True, "activation": "gelu", "bias": False})]

# class: constructor arguments, small and large (torch fills below and from 16 elements in different ways)
CLASSES = {
    "Linear": [((3, 5), {}), ((33, 17), {}), ((4, 6), {"bias": False})],
    "Bilinear": [((3, 4, 5), {}), ((8, 9, 2), {"bias": False})],
    **{f"{kind}{rank}d": CONVOLUTION for kind in ("Conv", "ConvTranspose") for rank in (1, 2, 3)},
    **{name: RECURRENT for name in ("RNN", "GRU")},
    "LSTM": [*RECURRENT, ((5, 8), {"proj_size": 3, "num_layers": 2})],
    **{name: CELL for name in ("RNNCell", "LSTMCell", "GRUCell")},
    "Embedding": [((7, 3), {}), ((40, 8), {"padding_idx": 2, "max_norm": 1.0})],
    "EmbeddingBag": [((7, 3), {}), ((40, 8), {"padding_idx": 2, "mode": "sum"})],
    **{f"BatchNorm{rank}d": AFFINE for rank in (1, 2, 3)},
    **{f"InstanceNorm{rank}d": AFFINE for rank in (1, 2, 3)},
    "SyncBatchNorm": AFFINE,
    "GroupNorm": [((2, 6), {})],
    "LayerNorm": [((6,), {}), (((3, 4),), {"bias": False})],
    "RMSNorm": [((6,), {})],
    "PReLU": [((), {}), ((5,), {"init": 0.1})],
    "MultiheadAttention": [
        ((16, 4), {}),
        ((16, 4), {"kdim": 6, "vdim": 10, "bias": False}),
        ((16, 2), {"add_bias_kv": True, "batch_first": True}),
    ],
    "TransformerEncoderLayer": LAYER,
    "TransformerDecoderLayer": LAYER,
    "Transformer": [((16, 4, 2, 3, 24), {}), ((16, 2, 1, 1, 8), {"norm_first": True, "bias": False})],
    "AdaptiveLogSoftmaxWithLoss": [((32, 20, [5, 12]), {}), ((32, 20, [5]), {"head_bias": True, "div_value": 2.0})],
    "LinearCrossEntropyLoss": [((8, 20), {}), ((8, 20), {"bias": True})],
}
# Made of layers that are given to them.
COMPOSED = {
    "TransformerEncoder": lambda nn: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 8), 3, nn.LayerNorm(16)),
    "TransformerDecoder": lambda nn: nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 8), 3, nn.LayerNorm(16)),
    "Sequential": lambda nn: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Conv2d(3, 8, 3)),
}
CASES = [
    pytest.param(name, number, id=f"{name}-{number}")
    for name, arguments in CLASSES.items()
    for number in range(len(arguments))
]


def hold(ours, theirs):
    """Uniform draws bit for bit, normal ones to 2 ulp; the same keys in the same order; the generators left alike."""
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_max_ulp(np.asarray(ours[key]), value.numpy(), maxulp=2)
    np.testing.assert_array_equal(nn.get_rng_state()[24:5016], torch.get_rng_state().numpy()[24:5016])


@pytest.mark.parametrize("name, number", CASES)
def test_the_weights_are_torchs(name, number):
    args, kwargs = CLASSES[name][number]
    for seed in (0, 1, 42, 1234, 2**40 + 7):
        torch.manual_seed(seed), nn.manual_seed(seed)
        hold(getattr(nn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs))


@pytest.mark.parametrize("name", COMPOSED)
def test_the_weights_of_containers_are_torchs(name):
    for seed in (0, 1, 42, 1234, 2**40 + 7):
        torch.manual_seed(seed), nn.manual_seed(seed)
        hold(COMPOSED[name](nn), COMPOSED[name](torch.nn))


@pytest.mark.parametrize("name", sorted({name for name in CLASSES if "Sync" not in name}))
def test_one_after_another_goes_on_in_the_same_stream(name):
    torch.manual_seed(5), nn.manual_seed(5)
    for (args, kwargs), _ in itertools.product(CLASSES[name], range(2)):
        hold(getattr(nn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs))


def test_no_class_with_parameters_is_missing_here():
    holds = {"ParameterList", "ParameterDict"}  # containers of parameters that are given to them
    for name, kind in vars(torch.nn).items():
        if not (inspect.isclass(kind) and issubclass(kind, torch.nn.Module)) or name in {*CLASSES, *COMPOSED, *holds}:
            continue
        lazy = name.startswith("Lazy")  # tests/modules/test_lazy.py
        own = [base for base in kind.__mro__ if base not in (torch.nn.Module, object)]
        abstract = name in ("RNNBase", "RNNCellBase", "Module")
        assert lazy or abstract or not any("Parameter(" in inspect.getsource(base) for base in own), name
