"""A program chosen when it is lowered: the target's own, in values, derivatives of any order and JAX's transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import jet
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads

from jaxnn.lowering.by_platform import WithGradient, by_platform

COMPILATION = "full"  # see conftest.py

X = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, (4, 3)), jnp.float32)
WEIGHT = jnp.asarray(np.random.default_rng(1).uniform(0.5, 1.5, (4, 3)), jnp.float32)


def _plain(x, weight, power):
    return jnp.sin(x) ** power * weight, jnp.argmax(x, -1)


def _on_cpu(x, weight, power):
    """The same by other operations, which the tests find in the program."""
    return jnp.exp(power * jnp.log(jnp.sin(x))) * weight, jnp.argmax(x, -1)


def chosen(x, weight=WEIGHT):
    return by_platform(x, weight, default=_plain, cpu=_on_cpu, options=(3,))[0]


def plain(x, weight=WEIGHT):
    return _plain(x, weight, 3)[0]


def _gradient(function):
    return jax.grad(lambda *args: jnp.sum(jnp.cos(function(*args))), (0, 1))


TRANSFORMED = {
    "value": lambda f: f(X, WEIGHT),
    "gradient": lambda f: _gradient(f)(X, WEIGHT),
    "gradient under jit": lambda f: jax.jit(_gradient(f))(X, WEIGHT),
    "tangent": lambda f: jax.jvp(f, (X, WEIGHT), (WEIGHT, X)),
    "tangent of one": lambda f: jax.jvp(lambda x: f(x, WEIGHT), (X,), (WEIGHT,)),
    "tangent of the gradient": lambda f: jax.jvp(_gradient(f), (X, WEIGHT), (WEIGHT, X)),
    "gradient of the gradient": lambda f: jax.grad(lambda x: jnp.sum(_gradient(f)(x, WEIGHT)[0] ** 2))(X),
    "linearized": lambda f: jax.linearize(f, X, WEIGHT)[1](WEIGHT, X),
    "vmap": lambda f: jax.vmap(f)(X, WEIGHT),
    "vmap of one": lambda f: jax.vmap(f, (1, None))(X, WEIGHT[:, 0]),
    "vmap of the gradient": lambda f: jax.vmap(_gradient(f), (1, None))(X, WEIGHT[:, 0]),
    "gradient of vmap": lambda f: _gradient(jax.vmap(f, (0, 0), 1))(X, WEIGHT),
    "scan": lambda f: jax.grad(lambda x: jax.lax.scan(lambda c, w: (f(c, w), c.sum()), x, WEIGHT)[0].sum())(X[0]),
    "checkpoint": lambda f: _gradient(jax.checkpoint(f))(X, WEIGHT),
    "jacobian": lambda f: jax.jacrev(jax.jacfwd(f))(X[0], WEIGHT[0]),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_transformations_see_one_function(name):
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6),
        *(jax.tree.leaves(TRANSFORMED[name](function)) for function in (chosen, plain)),
    )


def test_derivatives_are_those_of_differences():
    with jax.enable_x64(True):
        wide = [np.asarray(array, np.float64) for array in (X, WEIGHT)]
        check_grads(lambda x, weight: by_platform(x, weight, default=_plain, cpu=_on_cpu, options=(3,))[0], wide, 2)


@pytest.mark.parametrize("function", [chosen, lambda x: _gradient(chosen)(x, WEIGHT)], ids=["value", "gradient"])
@pytest.mark.parametrize(("platform", "own"), [("cpu", True), ("tpu", False), ("cuda", False)])
def test_the_program_is_that_of_the_target(function, platform, own):
    text = jax.jit(function).trace(X).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.log" in text) is own


def test_an_export_for_several_platforms_holds_the_program_of_each():
    exported = jax.export.export(jax.jit(chosen), platforms=("cpu", "tpu"))(X)
    assert "stablehlo.log" in exported.mlir_module() and "stablehlo.case" in exported.mlir_module()
    np.testing.assert_allclose(exported.call(X), plain(X), rtol=1e-5)


def test_derivatives_keep_the_operands_alone():
    kept = jax.tree.leaves(jax.vjp(lambda x: chosen(x), X)[1])
    assert {array.shape for array in kept} <= {X.shape} and len(kept) <= 2


def test_a_linear_function_keeps_nothing_of_its_operand():
    def double(x):
        return (x + x,)

    text = str(
        jax.make_jaxpr(lambda x, ct: jax.vjp(lambda x: by_platform(x, default=double, linear=1)[0], x)[1](ct))(X, X)
    )
    assert jax.tree.leaves(jax.vjp(lambda x: by_platform(x, default=double, linear=1)[0], X)[1]) == []
    assert text.count("jaxnn_by_platform") == 2


def test_eager_calls_compile_once():
    def count(x):
        traces.append(x)
        return (x * 2,)

    traces = []
    by_platform(X, default=count)
    before = len(traces)
    by_platform(X + 1, default=count)
    assert len(traces) == before > 0


@pytest.mark.parametrize("check", [True, False])
def test_inside_shard_map(check):
    mesh = Mesh(np.array(jax.devices()[:1]), "x")
    rows, same = PartitionSpec("x"), PartitionSpec()

    def local(x, weight):
        return _gradient(chosen)(x, weight)[0]

    got = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(rows, same), out_specs=rows, check_vma=check))(X, WEIGHT)
    np.testing.assert_allclose(got, _gradient(plain)(X, WEIGHT)[0], rtol=2e-5, atol=2e-6)


def test_jet_takes_the_plain_program():
    first, rest = jet.jet(lambda x: by_platform(x, default=_cube)[0], (X,), [[WEIGHT, X]])
    expected, others = jet.jet(lambda x: _cube(x)[0], (X,), [[WEIGHT, X]])
    for got, want in zip([first, *rest], [expected, *others]):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def _cube(x):
    return (x * x * x,)


# -- programs with gradients of their own --------------------------------------------------------------------------------


def _products(x, weight, power):
    return (jnp.sin(x) ** power @ weight,)


def _products_saving(x, weight, power):
    return *_products(x, weight, power), jnp.sin(x)


def _gradient_of_products(operands, results, saved, cotangents, wanted, power):
    x, weight = operands
    kept = jax.lax.optimization_barrier(saved[0])  # which the tests find in the program
    made = (cotangents[0] @ weight.T) * power * kept ** (power - 1) * jnp.cos(x), (kept**power).T @ cotangents[0]
    return tuple(ct for ct, want in zip(made, wanted) if want)


OWN = WithGradient(_products, _products_saving, _gradient_of_products, _products)
SQUARE = jnp.asarray(np.random.default_rng(2).uniform(0.5, 1.5, (3, 2)), jnp.float32)


def own(x, weight=SQUARE, **platforms):
    return by_platform(x, weight, default=OWN, options=(3,), **platforms)[0]


def of_jax(x, weight=SQUARE):
    return _products(x, weight, 3)[0]


DERIVED = {
    "gradient": lambda f: _gradient(f)(X, SQUARE),
    "gradient of one": lambda f: jax.grad(lambda w: jnp.sum(jnp.cos(f(X, w))))(SQUARE),
    "gradient under jit": lambda f: jax.jit(_gradient(f))(X, SQUARE),
    "tangent": lambda f: jax.jvp(f, (X, SQUARE), (X, SQUARE)),
    "tangent of the gradient": lambda f: jax.jvp(_gradient(f), (X, SQUARE), (X, SQUARE)),
    "gradient of the gradient": lambda f: jax.grad(lambda x: jnp.sum(_gradient(f)(x, SQUARE)[0] ** 2))(X),
    "vmap of the gradient": lambda f: jax.vmap(_gradient(f), (0, None))(jnp.stack([X, X + 1]), SQUARE),
    "gradient of vmap": lambda f: _gradient(jax.vmap(f, (1, None)))(jnp.stack([X, X + 1], 1), SQUARE),
    "scan": lambda f: jax.grad(lambda w: jax.lax.scan(lambda c, x: (c + f(x, w).sum(), 0), 0.0, X[None])[0])(SQUARE),
    "checkpoint": lambda f: _gradient(jax.checkpoint(f))(X, SQUARE),
}


@pytest.mark.parametrize("name", DERIVED)
def test_a_gradient_of_its_own_is_that_of_the_function(name):
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6),
        *(jax.tree.leaves(DERIVED[name](function)) for function in (own, of_jax)),
    )


@pytest.mark.parametrize(
    ("function", "x"), [(own, X), (jax.vmap(own, (0, None)), X[None]), (jax.jit(jax.vmap(own, (1, None))), X[:, None])]
)
def test_a_gradient_of_its_own_is_what_runs(function, x):
    text = jax.jit(_gradient(function)).trace(x, SQUARE).lower(lowering_platforms=("tpu",)).as_text()
    assert "optimization_barrier" in text


def test_a_platform_may_leave_the_gradient_to_jax():
    def mixed(x, weight):
        return own(x, weight, cpu=_products)

    lowered = {
        platform: jax.jit(_gradient(mixed)).trace(X, SQUARE).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu")
    }
    assert "optimization_barrier" in lowered["tpu"] and "optimization_barrier" not in lowered["cpu"]
    for got, want in zip(_gradient(mixed)(X, SQUARE), _gradient(of_jax)(X, SQUARE)):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
