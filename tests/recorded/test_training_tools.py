"""Optimizers, schedulers, orders of data and GradScaler beside what was recorded of PyTorch's: it need not be there."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from tests.amp import scaled
from tests.optim import schedules
from tests.recorded import cases

RECORD = np.load(pathlib.Path(__file__).with_name("torch.npz"))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(cases.A), nn.Parameter(cases.B)

    def forward(self, x):
        return jnp.tanh(x @ self.a) @ self.b


@pytest.mark.parametrize("name", cases.OPTIMIZERS)
def test_a_hundred_steps_are_torchs(name):
    for number, options in enumerate(cases.OPTIMIZERS[name]):
        model = Net()
        optimizer = getattr(nn.optim, name)(model, **options)

        @nn.jit
        def step(model, optimizer):
            _, grads = nn.value_and_grad(lambda model: (model(cases.X) ** 2).mean())(model)
            optimizer.step(model, grads)

        found = []
        for count in range(1, cases.STEPS + 1):
            step(model, optimizer)
            if count in cases.SHOWN:
                found.append(np.concatenate([np.ravel(model.a), np.ravel(model.b)]))
        exact, own = RECORD[f"optimizer {name} {number}"], RECORD[f"error {name} {number}"]
        for ours, expected, error in zip(found, exact, own):
            assert np.abs(ours - expected).max() <= max(8 * error, 2e-5 * np.abs(expected).max())
        assert step.compiled._cache_size() == 1


@pytest.mark.filterwarnings("ignore:Detected call")  # as torch, of a ChainedScheduler in a SequentialLR
@pytest.mark.parametrize("name", schedules.CASES)
def test_two_hundred_epochs_of_learning_rates_are_torchs(name):
    model, optimizer = schedules.our_optimizer("SGD")
    scheduler = schedules.CASES[name](nn.optim.lr_scheduler, optimizer)
    found = []
    for epoch in range(schedules.EPOCHS):
        found.append([(group["lr"], group["momentum"]) for group in optimizer.param_groups])
        if not epoch:
            optimizer.step(model, schedules.GRADS)
        scheduler.step()
    np.testing.assert_allclose(found, RECORD[f"scheduler {name}"], rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize("name", cases.ORDERS)
def test_the_same_seed_gives_torchs_order(name):
    for seed in cases.SEEDS:
        nn.manual_seed(seed)
        found = cases.epochs(nn.utils.data, cases.ORDERS[name])
        np.testing.assert_array_equal(found, RECORD[f"order {name} {seed}"])


@pytest.mark.parametrize("name", scaled.OPTIONS)
def test_scales_and_skipped_steps_are_torchs(name):
    found = scaled.ours("SGD", scaled.OPTIONS[name], False, "nn.jit")[0]
    expected = RECORD[f"scale {name}"]
    np.testing.assert_allclose(
        np.stack([np.ravel(weight) for weight, _, _ in found]), expected[:, :-2], rtol=2e-6, atol=1e-7
    )
    assert [(float(scale), int(count)) for _, scale, count in found] == [
        tuple(row) for row in expected[:, -2:].tolist()
    ]


def test_the_record_is_what_torch_does():
    pytest.importorskip("torch")
    from tests.recorded import make

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "OPTIMIZERS", {"SGD": cases.OPTIMIZERS["SGD"]})
        made = {name: value for part in (make.optimizers, make.orders, make.scales) for name, value in part()}
    for name, value in made.items():
        np.testing.assert_allclose(value, RECORD[name], rtol=1e-6, atol=1e-7, err_msg=name)
