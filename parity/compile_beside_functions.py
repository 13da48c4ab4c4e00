"""Activations, losses, distances and dropout beside plain JAX; see `compile_beside`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from parity.compile_row import HIGHEST, Arrays, F, Row, key_of

_TOKENS = {"x": (4096, 768)}
_PAIR = {"x": (4096, 768), "y": (4096, 768)}
_SCORES = {"x": (4096, 768), "target_i": (4096,)}
_Formula = Callable[[Arrays], Any]


def _log_softmax_of(x: Any, target: Any) -> Any:
    return jnp.take_along_axis(jax.nn.log_softmax(x), target[:, None], 1)


def _signs(a: Arrays) -> Any:
    return jnp.where(a.target_i % 2 == 0, 1.0, -1.0)


def _distance(x: Any, y: Any) -> Any:
    return jnp.sqrt(jnp.square(x - y + 1e-6).sum(1))


def _cosine(x: Any, y: Any) -> Any:
    return (x * y).sum(1) * lax.rsqrt((jnp.square(x).sum(1) + 1e-12) * (jnp.square(y).sum(1) + 1e-12))


def _margins(a: Arrays) -> Any:
    own = jnp.take_along_axis(a.x, a.target_i[:, None], 1)
    others = jnp.arange(a.x.shape[1]) != a.target_i[:, None]
    return (jnp.maximum(1 - own + a.x, 0) * others).sum(1).mean() / a.x.shape[1]


def _pairs(a: Arrays) -> Any:
    """From all differences, which XLA sums as it forms them: to gather the rows of all pairs moves ten times the bytes."""
    left, right = np.triu_indices(a.x.shape[0], 1)
    return jnp.sqrt(jnp.square(a.x[:, None] - a.x).sum(-1)[left, right])


def _ctc(a: Arrays) -> Any:
    """Alphas over the labels with blanks between, as in Graves et al. (2006); all of full length."""
    time, batch, _ = a.x.shape
    labels = a.target_i.shape[1]
    scores = jax.nn.log_softmax(a.x)
    target = a.target_i % (a.x.shape[2] - 1) + 1
    extended = jnp.zeros((batch, 2 * labels + 1), jnp.int32).at[:, 1::2].set(target)
    skips = jnp.concatenate([jnp.zeros((batch, 2), bool), (extended[:, 2:] != extended[:, :-2])], 1)
    skips &= jnp.arange(2 * labels + 1) % 2 == 1
    never = -1e30
    emitted = jnp.take_along_axis(scores, jnp.broadcast_to(extended, (time, *extended.shape)), 2)

    def step(alpha: Any, emitted: Any) -> Any:
        one = jnp.pad(alpha, ((0, 0), (1, 0)), constant_values=never)[:, :-1]
        two = jnp.where(skips, jnp.pad(alpha, ((0, 0), (2, 0)), constant_values=never)[:, :-2], never)
        return jnp.logaddexp(jnp.logaddexp(alpha, one), two) + emitted, None

    start = jnp.where(jnp.arange(2 * labels + 1) < 2, emitted[0], never)
    alpha = lax.scan(step, start, emitted[1:])[0]
    return (-jnp.logaddexp(alpha[:, -1], alpha[:, -2]) / labels).mean()


def _ctc_ours(a: Arrays) -> Any:
    time, batch, classes = a.x.shape
    target = a.target_i % (classes - 1) + 1
    lengths = (time,) * batch, (target.shape[1],) * batch
    return F.ctc_loss(F.log_softmax(a.x, -1), target, *lengths)


def _drop(a: Arrays, shape: tuple[int, ...]) -> Any:
    return jnp.where(jax.random.bernoulli(key_of(a), 0.9, shape), a.x / 0.9, 0)


_ACTIVATIONS: dict[str, tuple[_Formula, _Formula]] = {
    "celu": (lambda a: F.celu(a.x), lambda a: jax.nn.celu(a.x)),
    "elu": (lambda a: F.elu(a.x), lambda a: jax.nn.elu(a.x)),
    "selu": (lambda a: F.selu(a.x), lambda a: jax.nn.selu(a.x)),
    "glu": (lambda a: F.glu(a.x), lambda a: jax.nn.glu(a.x)),
    "hardshrink": (lambda a: F.hardshrink(a.x), lambda a: jnp.where(jnp.abs(a.x) > 0.5, a.x, 0)),
    "hardsigmoid": (lambda a: F.hardsigmoid(a.x), lambda a: jax.nn.hard_sigmoid(a.x)),
    "hardswish": (lambda a: F.hardswish(a.x), lambda a: jax.nn.hard_silu(a.x)),
    "hardtanh": (lambda a: F.hardtanh(a.x), lambda a: jnp.clip(a.x, -1, 1)),
    "leaky_relu": (lambda a: F.leaky_relu(a.x), lambda a: jax.nn.leaky_relu(a.x)),
    "logsigmoid": (lambda a: F.logsigmoid(a.x), lambda a: jax.nn.log_sigmoid(a.x)),
    "mish": (lambda a: F.mish(a.x), lambda a: jax.nn.mish(a.x)),
    "relu6": (lambda a: F.relu6(a.x), lambda a: jax.nn.relu6(a.x)),
    "sigmoid": (lambda a: F.sigmoid(a.x), lambda a: jax.nn.sigmoid(a.x)),
    "softmin": (lambda a: F.softmin(a.x, -1), lambda a: jax.nn.softmax(-a.x)),
    "softshrink": (lambda a: F.softshrink(a.x), lambda a: jnp.sign(a.x) * jnp.maximum(jnp.abs(a.x) - 0.5, 0)),
    "softsign": (lambda a: F.softsign(a.x), lambda a: jax.nn.soft_sign(a.x)),
    "tanh": (lambda a: F.tanh(a.x), lambda a: jnp.tanh(a.x)),
    "tanhshrink": (lambda a: F.tanhshrink(a.x), lambda a: a.x - jnp.tanh(a.x)),
    "threshold": (lambda a: F.threshold(a.x, 0.1, 20.0), lambda a: jnp.where(a.x > 0.1, a.x, 20.0)),
}
_LOSSES: dict[str, tuple[dict[str, tuple[int, ...]], _Formula, _Formula]] = {
    "l1_loss": (_PAIR, lambda a: F.l1_loss(a.x, a.y), lambda a: jnp.abs(a.x - a.y).mean()),
    "smooth_l1_loss": (
        _PAIR,
        lambda a: F.smooth_l1_loss(a.x, a.y),
        lambda a: jnp.where((d := jnp.abs(a.x - a.y)) < 1, 0.5 * d * d, d - 0.5).mean(),
    ),
    "huber_loss": (
        _PAIR,
        lambda a: F.huber_loss(a.x, a.y, delta=2.0),
        lambda a: jnp.where((d := jnp.abs(a.x - a.y)) < 2, 0.5 * d * d, 2 * (d - 1)).mean(),
    ),
    "kl_div": (
        _PAIR,
        lambda a: F.kl_div(a.x, a.y, reduction="batchmean", log_target=True),
        lambda a: (jnp.exp(a.y) * (a.y - a.x)).sum() / a.x.shape[0],
    ),
    "nll_loss": (
        _SCORES,
        lambda a: F.nll_loss(a.x, a.target_i),
        lambda a: -jnp.take_along_axis(a.x, a.target_i[:, None], 1).mean(),
    ),
    "cross_entropy smoothed": (
        _SCORES,
        lambda a: F.cross_entropy(a.x, a.target_i, label_smoothing=0.1),
        lambda a: -(0.9 * _log_softmax_of(a.x, a.target_i)[:, 0] + 0.1 * jax.nn.log_softmax(a.x).mean(1)).mean(),
    ),
    "cross_entropy of probabilities": (
        _PAIR,
        lambda a: F.cross_entropy(a.x, a.y),
        lambda a: -(a.y * jax.nn.log_softmax(a.x)).sum(1).mean(),
    ),
    "poisson_nll_loss": (
        _PAIR,
        lambda a: F.poisson_nll_loss(a.x, a.y),
        lambda a: (jnp.exp(a.x) - a.y * a.x).mean(),
    ),
    "gaussian_nll_loss": (
        _PAIR | {"z": (4096, 768)},
        lambda a: F.gaussian_nll_loss(a.x, a.y, jnp.square(a.z)),
        lambda a: (0.5 * (jnp.log(v := jnp.maximum(jnp.square(a.z), 1e-6)) + jnp.square(a.x - a.y) / v)).mean(),
    ),
    "binary_cross_entropy": (
        _PAIR,
        lambda a: F.binary_cross_entropy(jax.nn.sigmoid(a.x), a.y),
        lambda a: (
            (a.y - 1) * jnp.maximum(jnp.log1p(-(p := jax.nn.sigmoid(a.x))), -100) - a.y * jnp.maximum(jnp.log(p), -100)
        ).mean(),
    ),
    "hinge_embedding_loss": (
        {"x": (4096, 768), "target_i": (4096, 768)},
        lambda a: F.hinge_embedding_loss(a.x, _signs(a)),
        lambda a: jnp.where(_signs(a) > 0, a.x, jnp.maximum(1 - a.x, 0)).mean(),
    ),
    "margin_ranking_loss": (
        _PAIR | {"target_i": (4096,)},
        lambda a: F.margin_ranking_loss(a.x, a.y, _signs(a)[:, None]),
        lambda a: jnp.maximum(-_signs(a)[:, None] * (a.x - a.y), 0).mean(),
    ),
    "soft_margin_loss": (
        _SCORES,
        lambda a: F.soft_margin_loss(a.x, jnp.broadcast_to(_signs(a)[:, None], a.x.shape)),
        lambda a: jax.nn.softplus(-_signs(a)[:, None] * a.x).mean(),
    ),
    "multi_margin_loss": (_SCORES, lambda a: F.multi_margin_loss(a.x, a.target_i), _margins),
    "multilabel_soft_margin_loss": (
        _PAIR,
        lambda a: F.multilabel_soft_margin_loss(a.x, a.y),
        lambda a: -(a.y * jax.nn.log_sigmoid(a.x) + (1 - a.y) * jax.nn.log_sigmoid(-a.x)).mean(1).mean(),
    ),
    "triplet_margin_loss": (
        _PAIR | {"z": (4096, 768)},
        lambda a: F.triplet_margin_loss(a.x, a.y, a.z),
        lambda a: jnp.maximum(_distance(a.x, a.y) - _distance(a.x, a.z) + 1, 0).mean(),
    ),
    "cosine_embedding_loss": (
        _PAIR | {"target_i": (4096,)},
        lambda a: F.cosine_embedding_loss(a.x, a.y, _signs(a)),
        lambda a: jnp.where(_signs(a) > 0, 1 - (c := _cosine(a.x, a.y)), jnp.maximum(c, 0)).mean(),
    ),
    "ctc_loss": ({"x": (128, 32, 64), "target_i": (32, 24)}, _ctc_ours, _ctc),
    "linear_cross_entropy": (
        {"x": (512, 128), "w": (2048, 128), "target_i": (512,)},
        lambda a: F.linear_cross_entropy(a.x, a.w, a.target_i),
        lambda a: -_log_softmax_of(jnp.matmul(a.x, a.w.T, precision=HIGHEST), a.target_i).mean(),
    ),
}

FUNCTIONS = (
    *(Row(name, "activation", _TOKENS, ours, plain) for name, (ours, plain) in _ACTIVATIONS.items()),
    Row(
        "prelu",
        "activation",
        _TOKENS | {"w": (768,)},
        lambda a: F.prelu(a.x, a.w),
        lambda a: jnp.where(a.x > 0, a.x, a.w * a.x),
    ),
    *(Row(name, "loss", *row) for name, row in _LOSSES.items()),
    Row("pairwise_distance", "distance", _PAIR, lambda a: F.pairwise_distance(a.x, a.y), lambda a: _distance(a.x, a.y)),
    Row("pdist", "distance", {"x": (256, 128)}, lambda a: F.pdist(a.x), _pairs),
    Row(
        "normalize",
        "normalization",
        _TOKENS,
        lambda a: F.normalize(a.x),
        lambda a: a.x / jnp.maximum(jnp.linalg.norm(a.x, axis=1, keepdims=True), 1e-12),
    ),
    Row(
        "dropout",
        "dropout",
        _TOKENS | {"key_i": (2,)},
        lambda a: F.dropout(a.x, 0.1, key=key_of(a)),
        lambda a: _drop(a, a.x.shape),
    ),
    Row(
        "dropout2d",
        "dropout",
        {"x": (16, 64, 32, 32), "key_i": (2,)},
        lambda a: F.dropout2d(a.x, 0.1, key=key_of(a)),
        lambda a: _drop(a, (16, 64, 1, 1)),
    ),
)
