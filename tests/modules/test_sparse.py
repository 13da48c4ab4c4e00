"""Embedding layers: torch's weights, the padding row, renormalisation in the parameter, pretrained tables."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

CASES = [
    ("Embedding", (6, 3), {}),
    ("Embedding", (6, 3), {"padding_idx": -1, "max_norm": 1.0, "norm_type": 1.0, "scale_grad_by_freq": True}),
    ("Embedding", (6, 3), {"padding_idx": 0, "sparse": True}),
    ("EmbeddingBag", (6, 3), {}),
    ("EmbeddingBag", (6, 3), {"mode": "sum", "padding_idx": 2, "max_norm": 1, "include_last_offset": True}),
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("name, args, kwargs", CASES)
def test_weights_repr_and_attributes_are_torchs(torch, name, args, kwargs):
    torch.manual_seed(2)
    nn.manual_seed(2)
    theirs, ours = getattr(torch.nn, name)(*args, **kwargs), getattr(nn, name)(*args, **kwargs)
    assert repr(ours) == repr(theirs)
    np.testing.assert_allclose(ours.weight, theirs.weight.detach().numpy(), rtol=3e-7)
    for attribute in theirs.__constants__:
        assert getattr(ours, attribute) == getattr(theirs, attribute)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["Embedding", "EmbeddingBag"])
def test_max_norm_changes_the_parameter_as_torch_does(torch, name, compiled):
    table = 3 * np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    index = np.array([[0, 2], [2, 5]])
    theirs = getattr(torch.nn, name)(6, 3, max_norm=1.5, _weight=torch.tensor(table))
    ours = getattr(nn, name)(6, 3, max_norm=1.5, _weight=jnp.asarray(table))
    call = nn.jit(lambda m, x: m(x)) if compiled else (lambda m, x: m(x))
    np.testing.assert_allclose(call(ours, jnp.asarray(index)), theirs(torch.from_numpy(index)).detach(), rtol=1e-6)
    np.testing.assert_allclose(ours.weight, theirs.weight.detach().numpy(), rtol=1e-6)
    np.testing.assert_array_equal(ours.weight[1], table[1])


def test_gradients_with_max_norm_are_torchs(torch):
    table = 3 * np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    index = np.array([0, 2, 2])
    theirs = torch.nn.Embedding(6, 3, max_norm=1.5, padding_idx=0, _weight=torch.tensor(table))
    (theirs(torch.from_numpy(index)) ** 2).sum().backward()
    ours = nn.Embedding(6, 3, max_norm=1.5, padding_idx=0, _weight=jnp.asarray(table))
    grads = nn.grad(lambda m: (m(jnp.asarray(index)) ** 2).sum())(ours)
    np.testing.assert_allclose(grads["weight"], theirs.weight.grad.numpy(), rtol=1e-6)
    np.testing.assert_allclose(ours.weight, theirs.weight.detach().numpy(), rtol=1e-6)


def test_padding_row_starts_at_zero_and_stays():
    layer = nn.Embedding(5, 3, padding_idx=1)
    assert not layer.weight[1].any()
    grads = nn.grad(lambda m: m(jnp.array([1, 2])).sum())(layer)
    assert grads["weight"].sum(1).tolist() == [0, 0, 3, 0, 0]


@pytest.mark.parametrize("name", ["Embedding", "EmbeddingBag"])
def test_from_pretrained(name):
    kind, table = getattr(nn, name), jnp.arange(6.0).reshape(3, 2)
    frozen, free = kind.from_pretrained(table), kind.from_pretrained(table, freeze=False)
    assert [p.requires_grad for p in (*frozen.parameters(), *free.parameters())] == [False, True]
    assert (frozen.num_embeddings, frozen.embedding_dim) == (3, 2)
    np.testing.assert_array_equal(frozen(jnp.array([[2]])).ravel(), [4, 5])


def test_errors():
    for kind in (nn.Embedding, nn.EmbeddingBag):
        for bad in ({"padding_idx": 3}, {"padding_idx": -4}, {"_weight": jnp.ones((2, 2))}):
            with pytest.raises(AssertionError, match="expected"):
                kind(3, 2, **bad)
        with pytest.raises(AssertionError, match="2D"):
            kind.from_pretrained(jnp.ones(3))
    with pytest.raises(IndexError, match="0 to 2"):
        nn.Embedding(3, 2)(jnp.array([3]))


def test_a_tied_table_shares_its_gradient():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(4, 3)
            self.head = nn.Linear(3, 4, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.embed(x))

    grads = nn.grad(lambda m: m(jnp.array([1])).sum())(model := Model())
    assert list(grads) == ["embed.weight"]
    expected = np.tile(model.embed.weight[1], (4, 1))
    expected[1] += np.asarray(model.embed.weight).sum(0)
    np.testing.assert_allclose(grads["embed.weight"], expected, rtol=1e-5)
