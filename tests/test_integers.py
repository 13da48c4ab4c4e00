"""Sizes are whole numbers: every integer argument of every class and function, in turn a fraction, a float, a NumPy
integer, a bool and an array of one integer, against torch's verdict on the same call."""

import functools
import inspect
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's, of NLLLoss2d

from parity import convert, ours  # noqa: E402  # they need torch too
from parity.cases import functions, modules, own  # noqa: E402

KINDS = {
    "fraction": lambda n: (n + 0.5, n + 0.5),
    "float": lambda n: (float(n), float(n)),
    "np.float64": lambda n: (np.float64(n), np.float64(n)),
    "np.int64": lambda n: (np.int64(n), np.int64(n)),
    "bool": lambda n: (bool(n), bool(n)),
    "array": lambda n: (torch.tensor(n), jnp.int32(n)),
}
# Where torch takes what is no whole number, and we raise TypeError.
FLOATS_IN_TORCH = {
    **dict.fromkeys(
        [f"max_unpool{n}d" for n in (1, 2, 3)], "it computes the size in Python, and takes 2.5 for a kernel"
    ),
    **dict.fromkeys(
        [f"InstanceNorm{n}d" for n in (1, 2, 3)], "num_features counts only with affine or running statistics"
    ),
    "multi_head_attention_forward": "embed_dim_to_check is only compared",
    "CrossMapLRN2d": "it computes with a size of 2.5, in Python",
    **dict.fromkeys(["Embedding", "EmbeddingBag"], "an IndexError: the row of padding_idx is filled with zeros"),
    "LSTM": "a proj_size of 0.0 is no projection",
}
CASES = 25  # of each name, so that each argument is given at least once


def variants(value):
    """The kinds of a value, for torch and for us; of a tuple, the kinds of its last number."""
    if type(value) is int:
        yield from ((kind, *make(value)) for kind, make in KINDS.items())
    elif isinstance(value, (list, tuple)) and value and all(type(item) is int for item in value):
        for kind, make in KINDS.items():
            theirs, mine = make(value[-1])
            yield kind, type(value)([*value[:-1], theirs]), type(value)([*value[:-1], mine])


def verdict(call):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except Exception as error:
            return type(error).__name__
    return "taken"


def verdicts(signature, args, kwargs, theirs, mine, seen):
    """For each integer argument and kind not yet seen: torch's verdict and ours. Both sides take args and kwargs."""
    parameters = list(signature.parameters)
    for argument, value in {**dict(zip(parameters, args)), **kwargs}.items():
        if argument.startswith("_") or "float" in str(signature.parameters[argument].annotation):
            continue
        for kind, their_value, our_value in variants(value):
            if (argument, kind, type(value)) in seen:
                continue
            seen.add((argument, kind, type(value)))
            wanted, got = (
                verdict(functools.partial(run, *_replaced(parameters, args, kwargs, argument, new)))
                for run, new in ((theirs, their_value), (mine, our_value))
            )
            yield argument, kind, value, wanted, got


def _replaced(parameters, args, kwargs, argument, value):
    place = parameters.index(argument)
    if place < len(args):
        return (*args[:place], value, *args[place + 1 :]), kwargs
    return args, {**kwargs, argument: value}


def is_allowed(name, kind, wanted, got):
    if wanted == got:
        return True
    if kind == "bool":  # torch looks at a tuple's first number only, and asks isinstance(True, int) elsewhere
        return got == "TypeError"
    if kind in ("np.int64", "array"):  # torch's parser refuses some of those; with us an integer is an integer
        return got == "taken"
    if kind == "fraction" and wanted in ("ValueError", "AssertionError"):  # no multiple of groups, no divisor of a size
        return got == "TypeError"
    return name in FLOATS_IN_TORCH and got == "TypeError"


def check(name, found):
    wrong = [
        f"{name}({argument}={value} as {kind}): torch {wanted}, here {got}"
        for argument, kind, value, wanted, got in found
        if not is_allowed(name, kind, wanted, got)
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def cases_of(source, unit):
    found = []
    for case in source.generate(unit):
        if case.error is None and not ours.is_wide(case):
            found.append(case)
        if len(found) == CASES:
            break
    return found


@pytest.mark.parametrize("name", [name for name in modules.units() if hasattr(nn, name)])
def test_classes(name):
    """Made and called: torch looks at some sizes only when it uses them."""

    def call(package, side, arrays, case, args, kwargs):
        module = getattr(package, name)(*side.rebuild(args, arrays), **side.rebuild(kwargs, arrays))
        with torch.no_grad():
            module(*side.rebuild(case.args, arrays), **side.rebuild(case.kwargs, arrays))

    def found():
        seen, signature = set(), inspect.signature(getattr(nn, name))
        for case in cases_of(modules, name):
            tensors, arrays = [convert.to_torch(array, None) for array in case.arrays], ours.arrays_of(case)
            theirs = functools.partial(call, torch.nn, convert, tensors, case)
            mine = abstract(functools.partial(call, nn, ours, arrays, case))
            yield from verdicts(signature, case.make.args, case.make.kwargs, theirs, mine, seen)

    check(name, found())


@pytest.mark.parametrize(
    "source, name",
    [(source, name) for source in (functions, own) for name in source.units()],
    ids=lambda value: getattr(value, "SOURCE", value),
)
def test_functions(source, name):
    def call(function, side, arrays, args, kwargs):
        with torch.no_grad():
            function(*side.rebuild(args, arrays), **side.rebuild(kwargs, arrays))

    def found():
        seen = set()
        for case in cases_of(source, name):
            theirs, mine = getattr(torch.nn.functional, case.name, None), getattr(F, case.name, None)
            if case.make is not None or theirs is None or mine is None:
                continue
            tensors, arrays = [convert.to_torch(array, None) for array in case.arrays], ours.arrays_of(case)
            theirs = functools.partial(call, theirs, convert, tensors)
            signature = inspect.signature(mine)
            mine = abstract(functools.partial(call, mine, ours, arrays))
            yield from verdicts(signature, case.args, case.kwargs, theirs, mine, seen)

    check(name.split(".")[0], found())


def abstract(call):
    """`call`, traced only: its checks run, nothing is compiled."""
    return lambda *args: jax.eval_shape(lambda: call(*args))


def _image(*shape):
    return np.arange(1.0, 1 + np.prod(shape), dtype=np.float32).reshape(shape)


def _convolution(spatial, transposed=False):
    sizes = dict(out_channels=4, kernel_size=3, stride=2, padding=1, dilation=1, groups=2)
    return ({**sizes, "output_padding": 1} if transposed else sizes), [_image(1, 2, *[5] * spatial)]


# What PyTorch's database does not give: each class made with all its integers, and its inputs (None: it is only made).
MADE = {
    "AdaptiveLogSoftmaxWithLoss": (
        dict(in_features=16, n_classes=20, cutoffs=[5, 10]),
        [_image(2, 16), np.array([0, 7])],
    ),
    "ChannelShuffle": (dict(groups=2), [_image(1, 4, 3)]),
    **{f"LazyConv{n}d": _convolution(n) for n in (1, 2, 3)},
    **{f"LazyConvTranspose{n}d": _convolution(n, True) for n in (1, 2, 3)},
    **{f"Conv{n}d": (dict(_convolution(n)[0], in_channels=2), _convolution(n)[1]) for n in (1, 2, 3)},
    **{
        f"ConvTranspose{n}d": (dict(_convolution(n, True)[0], in_channels=2), _convolution(n, True)[1])
        for n in (1, 2, 3)
    },
    "CosineSimilarity": (dict(dim=1), [_image(2, 3), _image(2, 3)]),
    "CrossMapLRN2d": (dict(size=3), [_image(1, 4, 3, 3)]),
    "Embedding": (dict(num_embeddings=4, embedding_dim=3, padding_idx=1), [np.array([0, 1])]),
    "EmbeddingBag": (dict(num_embeddings=4, embedding_dim=3, padding_idx=1), [np.array([[0, 1]])]),
    "Flatten": (dict(start_dim=1, end_dim=2), [_image(2, 3, 4)]),
    "Fold": (dict(output_size=4, kernel_size=2, stride=1, dilation=1, padding=0), [_image(1, 4, 9)]),
    "Unfold": (dict(kernel_size=2, stride=1, dilation=1, padding=0), [_image(1, 1, 4, 4)]),
    "LazyLinear": (dict(out_features=3), [_image(2, 4)]),
    "LinearCrossEntropyLoss": (
        dict(in_features=4, num_classes=3, ignore_index=2),
        [_image(2, 4), np.array([0, 1])],
    ),
    "NLLLoss2d": (dict(ignore_index=2), [_image(1, 3, 2, 2), np.zeros((1, 2, 2), int)]),
    **{
        f"MaxPool{n}d": (dict(kernel_size=3, stride=2, padding=1, dilation=1), [_image(1, 1, *[5] * n)])
        for n in (1, 2, 3)
    },
    **{
        f"MaxUnpool{n}d": (
            dict(kernel_size=2, stride=2, padding=0),
            [_image(1, 1, *[2] * n), np.arange(2**n).reshape(1, 1, *[2] * n)],
        )
        for n in (1, 2, 3)
    },
    "MultiheadAttention": (dict(embed_dim=4, num_heads=2, kdim=3, vdim=5), [_image(2, 4), _image(2, 3), _image(2, 5)]),
    "PixelShuffle": (dict(upscale_factor=2), [_image(1, 4, 2, 2)]),
    "PixelUnshuffle": (dict(downscale_factor=2), [_image(1, 1, 4, 4)]),
    "RNNBase": (dict(mode="LSTM", input_size=3, hidden_size=4, num_layers=2, proj_size=2), None),
    "RNNCellBase": (dict(input_size=3, hidden_size=4, bias=True, num_chunks=4), None),
    "SyncBatchNorm": (dict(num_features=2), None),
    "Unflatten": (dict(dim=1, unflattened_size=(2, 3)), [_image(2, 6)]),
    "Upsample": (dict(size=(4, 4)), [_image(1, 1, 2, 2)]),
    "UpsamplingBilinear2d": (dict(size=(4, 4)), [_image(1, 1, 2, 2)]),
    "UpsamplingNearest2d": (dict(size=(4, 4)), [_image(1, 1, 2, 2)]),
}


def _made(name):
    """The case, and again with tuples for the sizes of windows."""
    kwargs, inputs = MADE[name]
    yield kwargs, inputs
    tuples = {"kernel_size", "stride", "padding", "dilation", "output_padding", "output_size"} & set(kwargs)
    if tuples:
        spatial = int(name[-2]) if name[-2].isdigit() else 2
        yield {key: (value,) * spatial if key in tuples else value for key, value in kwargs.items()}, inputs


@pytest.mark.parametrize("name", MADE)
def test_classes_made_with_all_their_integers(name):
    def call(package, convert, inputs, args, kwargs):
        module = getattr(package, name)(*args, **kwargs)
        if inputs is not None:
            with torch.no_grad():
                module(*map(convert, inputs))

    def found():
        seen, signature = set(), inspect.signature(getattr(nn, name))
        for kwargs, inputs in _made(name):
            theirs = functools.partial(call, torch.nn, torch.from_numpy, inputs)
            mine = functools.partial(call, nn, jnp.asarray, inputs)
            for run in (theirs, mine):
                assert verdict(functools.partial(run, (), kwargs)) == "taken"
            yield from verdicts(signature, (), kwargs, theirs, mine, seen)

    check(name, found())


# Not tried: integers that no size is.
ELSEWHERE = {
    "DataParallel": "device_ids and output_device are devices, dim the axis that is split",
    "TransformerDecoder": "num_layers, which Transformer gives to it: test_transformer",
    "LinearCrossEntropyOptions": "batch_chunk_size: test_linear_cross_entropy",
}


def _integers_of(*signatures):
    """The parameters that PyTorch annotates as ints, or gives an int for a default."""
    found = set()
    for parameter in (one for signature in signatures for one in signature.parameters.values()):
        kind = str(parameter.annotation)
        is_size = re.search(r"\bint\b|_size_|_ratio_any", kind) or type(parameter.default) is int
        if is_size and not re.search("float|bool", kind) and not parameter.name.startswith("_"):
            found.add(parameter.name)
    return found


def _tried(name):
    signature, found = inspect.signature(getattr(nn, name)), set()
    cases = [(case.make.args, case.make.kwargs) for case in cases_of(modules, name)] if name in modules.units() else []
    cases += [((), kwargs) for kwargs, _ in _made(name)] if name in MADE else []
    for args, kwargs in cases:
        given = {**dict(zip(signature.parameters, args)), **kwargs}
        found |= {argument for argument, value in given.items() if any(True for _ in variants(value))}
    return found


def test_no_integer_of_a_class_is_left_out():
    classes = [name for name, value in vars(torch.nn).items() if inspect.isclass(value) and hasattr(nn, name)]
    left = {}
    for name in sorted(set(classes) - set(ELSEWHERE)):
        wanted = _integers_of(inspect.signature(getattr(torch.nn, name)))
        if missing := wanted - _tried(name):
            left[name] = missing
    assert not left


def test_an_eager_call_with_an_array_for_an_int_is_the_call_with_the_int():
    x = jnp.arange(12.0).reshape(1, 3, 4)
    for size in (2, np.int64(2), jnp.int32(2), jnp.array(2)):
        np.testing.assert_array_equal(F.max_pool1d(x, size), F.max_pool1d(x, 2))
        np.testing.assert_array_equal(F.softmax(x, dim=size), F.softmax(x, dim=2))
        assert F.pad(x, (0, size)).shape == (1, 3, 6) and nn.Linear(4, size)(x).shape == (1, 3, 2)


@pytest.mark.parametrize(
    "call, argument",
    [
        (lambda: nn.Linear(10.5, 5), "Linear: in_features: expected an int, got 10.5"),
        (lambda: nn.Conv2d(1, 2, (3, 1.0)), "Conv2d: kernel_size: expected an int, got 1.0"),
        (lambda: F.nll_loss(jnp.zeros((2, 2)), jnp.array([0, 1]), ignore_index=0.5), "nll_loss: ignore_index"),
        (lambda: F.one_hot(jnp.array([0]), 2.0), "one_hot: num_classes"),
    ],
)
def test_the_message_names_the_argument_and_the_way_out(call, argument):
    with pytest.raises(TypeError, match=argument + r".*(int\(\.\.\.\)|, got)"):
        call()


def test_sizes_are_kept_as_ints():
    layer = nn.Conv2d(np.int64(2), jnp.int32(4), (np.int32(3), 1), padding=np.int8(1))
    for value in (layer.in_channels, layer.out_channels, *layer.kernel_size, *layer.padding):
        assert type(value) is int
