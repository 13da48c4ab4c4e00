"""ctc_loss: every form of targets and lengths, torch's gradient, infinite losses, transforms, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from tests.oracle import assert_parity

T, N, C = 7, 3, 5
TARGETS = np.array([[1, 2, 3], [2, 2, 0], [4, 1, 1]])
INPUTS, LENGTHS = (7, 5, 6), (3, 2, 1)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def log_probs():
    scores = np.random.default_rng(0).standard_normal((T, N, C)).astype(np.float32)
    return np.asarray(jax.nn.log_softmax(scores, axis=2))


@pytest.mark.parametrize(
    "reduction, form, kind",
    [("none", "padded", tuple), ("mean", "padded", np.array), ("mean", "joined", tuple), ("sum", "joined", np.array)],
)
def test_forms(torch, log_probs, reduction, form, kind):
    inside = np.arange(3) < np.array(LENGTHS)[:, None]
    targets = TARGETS if form == "padded" else TARGETS[inside]
    arrays = kind is np.array
    assert_parity(
        lambda x, y: F.ctc_loss(x, y, kind(INPUTS), kind(LENGTHS), reduction=reduction),
        lambda x, y: torch.nn.functional.ctc_loss(
            x, y, *(torch.tensor(v) if arrays else v for v in (INPUTS, LENGTHS)), reduction=reduction
        ),
        log_probs,
        targets,
    )


def test_one_sequence(torch, log_probs):
    for lengths in [(np.array(7), np.array(3)), ((7,), (3,))]:
        assert_parity(
            lambda x, y: F.ctc_loss(x, y, *lengths, reduction="none"),  # noqa: B023
            lambda x, y: torch.nn.functional.ctc_loss(x, y, torch.tensor(7), torch.tensor(3), reduction="none"),
            log_probs[:, 0],
            TARGETS[0],
        )


def test_exact_below_a_log_softmax(torch):
    """Below a log_softmax torch's gradient is the true one: compare with all alignments written out."""
    scores = jnp.asarray(np.random.default_rng(1).standard_normal((3, 1, 3)), jnp.float32)

    def ours(scores):
        return F.ctc_loss(jax.nn.log_softmax(scores), jnp.array([[1, 2]]), (3,), (2,), reduction="sum")

    def written_out(scores):
        p = jax.nn.log_softmax(scores)[:, 0]
        paths = [(1, 2, 0), (1, 0, 2), (0, 1, 2), (1, 1, 2), (1, 2, 2)]
        return -jax.nn.logsumexp(jnp.stack([p[0, a] + p[1, b] + p[2, c] for a, b, c in paths]))

    np.testing.assert_allclose(ours(scores), written_out(scores), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(ours)(scores), jax.grad(written_out)(scores), atol=1e-6)


@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("inputs, lengths", [((2, 5, 6), (3, 2, 1)), ((0, 0, 6), (0, 2, 1)), ((7, 5, 6), (0, 0, 0))])
def test_too_short_and_empty(torch, log_probs, inputs, lengths, zero_infinity):
    assert_parity(
        lambda x, y: F.ctc_loss(x, y, inputs, lengths, reduction="none", zero_infinity=zero_infinity),
        lambda x, y: torch.nn.functional.ctc_loss(x, y, inputs, lengths, reduction="none", zero_infinity=zero_infinity),
        log_probs,
        TARGETS,
    )


def test_impossible_class_has_no_gradient(log_probs):
    """torch gives NaN here."""
    scores = jnp.asarray(log_probs).at[:, :, 3].set(-jnp.inf)
    loss, grad = jax.value_and_grad(lambda x: F.ctc_loss(x[:, 1:], jnp.asarray(TARGETS[1:]), (5, 6), (2, 1)))(scores)
    assert jnp.isfinite(loss) and jnp.isfinite(grad).all()


def test_long_sequences_stay_accurate(torch):
    rng = np.random.default_rng(2)
    x = np.asarray(jax.nn.log_softmax(rng.standard_normal((400, 2, 20)).astype(np.float32) * 3, axis=2))
    y = rng.integers(1, 20, (2, 60))
    assert_parity(
        lambda x, y: F.ctc_loss(x, y, (400, 350), (60, 50)),
        lambda x, y: torch.nn.functional.ctc_loss(x, y, (400, 350), (60, 50)),
        x,
        y,
    )


def test_transforms(log_probs):
    inputs, lengths = jnp.array(INPUTS), jnp.array(LENGTHS)
    eager = F.ctc_loss(log_probs, TARGETS, inputs, lengths)
    np.testing.assert_allclose(jax.jit(F.ctc_loss)(log_probs, TARGETS, inputs, lengths), eager, rtol=1e-6)
    inside = np.arange(3) < np.array(LENGTHS)[:, None]
    np.testing.assert_allclose(jax.jit(F.ctc_loss)(log_probs, TARGETS[inside], inputs, lengths), eager, rtol=1e-6)
    stacked = jnp.stack([log_probs, log_probs[::-1]])
    both = jax.vmap(jax.grad(F.ctc_loss), (0, None, None, 0))(stacked, TARGETS, inputs, jnp.stack([lengths, lengths]))
    np.testing.assert_allclose(
        both[1], jax.grad(F.ctc_loss)(stacked[1], jnp.asarray(TARGETS), inputs, lengths), rtol=1e-5, atol=1e-7
    )


ERRORS = {
    "lengths of two kinds": (TypeError, TARGETS, INPUTS, np.array(LENGTHS), {}),
    "plain int": (TypeError, TARGETS, 7, 3, {}),
    "too few lengths": (RuntimeError, TARGETS, INPUTS[:2], LENGTHS, {}),
    "input too long": (RuntimeError, TARGETS, (8, 5, 6), LENGTHS, {}),
    "target too long": (RuntimeError, TARGETS, INPUTS, (4, 2, 1), {}),
    "negative": (RuntimeError, TARGETS, INPUTS, (-1, 2, 1), {}),
    "floating lengths": (RuntimeError, TARGETS, np.float32(INPUTS), np.float32(LENGTHS), {}),
    "sum of lengths": (RuntimeError, TARGETS.ravel(), INPUTS, LENGTHS, {}),
    "batch": (RuntimeError, TARGETS[:2], INPUTS, LENGTHS, {}),
    "blank": (RuntimeError, TARGETS, INPUTS, LENGTHS, {"blank": C}),
    "class": (IndexError, TARGETS + C, INPUTS, LENGTHS, {}),
    "reduction": (ValueError, TARGETS, INPUTS, LENGTHS, {"reduction": "average"}),
}


@pytest.mark.parametrize("error, targets, inputs, lengths, kwargs", ERRORS.values(), ids=ERRORS)
def test_errors(log_probs, error, targets, inputs, lengths, kwargs):
    with pytest.raises(error):
        F.ctc_loss(log_probs, targets, inputs, lengths, **kwargs)


def test_what_cannot_raise_under_jit_is_nan(log_probs):
    run = jax.jit(lambda y, inputs, lengths: F.ctc_loss(log_probs, y, inputs, lengths))
    inputs, lengths = jnp.array(INPUTS), jnp.array(LENGTHS)
    assert jnp.isnan(run(TARGETS + C, inputs, lengths))
    assert jnp.isnan(run(TARGETS, inputs + 3, lengths))
    assert jnp.isnan(run(TARGETS, inputs, lengths + 3))
    assert jnp.isnan(run(TARGETS.ravel()[:5], inputs, lengths))
