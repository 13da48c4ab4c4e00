"""Losses: kinks, floors, special targets, errors, jit's NaN, the deprecated flags; the broad sweep is parity's."""

import functools
import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F
from jaxnn.functional._loss import total
from jaxnn.lowering.evaluating import Evaluation
from tests.oracle import assert_parity

LOSSES = [
    name
    for name in dir(F)
    if name[0] != "_" and name.endswith(("_loss", "_entropy", "_with_logits")) or name == "kl_div"
]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_signatures_are_torchs(torch):
    assert len(LOSSES) == 22
    for name in LOSSES:
        ours, theirs = (inspect.signature(getattr(home, name)).parameters for home in (F, torch.nn.functional))
        assert list(ours) == list(theirs), name
        for argument in ours:
            assert ours[argument].default == theirs[argument].default or ours[argument].default is None, (
                name,
                argument,
            )
            assert ours[argument].kind == theirs[argument].kind


KINKS = {
    "l1": ("l1_loss", [0.0, 1.0, -1.0], [0.0, 0.0, 0.0], {}),
    "smooth_l1": ("smooth_l1_loss", [0.0, 1.0, -1.0, 0.5, 2.0], [0.0] * 5, {}),
    "smooth_l1 without parabola": ("smooth_l1_loss", [0.0, 1.0, -1.0], [0.0] * 3, {"beta": 0.0}),
    "huber": ("huber_loss", [0.0, 2.0, -2.0, 0.5, 3.0], [0.0] * 5, {"delta": 2.0}),
    "hinge": ("hinge_embedding_loss", [0.0, 1.0, 2.0, 1.0], [-1.0, -1.0, -1.0, 1.0], {}),
    "soft margin": ("soft_margin_loss", [0.0, 30.0, -30.0], [1.0, 1.0, 1.0], {}),
    "certain": ("binary_cross_entropy", [0.0, 1.0, 0.0, 1.0, 1e-30, 0.5], [0.0, 1.0, 1.0, 0.0, 1.0, 0.25], {}),
    "logits": ("binary_cross_entropy_with_logits", [0.0, 200.0, -200.0], [0.5, 0.0, 1.0], {}),
    "counts": ("poisson_nll_loss", [0.0, 1.0, -1.0], [2.0, 1.0, 0.0], {"full": True}),
    "divergence": ("kl_div", [-1.0, -2.0, -3.0], [0.0, 0.5, 1.0], {"reduction": "sum"}),
}


@pytest.mark.parametrize("name, input, target, kwargs", KINKS.values(), ids=KINKS)
def test_kinks_and_floors(torch, name, input, target, kwargs):
    target = np.float32(target)
    assert_parity(
        lambda x: getattr(F, name)(x, jnp.asarray(target), **kwargs),
        lambda x: getattr(torch.nn.functional, name)(x, torch.from_numpy(target).to(x.dtype), **kwargs),
        np.float32(input),
        second=name in ("huber_loss", "poisson_nll_loss", "binary_cross_entropy_with_logits"),
    )


@pytest.mark.parametrize("p", [1, 2])
def test_margins_met_exactly(torch, p):
    x = np.float32([[0.0, 1.0, 2.0], [3.0, 3.0, 3.0]])
    y, many = np.array([2, 1]), np.array([[2, 2, -1], [-1, 0, 0]])
    TF = torch.nn.functional
    assert_parity(lambda x, y: F.multi_margin_loss(x, y, p=p), lambda x, y: TF.multi_margin_loss(x, y, p=p), x, y)
    assert_parity(F.multilabel_margin_loss, TF.multilabel_margin_loss, x, many)
    ones = np.ones(2, np.float32)
    assert_parity(F.margin_ranking_loss, TF.margin_ranking_loss, np.float32([1.0, 2.0]), np.float32([1.0, 1.0]), ones)


def test_soft_margin_does_not_overflow():
    loss, grad = jax.value_and_grad(F.soft_margin_loss)(jnp.array(200.0), jnp.array(-1.0))
    assert loss == 200.0 and grad == 1.0


def test_variance_below_eps_keeps_its_gradient(torch):
    x, y, var = np.zeros(3, np.float32), np.ones(3, np.float32), np.float32([1e-9, 0.5, 2.0])
    assert_parity(F.gaussian_nll_loss, torch.nn.functional.gaussian_nll_loss, x, y, var, full=True)


@pytest.mark.parametrize("reduction, smoothing", [("none", 0.2), ("mean", 0.0), ("mean", 0.2), ("sum", 0.2)])
def test_cross_entropy_ignores(torch, reduction, smoothing):
    x, weight = draw(3, 4, 5), np.abs(draw(4, seed=1))
    y = np.array([[0, 1, 2, 3, -100], [3, 3, -100, 0, 1], [2, 2, 2, 2, 2]])
    kwargs = dict(reduction=reduction, label_smoothing=smoothing)
    TF = torch.nn.functional
    assert_parity(F.cross_entropy, TF.cross_entropy, x, y, weight=weight, **kwargs)
    assert_parity(F.cross_entropy, TF.cross_entropy, x, np.full((3, 5), 2), ignore_index=2, **kwargs)  # nothing left
    assert_parity(F.cross_entropy, TF.cross_entropy, x[0, :, 0], np.array(3), **kwargs)
    one = x[0, :, 0]
    assert F.cross_entropy(one, np.array([3]), **kwargs) == F.cross_entropy(one, np.array(3), **kwargs)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_cross_entropy_of_nothing(torch, reduction):
    for shape in [(0, 4), (0, 4, 2), (2, 4, 0)]:
        x, classes = np.zeros(shape, np.float32), np.zeros((shape[0], *shape[2:]), np.int64)
        for name, y in [("cross_entropy", classes), ("nll_loss", classes), ("cross_entropy", x)]:
            ours = getattr(F, name)(x, y, reduction=reduction)
            theirs = getattr(torch.nn.functional, name)(*map(torch.from_numpy, (x, y)), reduction=reduction)
            np.testing.assert_array_equal(ours, theirs.numpy())


def test_cross_entropy_of_extreme_scores(torch):
    x, y = np.float32([[1e4, -1e4, 0.0], [-np.inf, 0.0, 1.0]]), np.array([0, 2])
    assert_parity(F.cross_entropy, torch.nn.functional.cross_entropy, x, y)


def test_cross_entropy_gradient_has_no_scatter():
    """On the CPU the class is picked by gather and differentiated by a mask; elsewhere by a mask both times."""
    step = jax.jit(jax.value_and_grad(F.cross_entropy))
    for platform, gathers in [("cpu", True), ("cuda", False), ("tpu", False)]:
        text = jax.export.export(step, platforms=[platform])(draw(4, 7), jnp.zeros(4, int)).mlir_module()
        assert ("stablehlo.gather" in text) == gathers and "stablehlo.scatter" not in text


@pytest.mark.parametrize("options", [{}, {"ignore_index": 1}, {"label_smoothing": 0.1}, {"reduction": "none"}], ids=str)
def test_cross_entropy_of_other_platforms_programs(options):
    """The class is picked by a mask: also among scores of -inf, and for targets that are no class."""
    least = -50.0 if "label_smoothing" in options else -jnp.inf  # of which a part would be an infinite loss
    scores = jnp.asarray(draw(5, 7)).at[0, 3].set(least).at[4, 1].set(least)
    target = jnp.array([0, 1, 6, 9 if "reduction" in options else 3, 2])

    def both(scores, target):
        loss, pull = jax.vjp(lambda scores: F.cross_entropy(scores, target, **options), scores)
        return loss, *pull(jnp.ones_like(loss))

    elsewhere = jax.jit(Evaluation("tpu", {}, lambda equation: False, "the test")(both))(scores, target)
    for mine, other in zip(elsewhere, jax.jit(both)(scores, target)):
        assert np.isfinite(other).any()
        np.testing.assert_allclose(mine, other, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("weighted", [False, True])
def test_smoothed_cross_entropy_of_many_scores_on_other_platforms(weighted):
    """The surprise of all classes as a difference of sums, in the normalizer's pass."""
    scores, target = jnp.asarray(draw(6, 300)) + 1000, jnp.array([0, 299, 5, -100, 7, 8])
    weight = jnp.abs(jnp.asarray(draw(300))) if weighted else None

    def both(scores):
        loss, pull = jax.vjp(lambda scores: F.cross_entropy(scores, target, weight, label_smoothing=0.3), scores)
        return loss, *pull(jnp.ones_like(loss))

    elsewhere = Evaluation("tpu", {}, lambda equation: False, "the test")(both)
    for mine, other in zip(jax.jit(elsewhere)(scores), jax.jit(both)(scores)):
        np.testing.assert_allclose(mine, other, rtol=2e-6, atol=2e-7)
    assert str(jax.make_jaxpr(elsewhere)(scores)) != str(jax.make_jaxpr(both)(scores))


def _by_hand(scores, target):
    return -jnp.take_along_axis(jax.nn.log_softmax(scores), target[:, None], 1).mean()


UNDER = {
    "jvp": lambda f, x, t, dx: jax.jvp(lambda x: f(x, t), (x,), (dx,))[1],
    "linearize": lambda f, x, t, dx: jax.linearize(lambda x: f(x, t), x)[1](dx),
    "hessian": lambda f, x, t, dx: jax.jvp(lambda x: jax.grad(f)(x, t), (x,), (dx,))[1],
    "checkpoint": lambda f, x, t, dx: jax.grad(jax.checkpoint(lambda x: f(x * dx, t)))(x),
    "vmap": lambda f, x, t, dx: jax.vmap(jax.grad(f), (1, 0))(jnp.stack([x, dx], 1), jnp.stack([t, t[::-1]])),
    "vmap of targets": lambda f, x, t, dx: jax.vmap(jax.grad(f), (None, 1))(x, jnp.stack([t, t[::-1]], 1)),
}


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("name", UNDER)
def test_cross_entropy_under_transforms(name, platform):
    """The choice of a program for the picked class stands in the way of none, and of no second derivative."""
    x, dx, target = jnp.asarray(draw(5, 300)), jnp.asarray(draw(5, 300, seed=1)), jnp.array([0, 299, 7, 7, 12])
    run = Evaluation(platform, {}, lambda equation: False, "the test")(functools.partial(UNDER[name], F.cross_entropy))
    got, want = jax.jit(run)(x, target, dx), UNDER[name](_by_hand, x, target, dx)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["cross_entropy", "mse_loss", "binary_cross_entropy_with_logits", "kl_div"])
def test_half_precision_is_rounded_once(torch, name, dtype):
    y = np.array([0, 1, 2, 3] * 8) if name == "cross_entropy" else np.abs(draw(32, 6, seed=1)) % 1
    kwargs = {} if name == "cross_entropy" else {"reduction": "sum"}
    assert_parity(
        getattr(F, name), getattr(torch.nn.functional, name), draw(32, 6), y, dtype=dtype, grad_argnums=(0,), **kwargs
    )


BAD_TARGETS = {
    "cross_entropy": (F.cross_entropy, (3, 4), [0, 1, 4], IndexError),
    "smoothed": (lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1), (3, 4), [0, -1, 1], IndexError),
    "nll_loss": (F.nll_loss, (3, 4), [0, 1, -2], IndexError),
    "nll_loss of 3 dimensions": (F.nll_loss, (1, 4, 3), [[0, 1, 7]], IndexError),
    "multi_margin": (F.multi_margin_loss, (3, 4), [0, 1, 4], RuntimeError),
    "multilabel_margin": (F.multilabel_margin_loss, (1, 4), [[0, -1, 1, 4]], RuntimeError),
}


@pytest.mark.parametrize("function, shape, target, error", BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_targets_out_of_range(function, shape, target, error):
    x, y = jnp.asarray(draw(*shape)), jnp.asarray(target)
    with pytest.raises(error, match="target"):
        function(x, y)
    assert jnp.isnan(jax.jit(function)(x, y))


def test_probabilities_out_of_range():
    for x, y in [([1.5, 0.5], [0.5, 0.5]), ([0.5, -0.1], [0.5, 0.5]), ([0.5, 0.5], [2.0, 0.5])]:
        x, y = jnp.array(x), jnp.array(y)
        with pytest.raises(RuntimeError, match="from 0 to 1"):
            F.binary_cross_entropy(x, y)
        assert jnp.isnan(jax.jit(F.binary_cross_entropy)(x, y))
    with pytest.raises(ValueError, match="negative"):
        F.gaussian_nll_loss(x, y, -x)
    assert jnp.isnan(jax.jit(F.gaussian_nll_loss)(x, y, -x))


def test_second_derivative_of_binary_cross_entropy(torch):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0.1, 0.9, 20).astype(np.float32), rng.uniform(0, 1, 20).astype(np.float32)
    assert_parity(
        F.binary_cross_entropy, torch.nn.functional.binary_cross_entropy, x, y, grad_argnums=(0,), second=True
    )


PAIRS = ["l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss"]


@pytest.mark.parametrize("name", PAIRS)
def test_other_sizes_warn_at_every_call(torch, name):
    x, y = jnp.asarray(draw(3, 4)), jnp.asarray(draw(4, seed=1))
    for _ in range(2):
        with pytest.warns(UserWarning, match="another shape") as record:
            loss = getattr(F, name)(x, y)
        assert record[0].filename == __file__
    with pytest.warns(UserWarning):
        theirs = getattr(torch.nn.functional, name)(torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y)))
    np.testing.assert_allclose(loss, theirs.numpy(), rtol=1e-6)
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="broadcast"):
        getattr(F, name)(x, y[:3])
    with pytest.raises(ValueError, match="weight"):
        F.mse_loss(x, x, weight=y)


@pytest.mark.parametrize(
    "size_average, reduce, reduction",
    [(None, True, "mean"), (False, None, "sum"), (True, False, "none"), (False, False, "none"), (False, True, "sum")],
)
def test_deprecated_flags(size_average, reduce, reduction):
    x, y = jnp.asarray(draw(3, 4)), jnp.asarray(draw(3, 4, seed=1))
    with pytest.warns(UserWarning, match=f"reduction='{reduction}'") as record:
        loss = F.mse_loss(x, y, size_average, reduce, "sum")
    assert record[0].filename == __file__
    np.testing.assert_array_equal(loss, F.mse_loss(x, y, reduction=reduction))


def test_names_of_reductions():
    x = jnp.asarray(draw(3, 4))
    with pytest.warns(UserWarning, match="elementwise_mean"):
        assert F.mse_loss(x, 2 * x, reduction="elementwise_mean") == F.mse_loss(x, 2 * x)
    with pytest.warns(UserWarning, match="batchmean"):
        F.kl_div(x, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        F.kl_div(x, x, reduction="batchmean")
    for name in ("mse_loss", "kl_div", "poisson_nll_loss", "soft_margin_loss"):
        with pytest.raises(ValueError, match="reduction"):
            getattr(F, name)(x, x, reduction="average")
    with pytest.raises(ValueError, match="reduction"):
        F.poisson_nll_loss(x, x, reduction="elementwise_mean")


ERRORS = {
    "mean of integers": (RuntimeError, lambda x: F.l1_loss(jnp.arange(3), jnp.arange(3))),
    "bools": (RuntimeError, lambda x: F.l1_loss(x, x > 0)),
    "squares of integers": (NotImplementedError, lambda x: F.mse_loss(jnp.arange(3), jnp.arange(3))),
    "negative beta": (RuntimeError, lambda x: F.smooth_l1_loss(x, x, beta=-1.0)),
    "delta of 0": (RuntimeError, lambda x: F.huber_loss(x, x, delta=0)),
    "list": (TypeError, lambda x: F.mse_loss([1.0], x)),
    "batches": (ValueError, lambda x: F.cross_entropy(x, jnp.zeros(2, int))),
    "class dimension": (RuntimeError, lambda x: F.cross_entropy(x, jnp.zeros((3, 1), int))),
    "floating classes": (RuntimeError, lambda x: F.cross_entropy(x, jnp.zeros(3))),
    "ignored probability": (RuntimeError, lambda x: F.cross_entropy(x, x, ignore_index=1)),
    "smoothing": (RuntimeError, lambda x: F.cross_entropy(x, x, label_smoothing=1.5)),
    "class weights": (RuntimeError, lambda x: F.cross_entropy(x, jnp.zeros(3, int), weight=jnp.ones(3))),
    "weight's dtype": (RuntimeError, lambda x: F.nll_loss(x, jnp.zeros(3, int), jnp.ones(4, jnp.bfloat16))),
    "sizes": (ValueError, lambda x: F.binary_cross_entropy_with_logits(x, x[0])),
    "integer target": (RuntimeError, lambda x: F.binary_cross_entropy_with_logits(x, jnp.zeros((3, 4), int))),
    "integers": (RuntimeError, lambda x: F.kl_div(x, jnp.zeros((3, 4), int), reduction="sum")),
    "margin": (ValueError, lambda x: F.triplet_margin_loss(x, x, x, margin=0)),
    "triplet": (RuntimeError, lambda x: F.triplet_margin_loss(x, x, x[0])),
    "target's rank": (RuntimeError, lambda x: F.cosine_embedding_loss(x, x, jnp.ones((3, 1)))),
    "power": (ValueError, lambda x: F.multi_margin_loss(x, jnp.zeros(3, int), p=3)),
    "no dimensions": (IndexError, lambda x: F.multilabel_soft_margin_loss(x[0, 0], x[0, 0])),
    "variance": (ValueError, lambda x: F.gaussian_nll_loss(x, x, jnp.ones(4))),
    "integer variance": (TypeError, lambda x: F.gaussian_nll_loss(x, x, 1)),
}


@pytest.mark.parametrize("error, call", ERRORS.values(), ids=ERRORS)
def test_errors_also_while_tracing(error, call):
    x = jnp.asarray(draw(3, 4))
    with pytest.raises(error):
        call(x)
    with pytest.raises(error):
        jax.eval_shape(call, x)


def test_vmap_over_every_array():
    x, y = jnp.asarray(draw(5, 3, 4)), jnp.asarray(np.random.default_rng(1).integers(0, 4, (5, 3)))
    weight = jnp.abs(jnp.asarray(draw(5, 4, seed=2)))
    batched = jax.vmap(F.cross_entropy)(x, y, weight)
    np.testing.assert_allclose(batched, [F.cross_entropy(*row) for row in zip(x, y, weight)], rtol=1e-6)
    grads = jax.vmap(jax.grad(F.cross_entropy))(x, y, weight)
    np.testing.assert_allclose(grads[2], jax.grad(F.cross_entropy)(x[2], y[2], weight[2]), rtol=1e-5, atol=1e-7)
    probability = jax.nn.sigmoid(x)
    batched = jax.vmap(jax.grad(F.binary_cross_entropy), (0, None))(probability, probability[0])
    np.testing.assert_allclose(batched[0], np.zeros((3, 4)), atol=1e-6)


def test_options_may_be_traced():
    x, y = jnp.asarray(draw(3, 4)), jnp.asarray(draw(3, 4, seed=1))
    for name, option in [("smooth_l1_loss", "beta"), ("huber_loss", "delta"), ("hinge_embedding_loss", "margin")]:
        function = getattr(F, name)
        traced = jax.jit(lambda x, y, value, f=function, o=option: f(x, y, **{o: value}))(x, y, 0.5)
        np.testing.assert_allclose(traced, function(x, y, **{option: 0.5}), rtol=1e-6)
    classes = jnp.array([0, 1, 2])
    smoothed = jax.jit(lambda value: F.cross_entropy(x, classes, label_smoothing=value))(0.2)
    np.testing.assert_allclose(smoothed, F.cross_entropy(x, classes, label_smoothing=0.2), rtol=1e-6)


def test_strict_promotion():
    x, y = jnp.asarray(draw(3, 4)), jnp.abs(jnp.asarray(draw(3, 4, seed=1))) % 1
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for name in ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss", "poisson_nll_loss"):
            getattr(F, name)(x, y)
        F.cross_entropy(x, jnp.zeros(3, int), weight=y[0], label_smoothing=0.1)
        F.cross_entropy(x, y, weight=y[0])
        F.binary_cross_entropy(y, y, weight=y[0])
        F.binary_cross_entropy_with_logits(x, y, pos_weight=y[0])
        F.gaussian_nll_loss(x, y, y[:, :1], full=True)
        F.multi_margin_loss(x, jnp.zeros(3, int), weight=y[0])
        F.multilabel_margin_loss(x, jnp.zeros((3, 4), int))
        F.multilabel_soft_margin_loss(x, y, weight=y[0])
        F.cosine_embedding_loss(x, y, jnp.ones(3, int))
        F.ctc_loss(jax.nn.log_softmax(x[:, None]), jnp.ones((1, 2), int), (3,), (2,))


@pytest.mark.parametrize("count", [2, 9, 128, 256])
def test_a_short_sum_is_rounded_about_once(count):
    # Numbers that cancel: what is left is a thousandth of what was added.
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    values[-1] -= np.float32(values.astype(np.float64).sum() * 0.999)
    truth = values.astype(np.float64).sum()
    for run in (total, jax.jit(total)):
        assert abs(float(run(jnp.asarray(values))) - truth) <= 2**-23 * abs(truth)


def test_a_long_sum_is_one_reduction_off_the_cpu():
    for platform in ("cpu", "cuda", "tpu"):
        lowered = jax.jit(total).trace(jnp.ones(4096)).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.pad" in lowered, lowered.count("stablehlo.reduce")) == (platform == "cpu", 1)


def test_a_short_sum_of_infinities_and_numbers_that_overflow():
    for values in ([1.0, np.inf], [np.inf, -np.inf], [3e38, 3e38], [3e38, 3e38, -3e38], [np.nan, 1.0]):
        values = np.array(values, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = values.astype(np.float64).sum().astype(np.float32)  # what overflows on the way may come back
            np.testing.assert_array_equal(total(jnp.asarray(values)), expected)


@pytest.mark.parametrize("shape", [(2, 4), (4,), (2, 1)], ids=str)
def test_a_hinge_target_that_is_no_sign_counts_as_both(torch, shape):
    x = np.array([[0.5, 2.0, -1.0, 1.0], [3.0, 0.25, np.inf, 0.0]], np.float32)
    target = np.resize(np.array([1, -1, 0, np.nan], np.float32), shape)
    ours, theirs = (functools.partial(home.hinge_embedding_loss, reduction="none") for home in (F, torch.nn.functional))
    assert_parity(ours, theirs, x, target, grad_argnums=(0,))
