"""nn.utils.clip_grad: gradients in, clipped gradients and norm out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn.utils import clip_grad_norm, clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from tests.utils.conftest import close

NORMS = [0.5, 1.5, 2, 4, "inf", -float("inf"), 0, 1, 3.0]
WAYS = {"eager": lambda function: function, "jax.jit": jax.jit}


@pytest.fixture(params=WAYS)
def call(request):
    return WAYS[request.param]


def gradients(scale=1.0):
    rng = np.random.default_rng(0)
    shapes = {"weight": (10, 10), "bias": (10,), "scale": ()}
    return {
        name: jnp.asarray(np.float32(scale) * rng.standard_normal(s).astype(np.float32)) for name, s in shapes.items()
    }


def torch_parameters(grads):
    import torch

    parameters = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads.values()]
    for parameter, grad in zip(parameters, grads.values()):
        parameter.grad = torch.from_numpy(np.array(grad))
    return parameters


@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("norm_type", NORMS)
def test_norm_and_clipped_gradients_are_torchs(call, norm_type, scale):
    torch = pytest.importorskip("torch")
    grads = gradients(scale)
    theirs = torch_parameters(grads)
    total = torch.nn.utils.clip_grad_norm_(theirs, 2.0, norm_type)
    clipped, norm = call(lambda grads: clip_grad_norm_(grads, 2.0, norm_type))(grads)
    assert norm.shape == () and norm.dtype == jnp.float32
    np.testing.assert_allclose(norm, total, rtol=2e-5)
    for name, parameter in zip(grads, theirs):
        np.testing.assert_allclose(clipped[name], parameter.grad, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("norm_type", [0.5, 1.5, 2, 4, "inf"])
def test_norm_afterwards_is_the_largest_and_directions_stay(call, norm_type):
    grads = gradients(10.0)
    clipped, norm = call(lambda grads: clip_grad_norm_(grads, 2, norm_type=norm_type))(grads)
    np.testing.assert_allclose(get_total_norm(clipped, norm_type), 2, rtol=1e-4)
    ratios = np.concatenate([np.ravel(clipped[name] / grads[name]) for name in grads])
    np.testing.assert_allclose(ratios, 2 / norm, rtol=1e-4)


def test_small_gradients_are_left_alone(call):
    grads = gradients(1e-4)
    clipped, norm = call(lambda grads: clip_grad_norm_(grads, 1.0))(grads)
    assert norm < 1
    for name in grads:
        close(clipped[name], grads[name], 0)


def test_names_keep_their_order():
    grads = gradients()
    assert list(clip_grad_norm_(grads, 1.0)[0]) == list(clip_grad_value_(grads, 1.0)) == list(grads)


def test_every_form_of_gradients():
    grads = gradients()
    norm = get_total_norm(grads)
    for form in (
        list(grads.values()),
        tuple(grads.values()),
        {"a": [grads["weight"], None], "b": (grads["bias"], grads["scale"])},
    ):
        clipped, total = clip_grad_norm_(form, 1.0)
        close(total, norm)
        assert jax.tree.structure(clipped) == jax.tree.structure(form)
    for form in (grads.values(), (g for g in grads.values()), iter(grads.values()), map(jnp.asarray, grads.values())):
        clipped, total = clip_grad_norm_(form, 1.0)
        close(total, norm)
        assert isinstance(clipped, list) and len(clipped) == 3
    clipped, total = clip_grad_norm_(jnp.array([3.0, 4.0]), 1.0)
    close(clipped, [0.6, 0.8])
    close(total, 5)
    clipped, total = clip_grad_norm_(np.array([3.0, 4.0], np.float32), 1.0)
    close(clipped, [0.6, 0.8])


def test_gradients_of_a_module_from_plain_jax():
    layer = nn.Linear(3, 2)
    grads = jax.grad(lambda layer: (10 * layer(jnp.ones((1, 3)))).sum())(layer)
    clipped, norm = clip_grad_norm_(grads, 1.0)
    assert isinstance(clipped, nn.Linear)
    close(get_total_norm(clipped), 1)
    close(norm, 10 * np.sqrt(8))


@pytest.mark.parametrize("empty", [{}, [], ()])
def test_no_gradients(empty, recwarn):
    clipped, norm = clip_grad_norm_(empty, 1.0)
    assert clipped == empty and float(norm) == 0 and norm.dtype == jnp.float32 and not recwarn
    assert float(get_total_norm(empty)) == 0 and clip_grad_value_(empty, 1.0) == empty


def test_an_empty_generator_warns():
    with pytest.warns(UserWarning, match="empty generator"):
        assert clip_grad_norm_((g for g in ()), 1.0)[0] == []


@pytest.mark.parametrize("what", [lambda layer: layer.parameters(), lambda layer: dict(layer.named_parameters())])
@pytest.mark.parametrize("function", [clip_grad_norm_, clip_grad_value_])
def test_parameters_are_refused(what, function):
    with pytest.raises(TypeError, match="nn.grad"):
        function(what(nn.Linear(2, 2)), 1.0)


@pytest.mark.parametrize("function", [clip_grad_norm_, clip_grad_value_])
def test_what_is_no_array_is_refused(function):
    with pytest.raises(TypeError, match="arrays"):
        function({"a": "b"}, 1.0)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("norm_type", [0.5, 1, 2, "inf"])
def test_error_if_nonfinite(bad, norm_type):
    grads = {"a": jnp.array([1.0, bad]), "b": jnp.ones(2)}
    with pytest.raises(RuntimeError, match="error_if_nonfinite"):
        clip_grad_norm_(grads, 1.0, norm_type, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match="error_if_nonfinite"):
        get_total_norm(grads, norm_type, error_if_nonfinite=True)
    assert not np.isfinite(clip_grad_norm_(grads, 1.0, norm_type)[1])
    finite = {"a": jnp.ones(2)}
    close(clip_grad_norm_(finite, 5.0, error_if_nonfinite=True)[0]["a"], np.ones(2))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_nonfinite_gradients_as_torchs(call, bad):
    torch = pytest.importorskip("torch")
    grads = {"a": jnp.array([1.0, bad]), "b": jnp.ones(2)}
    theirs = torch_parameters(grads)
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    clipped, _ = call(lambda grads: clip_grad_norm_(grads, 1.0))(grads)
    for name, parameter in zip(grads, theirs):
        np.testing.assert_array_equal(clipped[name], parameter.grad)


def test_error_if_nonfinite_gives_nan_under_jit():
    clip = jax.jit(lambda grads: clip_grad_norm_(grads, 1.0, error_if_nonfinite=True))
    clipped, norm = clip({"a": jnp.array([1.0, np.inf]), "b": jnp.ones(2)})
    assert np.isinf(norm) and np.isnan(clipped["a"]).all() and np.isnan(clipped["b"]).all()
    close(clip({"a": jnp.array([3.0, 4.0])})[0]["a"], [0.6, 0.8])


def test_the_two_halves_are_the_whole(call):
    grads = gradients()
    halves = call(lambda grads: clip_grads_with_norm_(grads, 1.0, get_total_norm(grads)))(grads)
    for name, whole in clip_grad_norm_(grads, 1.0)[0].items():
        close(halves[name], whole, 1e-7)


@pytest.mark.parametrize("foreach", [None, True, False])
def test_foreach_means_nothing(foreach):
    grads = gradients()
    close(clip_grad_norm_(grads, 1.0, foreach=foreach)[1], get_total_norm(grads, foreach=foreach))
    assert clip_grad_value_(grads, 1.0, foreach=foreach)


def test_the_older_name_warns():
    with pytest.warns(FutureWarning, match="clip_grad_norm_"):
        close(clip_grad_norm(jnp.array([3.0, 4.0]), 1.0)[1], 5)


@pytest.mark.parametrize(
    "dtypes", [("bfloat16",) * 2, ("float16",) * 2, ("bfloat16", "float32"), ("float16", "bfloat16")]
)
def test_dtypes(dtypes, call):
    torch = pytest.importorskip("torch")
    value = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    grads = [jnp.asarray(value, dtype) for dtype in dtypes]
    tensors = [torch.from_numpy(value).to(getattr(torch, dtype)) for dtype in dtypes]
    total = torch.nn.utils.get_total_norm(tensors)
    clipped, norm = call(lambda grads: clip_grad_norm_(grads, 1.0))(grads)
    assert str(norm.dtype) == str(total.dtype).removeprefix("torch.")
    assert [g.dtype for g in clipped] == [g.dtype for g in grads]
    np.testing.assert_allclose(float(norm), np.linalg.norm([np.linalg.norm(t.double()) for t in tensors]), rtol=4e-3)


def test_float16_does_not_overflow():
    close(float(get_total_norm(jnp.full(100, 300.0, jnp.float16))), 3000, 1)


def test_complex_gradients():
    torch = pytest.importorskip("torch")
    value = (np.arange(4) + 1j * np.arange(4)[::-1]).astype(np.complex64)
    parameter = torch.nn.Parameter(torch.zeros(4, dtype=torch.complex64))
    parameter.grad = torch.from_numpy(value.copy())
    total = torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    clipped, norm = clip_grad_norm_(jnp.asarray(value), 1.0)
    assert norm.dtype == jnp.float32
    close(norm, total.item())
    close(clipped, parameter.grad)


def test_integers_and_infinite_norms_of_nothing_raise():
    with pytest.raises(RuntimeError, match="floating"):
        get_total_norm(jnp.ones(3, int))
    with pytest.raises(RuntimeError, match="elements"):
        get_total_norm(jnp.ones(0), "inf")
    assert float(get_total_norm([jnp.ones(0), jnp.ones(4)])) == 2


def test_gradients_of_integer_arguments_pass_through():
    def loss(args):
        return (args["x"] * args["n"]).sum()

    grads = jax.grad(loss, allow_int=True)({"x": jnp.full(4, 3.0), "n": jnp.full(4, 5)})
    clipped, norm = clip_grad_norm_(grads, 1.0)
    close(norm, 10)
    assert clipped["n"].dtype == jax.dtypes.float0 and clip_grad_value_(grads, 1.0)["n"].dtype == jax.dtypes.float0


@pytest.mark.parametrize("clip_value", [2.5, 0.0, -0.5, np.inf])
def test_values_are_torchs(call, clip_value):
    torch = pytest.importorskip("torch")
    grads = gradients(3.0) | {"special": jnp.array([np.nan, np.inf, -np.inf, 0.0])}
    theirs = torch_parameters(grads)
    torch.nn.utils.clip_grad_value_(theirs, clip_value)
    clipped = call(lambda grads: clip_grad_value_(grads, clip_value))(grads)
    for name, parameter in zip(grads, theirs):
        np.testing.assert_array_equal(clipped[name], parameter.grad)


def test_values_keep_the_form():
    close(clip_grad_value_(jnp.array([3.0, -4.0]), 1)[0], 1)
    assert isinstance(clip_grad_value_((g for g in [jnp.ones(2)]), 1), list)
    assert clip_grad_value_({"a": None}, 1) == {"a": None}
    assert clip_grad_value_(jnp.ones(2, jnp.bfloat16), 0.5).dtype == jnp.bfloat16


def test_a_training_step_is_torchs():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.Linear(4, 3)
    nn.manual_seed(0)
    ours = nn.Linear(4, 3)
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32) * 10
    their_optimizer, optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1), nn.optim.SGD(ours, lr=0.1)

    @nn.jit
    def step(model, optimizer, x):
        grads = nn.grad(lambda model: (model(x) ** 2).mean())(model)
        grads, norm = nn.utils.clip_grad_norm_(grads, 0.5)
        optimizer.step(model, grads)
        return norm

    for _ in range(3):
        their_optimizer.zero_grad()
        (theirs(torch.from_numpy(x)) ** 2).mean().backward()
        their_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        their_optimizer.step()
        np.testing.assert_allclose(step(ours, optimizer, jnp.asarray(x)), their_norm.item(), rtol=1e-5)
    close(ours.weight, theirs.weight)


def test_inside_an_optax_chain():
    clip = optax.stateless(lambda updates, _: clip_grad_norm_(updates, 1.0)[0])
    optimizer = optax.chain(clip, optax.sgd(1.0))
    params = {"w": jnp.zeros(2)}

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update({"w": jnp.array([3.0, 4.0])}, state, params)
        return optax.apply_updates(params, updates), state

    close(step(params, optimizer.init(params))[0]["w"], [-0.6, -0.8])


def test_max_norm_may_be_traced():
    clipped = jax.jit(lambda grads, limit: clip_grad_norm_(grads, limit)[0])(jnp.array([3.0, 4.0]), 2.5)
    close(clipped, [1.5, 2.0])
    close(
        jax.vmap(lambda grads: clip_grad_norm_(grads, 1.0)[0])(jnp.array([[3.0, 4.0], [0.0, 0.5]])),
        [[0.6, 0.8], [0, 0.5]],
    )
