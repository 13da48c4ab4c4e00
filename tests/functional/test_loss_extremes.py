"""Every loss at infinities, NaN, and huge, tiny and equal numbers: values and gradients, element by element.

Truth is torch in float64, and an element holds where its error is at most 8 times torch's own float32 error, or 2e-5 of its
size; an infinity or NaN holds where torch shows it in float64 or in float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn.functional as F

torch: Any = pytest.importorskip("torch")
TF = torch.nn.functional

INF, NAN = float("inf"), float("nan")
VALUES = np.array([0, 1, -2, 0.5, 1e38, -1e38, 3e38, 2e19, 1e-20, INF, -INF, NAN, -3e38, 40, -90, 200], np.float32)
TARGETS = np.array([0, 1, -1, 0.5, 1e38, -3e38, INF, -INF, NAN, 0.25, 2, 100], np.float32)


class Case(NamedTuple):
    """A loss on arrays; `differentiated` are the positions of those whose gradients are compared."""

    name: str
    call: Callable[..., Any]
    arrays: tuple[np.ndarray, ...]
    differentiated: tuple[int, ...]
    options: dict[str, Any]


def every(*axes: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(array.ravel() for array in np.meshgrid(*axes, indexing="ij"))


def case(name: str, arrays: tuple[Any, ...], differentiated: tuple[int, ...], **options: Any) -> Case:
    def call(home: Any, *given: Any, **options: Any) -> Any:
        return getattr(home, name)(*given, reduction="none", **options)

    return Case(name, call, arrays, differentiated, options)


def cases() -> list[Case]:
    pair, signs = every(VALUES, TARGETS), every(VALUES, np.array([1, -1], np.float32))
    shares = every(VALUES, np.array([0, 1, 0.25], np.float32))
    odds = every(np.array([0, 1, 0.5, 1e-30, 1 - 6e-8, 2e-38], np.float32), np.array([0, 1, 0.5, 0.3], np.float32))
    spread = every(VALUES, TARGETS[:9], np.array([0, 1, 0.5, 1e-20, 1e38, INF], np.float32))
    ranks = every(VALUES, TARGETS[:9], np.array([1, -1], np.float32))
    corners = VALUES[[4, 5, 6, 9, 10, 11]]
    rows = np.array([[v, 1, 2, -3] for v in VALUES] + [[a, b, 0, 1] for a in VALUES for b in corners], np.float32)
    count, rng = len(rows), np.random.default_rng(0)
    labels = np.arange(count) % 4
    two_labels = np.stack([labels, (labels + 1) % 4, np.full(count, -1), np.full(count, -1)], 1)
    probabilities = rng.dirichlet(np.ones(4), count).astype(np.float32)
    some, other = rng.standard_normal((2, count, 4)).astype(np.float32)
    result = [case(name, pair, (0, 1)) for name in ("l1_loss", "mse_loss", "smooth_l1_loss", "huber_loss", "kl_div")]
    result += [case("smooth_l1_loss", pair, (0, 1), beta=beta) for beta in (0.0, 2.5)]
    result += [case("huber_loss", pair, (0, 1), delta=2.5), case("kl_div", pair, (0, 1), log_target=True)]
    result += [case("poisson_nll_loss", pair, (0, 1)), case("poisson_nll_loss", pair, (0, 1), log_input=False)]
    # torch: NaN is the gradient of a target whose masked logarithm is one of a number below 0; here 0.
    result += [case("poisson_nll_loss", pair, (0,), full=True)]
    # torch: overflows from 89 on; here exact.
    moderate = tuple(array[np.isnan(signs[0] * signs[1]) | (-signs[0] * signs[1] < 80)] for array in signs)
    result += [case("soft_margin_loss", moderate, (0,))]
    result += [case("hinge_embedding_loss", given, (0,)) for given in (pair, signs)]
    result += [case("binary_cross_entropy_with_logits", given, (0, 1)) for given in (pair, shares)]
    result += [case("binary_cross_entropy", odds, (0, 1))]
    result += [case("gaussian_nll_loss", spread, (0, 1, 2), full=full) for full in (False, True)]
    result += [case("margin_ranking_loss", ranks, (0, 1), margin=0.5)]
    result += [case(name, (rows, labels), (0,)) for name in ("nll_loss", "cross_entropy", "multi_margin_loss")]
    result += [case("multi_margin_loss", (rows, labels), (0,), p=2, margin=margin) for margin in (1.0, 0.5)]
    result += [case("cross_entropy", (rows, labels), (0,), label_smoothing=0.1)]
    result += [case("cross_entropy", (rows, probabilities), (0, 1))]
    result += [case("multilabel_margin_loss", (rows, two_labels), (0,))]
    result += [case("multilabel_soft_margin_loss", (rows, (probabilities > 0.3).astype(np.float32)), (0, 1))]
    result += [case("cosine_embedding_loss", (rows, some, np.full(count, y)), (0, 1)) for y in (1, -1)]
    for p in (1.0, 2.0, 3.0, INF):
        result += [
            case("triplet_margin_loss", (rows, some, other), (0, 1, 2), p=p, swap=swap) for swap in (False, True)
        ]
    result += [case("triplet_margin_with_distance_loss", (rows, some, other), (0, 1, 2))]
    log_probs = np.log(rng.dirichlet(np.ones(4), (3, 6))).astype(np.float32)
    log_probs[0, 0, 1], log_probs[1, 1, 3], log_probs[:, 2], log_probs[2, 3, 0] = NAN, NAN, -INF, -200
    lengths = (np.array([[1, 2]] * 6), np.full(6, 3), np.full(6, 2))
    return [*result, case("ctc_loss", (log_probs, *lengths), (0,))]


CASES = cases()


def test_every_loss_has_a_case():
    losses = {name for name in dir(F) if name.endswith("_loss") and name[0] != "_"} | {
        "cross_entropy",
        "kl_div",
        "binary_cross_entropy",
    }
    assert losses | {"binary_cross_entropy_with_logits"} == {case.name for case in CASES}


def in_torch(case: Case, dtype: Any) -> list[np.ndarray]:
    given = [torch.tensor(a, dtype=dtype) if a.dtype.kind == "f" else torch.tensor(a) for a in case.arrays]
    wanted = [given[i].requires_grad_() for i in case.differentiated]
    result = case.call(TF, *given, **case.options)
    weight = torch.tensor(weights(result.shape), dtype=dtype)
    grads = torch.autograd.grad((result * weight).sum(), wanted, allow_unused=True)
    return [result.detach().numpy(), *[np.zeros(x.shape) if g is None else g.numpy() for g, x in zip(grads, wanted)]]


def in_jax(case: Case) -> list[np.ndarray]:
    given = [jnp.asarray(a) for a in case.arrays]

    def loss(*values: Any) -> Any:
        places = dict(zip(case.differentiated, values))
        return case.call(F, *[places.get(i, array) for i, array in enumerate(given)], **case.options)

    result, backward = jax.vjp(loss, *[given[i] for i in case.differentiated])
    return [np.asarray(x) for x in (result, *backward(jnp.asarray(weights(result.shape), jnp.float32)))]


def weights(shape: tuple[int, ...]) -> np.ndarray:
    return np.resize(np.cos(np.arange(7)) + 0.2, shape)


def errors(result: np.ndarray, truth: np.ndarray, least: float) -> np.ndarray:
    result = result.astype(np.float64)
    same = (result == truth) | (np.isnan(result) & np.isnan(truth))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(same, 0, np.abs(result - truth) / np.maximum(np.abs(truth), least))
    return np.nan_to_num(error, nan=np.inf, posinf=np.inf)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name + "".join(f"-{v}" for v in case.options.values()))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_extreme_numbers(case):
    # Gradients of vectors are differences of numbers of about 1; those of numbers are judged by their own size.
    least = 1e-3 if case.arrays[0].ndim == 1 else 1.0
    for i, (ours, truth, own) in enumerate(
        zip(in_jax(case), in_torch(case, torch.float64), in_torch(case, torch.float32))
    ):
        mine, theirs = errors(ours, truth, least), errors(own, truth, least)
        as_torch = (ours == own) | (np.isnan(ours) & np.isnan(own))
        wrong = np.argwhere((mine > np.maximum(8 * theirs, 2e-5)) & ~as_torch)
        what = "value" if i == 0 else f"gradient of argument {case.differentiated[i - 1]}"
        shown = [f"{tuple(map(int, at))}: {ours[tuple(at)]} for {truth[tuple(at)]}" for at in wrong[:5]]
        assert not len(wrong), f"{what}: {len(wrong)} of {ours.size} wrong, first {shown}"
