"""Distance layers: torch's attributes and repr, and the options reach the function."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F

A, B = jnp.arange(6.0).reshape(2, 3), jnp.array([[1.0, 0.0, 2.0], [3.0, 3.0, 3.0]])


def test_attributes_and_repr_are_torchs():
    torch = pytest.importorskip("torch")
    for name, kwargs in (("PairwiseDistance", {"p": 1.0, "keepdim": True}), ("CosineSimilarity", {"dim": 0})):
        ours, theirs = getattr(nn, name)(**kwargs), getattr(torch.nn, name)(**kwargs)
        assert repr(ours) == repr(theirs)
        for attribute in theirs.__constants__:
            assert getattr(ours, attribute) == getattr(theirs, attribute)


def test_options_reach_the_function():
    np.testing.assert_array_equal(nn.PairwiseDistance(1.0, 0.5, True)(A, B), F.pairwise_distance(A, B, 1.0, 0.5, True))
    np.testing.assert_array_equal(nn.CosineSimilarity(0, 2.0)(A, B), F.cosine_similarity(A, B, 0, 2.0))
