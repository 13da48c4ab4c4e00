"""torch.func's names: ensembles, gradients for each example, Jacobians and Hessians over functional_call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


class Tied(nn.Module):
    """An encoder whose weight is the decoder's too."""

    def __init__(self):
        super().__init__()
        self.encode, self.norm, self.decode = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(jnp.tanh(self.norm(self.encode(x))))


def test_an_ensemble_is_its_models_side_by_side():
    models = [Tied().eval() for _ in range(4)]
    params, buffers = nn.stack_module_state(models)
    assert list(params) == ["encode.weight", "encode.bias", "norm.weight", "norm.bias", "decode.bias"]
    assert params["encode.weight"].shape == (4, 3, 3) and buffers["norm.num_batches_tracked"].shape == (4,)
    x = jax.random.normal(jax.random.key(0), (5, 3))
    call = lambda p, b, x: nn.functional_call(models[0], (p, b), (x,))  # noqa: E731
    for function in (jax.vmap(call, (0, 0, None)), jax.jit(jax.vmap(call, (0, 0, None)))):
        np.testing.assert_allclose(function(params, buffers, x), [m(x) for m in models], rtol=1e-4, atol=1e-5)
    grads = jax.vmap(jax.grad(lambda p, b, x: call(p, b, x).sum()), (0, 0, None))(params, buffers, x)
    for number, model in enumerate(models):  # one gradient for the tied weight, from both its uses
        own = nn.grad(lambda m: m(x).sum())(model)
        np.testing.assert_allclose(grads["encode.weight"][number], own["encode.weight"], rtol=1e-3, atol=1e-4)


def test_an_abstract_base_serves_the_ensemble():
    models = [nn.Linear(3, 2) for _ in range(3)]
    base = jax.eval_shape(lambda: nn.Linear(3, 2))
    params, buffers = nn.stack_module_state(models)
    assert buffers == {}
    out = jax.vmap(lambda p, b, x: nn.functional_call(base, (p, b), x), (0, 0, None))(params, buffers, jnp.ones((1, 3)))
    np.testing.assert_allclose(out, [model(jnp.ones((1, 3))) for model in models], rtol=1e-6)


@pytest.mark.parametrize(
    "models",
    [[], [nn.Linear(1, 1), nn.Linear(1, 1).eval()], [nn.Linear(1, 1), nn.ReLU()]],
    ids=["none", "modes", "classes"],
)
def test_models_that_do_not_go_together_are_refused(models):
    with pytest.raises(RuntimeError, match="models"):
        nn.stack_module_state(models)


def test_gradients_for_each_example_are_those_of_the_examples_alone():
    model, x, y = Tied().eval(), jax.random.normal(jax.random.key(0), (6, 3)), jnp.arange(6) % 3
    params = {name: box.value for name, box in model.named_parameters()}
    buffers = {name: box.value for name, box in model.named_buffers()}

    def loss(params, buffers, x, y):
        out = nn.functional_call(model, (params, buffers), (x[None],))
        return nn.functional.cross_entropy(out, y[None])

    each = jax.vmap(jax.grad(loss), (None, None, 0, 0))(params, buffers, x, y)
    for number in range(6):
        alone = jax.grad(loss)(params, buffers, x[number], y[number])
        for name, value in alone.items():
            np.testing.assert_allclose(each[name][number], value, rtol=1e-4, atol=1e-5)
    whole = nn.grad(lambda m: nn.functional.cross_entropy(m(x), y))(model)
    for name, value in whole.items():
        np.testing.assert_allclose(each[name].mean(0), value, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
def test_jacobians_and_hessians_are_torchs():
    torch = pytest.importorskip("torch")
    ours = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    theirs.load_state_dict({key: torch.tensor(np.asarray(value)) for key, value in ours.state_dict().items()})
    x = np.random.randn(3).astype(np.float32)
    params = {name: box.value for name, box in ours.named_parameters()}
    theirs_params = dict(theirs.named_parameters())
    call = lambda p, x: nn.functional_call(ours, p, (x,))  # noqa: E731
    theirs_call = lambda p, x: torch.func.functional_call(theirs, p, (x,))  # noqa: E731
    for jacobian, argnums in ((jax.jacrev, 0), (jax.jacfwd, 0), (jax.jacrev, 1)):
        got = jacobian(call, argnums)(params, x)
        expected = torch.func.jacrev(theirs_call, argnums)(theirs_params, torch.tensor(x))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves({**expected} if argnums == 0 else expected)):
            np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-4, atol=1e-5)
    got = jax.hessian(lambda p: (call(p, x) ** 2).sum())(params)
    expected = torch.func.hessian(lambda p: (theirs_call(p, torch.tensor(x)) ** 2).sum())(theirs_params)
    for one in params:
        for two in params:
            np.testing.assert_allclose(got[one][two], expected[one][two].detach().numpy(), rtol=1e-3, atol=1e-4)
