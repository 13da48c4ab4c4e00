"""Gradients of microbatches in one loop: those of the whole batch, torch's statistics, one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F

X = np.random.RandomState(0).randn(12, 4).astype(np.float32)
Y = np.arange(12) % 3


def loss_of(model, x, y):
    return F.cross_entropy(model(x), y)


@pytest.mark.parametrize("mode", [lambda f: f, nn.jit, jax.jit], ids=["eager", "nn.jit", "jax.jit"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_mean_is_the_whole_batchs(steps, mode):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].get_parameter("bias").requires_grad = False
    expected_loss, expected = nn.value_and_grad(loss_of)(model, X, Y)
    loss, grads = mode(lambda model, x, y: nn.utils.accumulate(loss_of, steps)(model, x, y=y))(model, X, Y)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    assert grads.keys() == expected.keys() and "0.bias" not in grads
    for name, gradient in expected.items():
        np.testing.assert_allclose(grads[name], gradient, rtol=1e-5, atol=1e-7)


def test_a_sum_statistics_and_steps_are_torchs():
    torch = pytest.importorskip("torch")
    nn.manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))
    optimizer, torchs = nn.optim.SGD(model, lr=0.1), torch.optim.SGD(theirs.parameters(), lr=0.1)

    @nn.jit
    def step(model, optimizer, x, y):
        loss, grads = nn.utils.accumulate(loss_of, 3, reduction="sum")(model, x, y)
        optimizer.step(model, grads)
        return loss

    for _ in range(3):
        found = step(model, optimizer, X, Y)
        torchs.zero_grad()
        losses = []
        for x, y in zip(torch.from_numpy(X).split(4), torch.from_numpy(Y).split(4)):
            losses.append(torch.nn.functional.cross_entropy(theirs(x), y))
            losses[-1].backward()
        torchs.step()
        np.testing.assert_allclose(found, sum(losses).item(), rtol=1e-5)
    assert step.compiled._cache_size() == 1
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, theirs.state_dict()[name].numpy(), rtol=1e-4, atol=1e-6)
    assert int(model[1].num_batches_tracked) == 9


def test_further_results_are_stacked_and_each_part_has_its_own_dropout():
    model = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5))

    def loss(model, batch, weight):
        out = model(batch["x"])
        return weight * out.mean(), (out == 0).sum()

    ones = {"x": np.ones((6, 4), np.float32), "name": "rows"}
    (_, zeros), grads = nn.jit(
        lambda model, x, weight: nn.utils.accumulate(loss, 3, has_aux=True)(model, {**ones, "x": x}, weight)
    )(model, ones["x"], jnp.float32(2.0))
    assert zeros.shape == (3,) and len(set(zeros.tolist())) > 1 and grads["0.weight"].shape == (64, 4)


def test_arrays_instead_of_a_module_and_16_bits():
    weights = {"w": jnp.ones(4, jnp.bfloat16)}
    loss, grads = nn.utils.accumulate(lambda p, x: (x @ p["w"].astype(x.dtype)).mean(), 4)(weights, X)
    assert grads["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(grads["w"].astype(jnp.float32), X.mean(0), rtol=1e-2, atol=1e-3)


def test_what_cannot_be_divided():
    model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"divided by steps=5, got float32\[12, 4\].*drop_last=True"):
        nn.utils.accumulate(loss_of, 5)(model, X, Y)
    with pytest.raises(ValueError, match="steps"):
        nn.utils.accumulate(loss_of, 0)
    with pytest.raises(TypeError, match="steps"):
        nn.utils.accumulate(loss_of, 1.5)
    with pytest.raises(ValueError, match="reduction"):
        nn.utils.accumulate(loss_of, 2, reduction="max")
    with pytest.raises(ValueError, match="after the model"):
        nn.utils.accumulate(lambda model: 0.0, 2)(model)
