"""Same seed, same weights: every class of torch.nn with parameters, five seeds, three dtypes, against live torch."""

import contextlib
import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxnn as nn

torch = pytest.importorskip("torch")
overrides = pytest.importorskip("torch.overrides")
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")  # torch's own; ours says it too

SEEDS = (0, 1, 42, 1234, 2**40 + 7)
DTYPES = ("float32", "float64", "bfloat16")

CONVOLUTION = [((4, 6, 3), {}), ((4, 6, 3), {"groups": 2, "bias": False, "padding": 1}), ((16, 32, 5), {"dilation": 2})]
RECURRENT = [
    ((5, 7), {}),
    ((5, 8), {"num_layers": 3, "bidirectional": True, "batch_first": True}),
    ((5, 8), {"num_layers": 2, "bias": False, "dropout": 0.2}),
]
CELL = [((5, 7), {}), ((16, 16), {"bias": False})]
AFFINE = [((6,), {}), ((6,), {"affine": True, "track_running_stats": True, "momentum": None})]
LAYER = [((16, 4, 24), {}), ((16, 2), {"dim_feedforward": 8, "norm_first": True, "activation": "gelu", "bias": False})]
TRANSPOSED = [((4, 6, 3), {}), ((6, 4, 3), {"groups": 2, "bias": False, "stride": 2}), ((16, 32, 2), {"dilation": 2})]

# class: constructor arguments, small and large (torch fills below and from 16 elements in different ways)
CLASSES = {
    "Linear": [((3, 5), {}), ((33, 17), {}), ((4, 6), {"bias": False})],
    "Bilinear": [((3, 4, 5), {}), ((8, 9, 2), {"bias": False})],
    **{f"Conv{rank}d": CONVOLUTION for rank in (1, 2, 3)},
    **{f"ConvTranspose{rank}d": TRANSPOSED for rank in (1, 2, 3)},
    **{name: RECURRENT for name in ("RNN", "GRU")},
    "LSTM": [*RECURRENT, ((5, 8), {"proj_size": 3, "num_layers": 2, "bidirectional": True}), ((1, 1), {})],
    **{name: CELL for name in ("RNNCell", "LSTMCell", "GRUCell")},
    "Embedding": [((7, 3), {}), ((40, 8), {"padding_idx": 2, "max_norm": 1.0}), ((3, 5), {}), ((1, 1), {})],
    "EmbeddingBag": [((7, 3), {}), ((40, 8), {"padding_idx": 2, "mode": "sum"}), ((3, 5), {"mode": "max"})],
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
        ((15, 3), {"add_bias_kv": True, "add_zero_attn": True, "kdim": 4, "dropout": 0.1}),
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
# Lazy class: constructor arguments, the sizes of its input after the batch and three channels.
LAZY = {
    "LazyLinear": ((5,), ()),
    **{f"Lazy{kind}{rank}d": ((6, 3), (5,) * rank) for kind in ("Conv", "ConvTranspose") for rank in (1, 2, 3)},
    **{f"LazyBatchNorm{rank}d": ((), (2,) * rank) for rank in (1, 2, 3)},
    **{f"LazyInstanceNorm{rank}d": ((1e-5, 0.1, True, True), (2,) * rank) for rank in (1, 2, 3)},
}
CASES = [
    pytest.param(name, number, dtype, id=f"{name}-{number}-{dtype}")
    for name, arguments in CLASSES.items()
    for number in range(len(arguments))
    for dtype in DTYPES
]


class Drawn(overrides.TorchFunctionMode):
    """Notes which of torch's tensors are filled from the normal distribution."""

    def __init__(self):
        super().__init__()
        self.normal = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.__name__ in ("normal_", "xavier_normal_"):
            self.normal.add((args[0] if args else kwargs["tensor"]).data_ptr())
        return function(*args, **kwargs)


def make(package, name, args, kwargs, dtype="float32"):
    """The module of that name, from jaxnn or from torch.nn."""
    dtype = jnp.dtype(dtype) if package is nn else getattr(torch, dtype)
    return getattr(package, name)(*args, **kwargs, dtype=dtype)


def hold(build, *args):
    """``build(package, *args)``: normal draws to 2 ulp, all else bit for bit, the generators left alike."""
    with Drawn() as drawn:
        theirs = build(torch.nn, *args).state_dict()
    ours = build(nn, *args).state_dict()
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        mine, value_64 = np.asarray(ours[key]), value.double().numpy()
        assert str(mine.dtype) == str(value.dtype).removeprefix("torch."), key
        ulps = 2 if value.data_ptr() in drawn.normal else 0
        room = ulps * float(ml_dtypes.finfo(mine.dtype).eps) * np.abs(value_64) if ulps else 0
        assert np.all(np.abs(mine.astype(np.float64) - value_64) <= room), key
    np.testing.assert_array_equal(nn.get_rng_state()[24:5016], torch.get_rng_state().numpy()[24:5016])
    return drawn.normal


def seeded(seed):
    torch.manual_seed(seed), nn.manual_seed(seed)


def precision(dtype):
    """Where float64 exists."""
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


@pytest.mark.parametrize("name, number, dtype", CASES)
def test_the_weights_are_torchs(name, number, dtype):
    with precision(dtype):
        for seed in SEEDS:
            seeded(seed)
            hold(make, name, *CLASSES[name][number], dtype)


def test_normal_draws_are_told_from_the_others():
    seeded(0)
    assert len(hold(make, "Embedding", (3, 4), {})) == 1 and not hold(make, "Linear", (3, 4), {})


@pytest.mark.parametrize("name", COMPOSED)
def test_the_weights_of_containers_are_torchs(name):
    for seed in SEEDS:
        seeded(seed)
        hold(COMPOSED[name])


def called(package, name):
    """A lazy module after its first call."""
    args, sizes = LAZY[name]
    module, x = getattr(package, name)(*args), np.ones((2, 3, *sizes), np.float32)
    module(jnp.asarray(x) if package is nn else torch.from_numpy(x))
    if "Norm" in name:
        module.reset_running_stats()
    return module


@pytest.mark.parametrize("name", LAZY)
def test_the_weights_of_lazy_classes_are_torchs_after_the_first_call(name):
    for seed in SEEDS:
        seeded(seed)
        hold(called, name)


@pytest.mark.parametrize("name", sorted({name for name in CLASSES if "Sync" not in name}))
def test_one_after_another_goes_on_in_the_same_stream(name):
    seeded(5)
    for (args, kwargs), _ in itertools.product(CLASSES[name], range(2)):
        hold(make, name, args, kwargs)


@functools.cache
def database():
    """The classes of PyTorch's own database of modules that have parameters, with every constructor call in it."""
    common = pytest.importorskip("torch.testing._internal.common_modules")
    calls = {}
    for info in common.module_db:
        for training in (True, False):
            inputs = info.module_inputs_func(
                info, device="cpu", dtype=torch.float32, requires_grad=False, training=training
            )
            for sample in inputs:
                call = sample.constructor_input
                values = (*call.args, *call.kwargs.values())
                given = any(isinstance(value, (torch.Tensor, torch.nn.Module)) or callable(value) for value in values)
                if not given and next(info.module_cls(*call.args, **call.kwargs).parameters(), None) is not None:
                    calls.setdefault(info.module_cls.__name__, {})[repr(call.args) + repr(call.kwargs)] = call
    return calls


@pytest.mark.filterwarnings("ignore")  # the database's own
@pytest.mark.parametrize("seed", SEEDS)
def test_every_constructor_call_of_pytorchs_database(seed):
    calls = database()
    assert len(calls) > 30 and {"Transformer", "LSTM", "Conv2d"} <= calls.keys()
    for name, several in calls.items():
        for call in several.values() if not name.startswith("Lazy") else ():  # those are above
            kwargs = {key: value for key, value in call.kwargs.items() if key not in ("device", "dtype")}
            seeded(seed)
            hold(make, name, call.args, kwargs)


def test_no_class_with_parameters_is_missing_here():
    holds = {"ParameterList", "ParameterDict"}  # containers of parameters that are given to them
    for name, kind in vars(torch.nn).items():
        if not (inspect.isclass(kind) and issubclass(kind, torch.nn.Module)):
            continue
        if name in {*CLASSES, *COMPOSED, *LAZY, *holds}:
            continue
        own = [base for base in kind.__mro__ if base not in (torch.nn.Module, object)]
        abstract = name in ("RNNBase", "RNNCellBase", "Module")
        assert abstract or not any("Parameter(" in inspect.getsource(base) for base in own), name
