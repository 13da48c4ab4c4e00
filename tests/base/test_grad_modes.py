"""no_grad and its kin: nested, as decorators, under every transform, and the proof that nothing is kept in memory.

tests/core/test_random_and_modes.py has what they do to one call.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from tests.runners import every_runner

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
MODES = {
    "no_grad": (nn.no_grad, False),
    "inference_mode": (nn.inference_mode, False),
    "set_grad_enabled(False)": (lambda: nn.set_grad_enabled(False), False),
    "enable_grad": (nn.enable_grad, True),
    "set_grad_enabled(True)": (lambda: nn.set_grad_enabled(True), True),
}
every_mode = pytest.mark.parametrize("mode, flows", MODES.values(), ids=MODES.keys())


def size(grads):
    return float(sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(grads)))


@every_runner
@every_mode
@pytest.mark.parametrize("outer, outer_flows", MODES.values(), ids=MODES.keys())
def test_the_inner_of_two_nested_modes_decides(run, mode, flows, outer, outer_flows):
    model = nn.Linear(3, 2)

    def loss(m, x):
        with outer():
            with mode():
                assert nn.is_grad_enabled() == flows
                y = m(x)
            assert nn.is_grad_enabled() == outer_flows
        assert nn.is_grad_enabled()
        return y.sum()

    assert (size(run.wrap(lambda m, x: nn.grad(loss)(m, x))(model, X)) > 0) == flows


DECORATORS = {
    "no_grad": (nn.no_grad, False),
    "no_grad()": (nn.no_grad(), False),
    "inference_mode": (nn.inference_mode, False),
    "inference_mode()": (nn.inference_mode(), False),
    "inference_mode(False)": (nn.inference_mode(False), True),
    "enable_grad": (nn.enable_grad, True),
    "enable_grad()": (nn.enable_grad(), True),
}


def setting(flag):
    """set_grad_enabled takes effect when it is made, so it is made where it decorates."""
    return lambda function: nn.set_grad_enabled(flag)(function)


@every_runner
@pytest.mark.parametrize(
    "decorator, flows",
    [*DECORATORS.values(), (setting(False), False), (setting(True), True)],
    ids=[*DECORATORS, "set_grad_enabled(False)", "set_grad_enabled(True)"],
)
def test_as_a_decorator_a_mode_holds_for_the_function_and_keeps_its_name(run, decorator, flows):
    model = nn.Linear(3, 2)

    @decorator
    def features(m, x):
        """Text."""
        assert nn.is_grad_enabled() == flows
        return {"y": (m(x), m.weight * 2), "text": "kept"}  # what jax.numpy makes is covered too

    assert features.__name__ == "features" and features.__doc__ == "Text."
    assert nn.is_grad_enabled()

    def loss(m, x):
        out = features(m, x)
        assert out["text"] == "kept"
        return out["y"][0].sum() + out["y"][1].sum()

    for _ in range(2):
        assert (size(run.wrap(lambda m, x: nn.grad(loss)(m, x))(model, X)) > 0) == flows
    assert nn.is_grad_enabled()


@every_runner
@pytest.mark.parametrize("decorator, flows", DECORATORS.values(), ids=DECORATORS)
def test_a_decorated_generator_is_in_the_mode_only_while_it_runs(run, decorator, flows):
    seen = []

    @decorator
    def features(m, x):
        try:
            while True:
                seen.append(nn.is_grad_enabled())
                x = (yield m(x)) or x
        except ZeroDivisionError:
            yield m.bias
        finally:
            seen.append(nn.is_grad_enabled())

    def loss(m, x):
        generator = features(m, x)
        total = next(generator).sum()
        assert nn.is_grad_enabled()  # the caller's own mode
        total = total + next(generator).sum() + generator.throw(ZeroDivisionError).sum()
        generator.close()
        return total

    grads = run.wrap(lambda m, x: nn.grad(loss)(m, x))(nn.Linear(3, 3), X)
    assert (size(grads) > 0) == flows and set(seen) == {flows} and len(seen) == 3

    @decorator
    def counting():
        got = []
        while len(got) < 2:
            got.append((yield len(got)))
        return got

    generator = counting()
    assert [next(generator), generator.send("a")] == [0, 1]
    with pytest.raises(StopIteration) as stop:
        generator.send("b")
    assert stop.value.value == ["a", "b"]


@every_mode
def test_a_mode_ends_with_an_exception_and_holds_for_methods(mode, flows):
    class Model(nn.Linear):
        @mode()
        def fixed(self, x):
            return self(x)

        @mode()
        def fails(self):
            raise ZeroDivisionError

    model = Model(3, 2)
    with pytest.raises(ZeroDivisionError):
        model.fails()
    with pytest.raises(ZeroDivisionError), mode():
        raise ZeroDivisionError
    assert nn.is_grad_enabled() and not nn.is_inference_mode_enabled()
    assert (size(nn.grad(lambda m: m.fixed(X).sum())(model)) > 0) == flows


def test_set_grad_enabled_alone_holds_until_it_is_called_again():
    model = nn.Linear(3, 2)
    try:
        nn.set_grad_enabled(False)
        assert not nn.is_grad_enabled() and size(nn.grad(lambda m: m(X).sum())(model)) == 0
        with nn.enable_grad():
            assert size(nn.grad(lambda m: m(X).sum())(model)) > 0
    finally:
        nn.set_grad_enabled(True)
    assert size(nn.grad(lambda m: m(X).sum())(model)) > 0


def test_threads_have_their_own_mode():
    import threading

    seen = []
    with nn.no_grad():
        thread = threading.Thread(target=lambda: seen.append(nn.is_grad_enabled()))
        thread.start(), thread.join()
        assert not nn.is_grad_enabled()
    assert seen == [True]


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, nn.jit, nn.checkpoint], ids=["-", "jit", "nn.jit", "ckpt"])
def test_gradients_stop_at_every_level_of_transforms(transform):
    model = nn.Linear(3, 3)

    def inner(m, x):
        with nn.no_grad():
            return m(x)

    def loss(m, x):
        return (transform(inner)(m, x) * m.bias).sum()

    grads = nn.grad(loss)(model, X)
    assert size(grads["weight"]) == 0
    np.testing.assert_allclose(grads["bias"], model(X).sum(0), rtol=1e-5)
    each = jax.vmap(lambda x: jax.grad(lambda x: inner(model, x).sum() + x.sum())(x))(X)
    np.testing.assert_array_equal(each, np.ones((4, 3)))
    second = jax.hessian(lambda x: inner(model, x).sum() + (x**3).sum())(X[0])
    np.testing.assert_allclose(second, np.diag(6 * X[0]), rtol=1e-5)


# -- memory ---------------------------------------------------------------------------------------------------------


def tower(depth=6, width=64):
    return nn.Sequential(*[module for _ in range(depth) for module in (nn.Linear(width, width), nn.Tanh())])


def residual_bytes(loss, *args):
    """Bytes that the forward pass keeps for the backward pass, beside its own inputs."""
    inputs = {id(leaf) for leaf in jax.tree.leaves(args)}
    _, pullback = jax.vjp(loss, *args)
    kept = {id(leaf): leaf for leaf in jax.tree.leaves(pullback) if id(leaf) not in inputs}
    return sum(leaf.nbytes for leaf in kept.values())


def head_on_features(frozen):
    """A loss whose features come from a tower, with or without gradients through it."""
    model = tower()
    params = {name: box.value for name, box in model.named_parameters()}

    def loss(params, head, x):
        if frozen:
            with nn.no_grad():
                features = nn.functional_call(model, params, x)
        else:
            features = nn.functional_call(model, params, x)
        return (features @ head).sum()

    return loss, (params, jnp.ones((64, 1)), jnp.ones((4096, 64)))


def test_no_grad_keeps_no_residuals():
    activation = 4096 * 64 * 4
    loss, args = head_on_features(frozen=False)
    assert residual_bytes(loss, *args) >= 6 * activation
    loss, args = head_on_features(frozen=True)
    assert residual_bytes(loss, *args) <= 1 * activation  # the features, which the head's gradient needs


def test_no_grad_leaves_the_compiled_step_no_activations_to_hold():
    def temporary(frozen):
        loss, args = head_on_features(frozen)
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*args).compile()
        analysis = compiled.memory_analysis()
        if analysis is None:
            pytest.skip("this backend does not analyse memory")
        return analysis.temp_size_in_bytes

    activation = 4096 * 64 * 4
    assert temporary(True) <= 3 * activation < 6 * activation <= temporary(False)


@pytest.mark.parametrize("mode", [nn.no_grad, nn.inference_mode], ids=["no_grad", "inference_mode"])
def test_the_compiled_forward_is_the_same_program_with_gradients_off(mode):
    model = tower(2, 8).eval()

    def off(m, x):
        with mode():
            return m(x)

    on = jax.jit(lambda m, x: m(x)).lower(model, jnp.ones((4, 8))).compile().as_text()
    without = jax.jit(off).lower(model, jnp.ones((4, 8))).compile().as_text()
    count = lambda text: sorted(line.split("=")[1].split("(")[0] for line in text.splitlines() if " = " in line)  # noqa: E731
    assert count(on) == count(without)


def test_the_gradient_of_a_frozen_tower_has_no_product_of_its_backward_pass():
    def products(frozen):
        loss, args = head_on_features(frozen)
        return str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(*args)).count("dot_general[")

    assert products(True) == 6 + 2  # forwards, and the head both ways
    assert products(False) == 6 + 3 + 2 * 6 - 1  # and two for each layer, but none for the input


def test_functions_and_modules_stop_alike():
    weight = jnp.ones((2, 3))
    with nn.no_grad():
        assert size(jax.grad(lambda w: F.linear(X, w).sum())(weight)) == 0
        assert size(jax.grad(lambda w: (X @ w.T).sum())(weight)) > 0  # jax.numpy is not ours to stop
    assert size(jax.grad(nn.no_grad(lambda w: (X @ w.T).sum()))(weight)) == 0
