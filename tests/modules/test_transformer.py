"""The Transformer and its parts: weights, masks, copies, warnings."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.modules import transformer as own

torch = pytest.importorskip("torch")

E, HEADS, S, T, N = 8, 2, 6, 4, 3
CAUSAL = torch.nn.Transformer.generate_square_subsequent_mask
# How torch's TransformerEncoder and ours say that nested tensors cannot be used.
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")


def as_jax(value):
    return jnp.asarray(value.detach().numpy()) if isinstance(value, torch.Tensor) else value


def pair(build):
    torch.manual_seed(5)
    theirs = build(torch.nn).eval()
    nn.manual_seed(5)
    return theirs, build(nn).eval()


def assert_same(theirs, ours, *args, **masks):
    expected = theirs(*args, **masks).detach().numpy()
    result = ours(*map(as_jax, args), **{name: as_jax(mask) for name, mask in masks.items()})
    np.testing.assert_allclose(result, expected, atol=5e-6)


def sequence(length, batch_first=False):
    torch.manual_seed(length)
    return torch.randn(*((N, length) if batch_first else (length, N)), E)


PADDING = torch.zeros(N, S, dtype=torch.bool)
PADDING[:, -2:] = True


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"bias": False, "activation": "gelu", "batch_first": True}])
def test_transformer(norm_first, options):
    theirs, ours = pair(lambda lib: lib.Transformer(E, HEADS, 2, 2, 16, norm_first=norm_first, **options))
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    for name, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, state[name].numpy(), err_msg=name)
    assert repr(ours) == repr(theirs)
    batch_first = options.get("batch_first", False)
    src, tgt = sequence(S, batch_first), sequence(T, batch_first)
    assert_same(theirs, ours, src, tgt)
    assert_same(
        theirs, ours, src, tgt, tgt_mask=CAUSAL(T), src_key_padding_mask=PADDING, memory_key_padding_mask=PADDING
    )
    assert_same(theirs, ours, src, tgt, src_mask=CAUSAL(S) != 0, tgt_mask=CAUSAL(T) != 0, tgt_is_causal=True)
    assert_same(theirs, ours, src[:, 0], tgt[:, 0])


@pytest.mark.parametrize("masks", [{}, {"mask": CAUSAL(S)}, {"mask": CAUSAL(S) != 0, "src_key_padding_mask": PADDING}])
def test_encoder_under_jit_and_with_a_callable_activation(masks):
    def build(lib):
        activation = torch.tanh if lib is torch.nn else jnp.tanh
        return lib.TransformerEncoder(lib.TransformerEncoderLayer(E, HEADS, 16, activation=activation), 2)

    theirs, ours = pair(build)
    src = sequence(S)
    assert_same(theirs, ours, src, **masks)
    jitted = jax.jit(lambda model, src, masks: model(src, **masks))
    masks = {name: as_jax(mask) for name, mask in masks.items()}
    np.testing.assert_allclose(jitted(ours, as_jax(src), masks), ours(as_jax(src), **masks), atol=2e-6)


def test_copies_start_equal_and_share_nothing():
    layer = nn.TransformerEncoderLayer(E, HEADS, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3)
    boxes = list(encoder.parameters())
    assert len({id(box) for box in boxes}) == 3 * len(list(layer.parameters()))
    first, last = encoder.layers[0].linear1.weight, encoder.layers[2].linear1.weight
    assert (first == last).all() and (first == layer.linear1.weight).all()
    gradients = nn.grad(lambda model: (model(jnp.ones((2, 3, E))) ** 3).sum())(encoder)
    assert (gradients["layers.0.linear1.weight"] != gradients["layers.2.linear1.weight"]).any()


def test_dropout_places():
    layer = nn.TransformerDecoderLayer(E, HEADS, 16, dropout=0.5)
    tgt, memory = as_jax(sequence(T)), as_jax(sequence(S))
    assert (layer(tgt, memory) != layer(tgt, memory)).any()
    layer.eval()
    assert (layer(tgt, memory) == layer(tgt, memory)).all()


@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True, "norm_first": True}, {"batch_first": True, "bias": False}, {"batch_first": True}],
)
def test_nested_tensor_warning(options):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        for lib in (torch.nn, nn):
            lib.TransformerEncoder(lib.TransformerEncoderLayer(E, HEADS, 16, **options), 1)
    texts = [str(warning.message) for warning in record]
    assert len(texts) == (0 if options == {"batch_first": True} else 2)
    if texts:
        assert texts[0] == texts[1]


def test_mismatched_masks_warn_once():
    _, ours = pair(lambda lib: lib.TransformerEncoder(lib.TransformerEncoderLayer(E, HEADS, 16), 2))
    with pytest.warns(UserWarning, match="mismatched src_key_padding_mask") as record:
        ours(as_jax(sequence(S)), as_jax(CAUSAL(S)), as_jax(PADDING))
    assert len(record) == 1


@pytest.mark.parametrize("mask", [CAUSAL(4), CAUSAL(4) != 0, torch.zeros(4, 4), CAUSAL(4)[None], CAUSAL(3), None])
@pytest.mark.parametrize("hint", [None, True, False])
def test_causal_mask_is_recognised(mask, hint):
    expected = torch.nn.modules.transformer._detect_is_causal_mask(mask, hint, 4)
    assert own._detect_is_causal_mask(as_jax(mask), hint, 4) == expected


def test_errors():
    model = nn.Transformer(E, HEADS, 1, 1, 16).eval()
    x = jnp.ones((S, N, E))
    with pytest.raises(RuntimeError, match="batch number"):
        model(x, x[:, :2])
    with pytest.raises(RuntimeError, match="d_model"):
        model(x, x[..., :4])
    with pytest.raises(RuntimeError, match="relu/gelu"):
        nn.TransformerEncoderLayer(E, HEADS, activation="swish")
    with pytest.raises(AssertionError, match="TransformerEncoder: mask"):
        model.encoder(x, mask=jnp.ones((S, S), jnp.int32))


def test_subsequent_mask():
    for dtype in (None, "bfloat16"):
        expected = CAUSAL(3, dtype=None if dtype is None else getattr(torch, dtype))
        result = nn.Transformer.generate_square_subsequent_mask(3, dtype=dtype)
        assert str(result.dtype) == (dtype or "float32")
        np.testing.assert_array_equal(np.asarray(result, np.float32), expected.float().numpy())
