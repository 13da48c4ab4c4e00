"""Gradients that were clipped or unscaled and then dropped: torch changes them in place, so the statement must not pass."""

import functools

import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn

GRADS = {"weight": jnp.array([3.0, 4.0])}


def norm(grads):
    nn.utils.clip_grad_norm_(grads, 1.0)


def norm_by_name(grads):
    nn.utils.clip_grad_norm_(grads, max_norm=1.0)


def norm_with_a_star(grads):
    args = (grads, 1.0)
    nn.utils.clip_grad_norm_(*args)


def value(grads):
    nn.utils.clip_grad_value_(grads, 1.0)


def with_norm(grads):
    nn.utils.clip_grads_with_norm_(grads, 1.0, 5.0)


def in_a_branch(grads):
    if grads:
        nn.utils.clip_grad_norm_(grads, 1.0)
    return grads


def in_a_block(grads):
    with nn.no_grad():
        nn.utils.clip_grad_norm_(grads, 1.0)


def unscaled(grads):
    scaler, optimizer = nn.amp.GradScaler(), nn.optim.SGD(nn.Linear(2, 1), lr=0.1)
    scaler.unscale_(optimizer, grads)


@pytest.mark.parametrize("mode", [lambda f: f, nn.jit, jax.jit], ids=["eager", "nn.jit", "jax.jit"])
@pytest.mark.parametrize(
    "drop", [norm, norm_by_name, norm_with_a_star, value, with_norm, in_a_branch, in_a_block, unscaled]
)
def test_a_dropped_result_is_refused(drop, mode):
    with pytest.raises(RuntimeError, match="the result was dropped.*Write: grads"):
        mode(drop)(GRADS)


def test_in_a_script():
    with pytest.raises(RuntimeError, match=r"Write: grads, norm = clip_grad_norm_\(grads, max_norm\)"):
        exec(compile("nn.utils.clip_grad_norm_(grads, 1.0)", "script", "exec"), {"nn": nn, "grads": GRADS})


def test_results_that_go_somewhere():
    def through(grads):
        return nn.utils.clip_grad_norm_(grads, 1.0)

    def generated(grads):
        yield nn.utils.clip_grad_norm_(grads, 1.0)

    grads, norm = through(GRADS)
    assert float(norm) == 5.0 and float(nn.utils.get_total_norm(grads)) == pytest.approx(1.0)
    kept = [
        nn.utils.clip_grad_norm_(GRADS, 1.0),
        *generated(GRADS),
        (lambda g: nn.utils.clip_grad_norm_(g, 1.0))(GRADS),
    ]
    assert all(float(pair[1]) == 5.0 for pair in kept)
    _ = nn.utils.clip_grad_norm_(GRADS, 1.0)
    print(nn.utils.clip_grad_value_(GRADS, 1.0))
    assert nn.utils.clip_grad_norm_(GRADS, 1.0)[1] == 5.0
    assert eval("nn.utils.clip_grad_norm_(grads, 1.0)", {"nn": nn, "grads": GRADS})[1] == 5.0
    nn.utils.clip_grad_norm_(GRADS, 1.0, error_if_nonfinite=True)  # is there for its error


def test_functions_that_call_it_in_their_turn_may_drop_what_they_return():
    clip, found = functools.partial(nn.utils.clip_grad_value_, clip_value=1.0), []
    found.extend(map(clip, [GRADS]))
    assert float(found[0]["weight"].max()) == 1.0
