"""MultiheadAttention: weights, state_dict, options, modes."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

torch = pytest.importorskip("torch")

OPTIONS = [
    {},
    {"bias": False, "add_zero_attn": True},
    {"add_bias_kv": True},
    {"kdim": 5, "vdim": 7},
    {"kdim": 5, "vdim": 7, "bias": False, "add_bias_kv": True},
]


def pair(*args, **options):
    torch.manual_seed(3)
    theirs = torch.nn.MultiheadAttention(*args, **options)
    nn.manual_seed(3)
    return theirs, nn.MultiheadAttention(*args, **options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_same_weights_and_numbers(options, batch_first):
    theirs, ours = pair(8, 2, batch_first=batch_first, **options)
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    for name, value in ours.state_dict().items():
        np.testing.assert_allclose(value, state[name].numpy(), rtol=3e-7, atol=1e-7)
    assert repr(ours) == repr(theirs)
    torch.manual_seed(0)
    shapes = ((3, 4), (3, 6)) if batch_first else ((4, 3), (6, 3))
    query, key, value = (
        torch.randn(*shape, size)
        for shape, size in zip((shapes[0], *[shapes[1]] * 2), (8, options.get("kdim", 8), options.get("vdim", 8)))
    )
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[:, 4:] = True
    for need_weights in (True, False):
        expected = theirs(query, key, value, key_padding_mask=padding, need_weights=need_weights)
        result = ours(*(jnp.asarray(x) for x in (query, key, value)), jnp.asarray(padding), need_weights)
        np.testing.assert_allclose(result[0], expected[0].detach().numpy(), atol=2e-6)
        if need_weights:
            np.testing.assert_allclose(result[1], expected[1].detach().numpy(), atol=2e-6)
        else:
            assert result[1] is None


def test_unbatched_ignores_batch_first():
    theirs, ours = pair(8, 2, batch_first=True)
    x = torch.randn(4, 8)
    expected, weights = theirs(x, x, x, average_attn_weights=False)
    result, own = ours(*[jnp.asarray(x)] * 3, average_attn_weights=False)
    assert own.shape == weights.shape == (2, 4, 4)
    np.testing.assert_allclose(result, expected.detach().numpy(), atol=2e-6)


def test_dropout_only_in_training():
    model = nn.MultiheadAttention(8, 2, dropout=0.5)
    x = jnp.ones((4, 3, 8))
    assert (model(x, x, x)[1] != model(x, x, x)[1]).any()
    model.eval()
    assert (model(x, x, x)[1] == model(x, x, x)[1]).all()
    step = nn.jit(lambda model, x: model(x, x, x)[1])
    model.train()
    assert (step(model, x) != step(model, x)).any()


def test_jit_keeps_the_packed_projection():
    model = nn.MultiheadAttention(8, 2)
    text = str(jax.make_jaxpr(lambda model, x: model(x, x, x, need_weights=False)[0])(model, jnp.ones((4, 3, 8))))
    assert text.count("dot_general[") == 4


@pytest.mark.parametrize(
    "error, arguments", [(ValueError, (0, 1)), (ValueError, (8, 0)), (AssertionError, (8, 3))], ids=str
)
def test_wrong_sizes(error, arguments):
    with pytest.raises(error, match="MultiheadAttention"):
        nn.MultiheadAttention(*arguments)


def test_copy_and_merge_masks():
    theirs, ours = pair(8, 2, batch_first=True)
    other = copy.deepcopy(ours)
    assert {id(p) for p in other.parameters()}.isdisjoint({id(p) for p in ours.parameters()})
    query, mask, padding = torch.randn(3, 4, 8), torch.randn(4, 4), torch.randn(3, 4)
    for arguments in ((mask, padding), (None, padding), (mask, None), (None, None)):
        expected, kind = theirs.merge_masks(*arguments, query)
        result, own = ours.merge_masks(*(None if a is None else jnp.asarray(a) for a in arguments), jnp.asarray(query))
        assert own == kind
        if expected is not None:
            np.testing.assert_allclose(result, expected.numpy(), atol=1e-6)
