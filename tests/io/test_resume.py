"""A training run that is stopped, saved, and goes on elsewhere takes the same steps, bit for bit."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
import jaxnn.functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(6, 16)
        self.bn = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.3)
        self.fc2 = nn.Linear(16, 3)

    def forward(self, x):
        return self.fc2(self.drop(F.relu(self.bn(self.fc1(x)))))


@nn.jit
def step(model, optimizer, x, y):
    loss, grads = nn.value_and_grad(lambda m: F.cross_entropy(m(x), y))(model)
    optimizer.step(model, grads)
    return loss


OPTIMIZERS = {
    "SGD": lambda m: nn.optim.SGD(m, lr=optax.cosine_decay_schedule(0.1, 20), momentum=0.9),
    "Adam": lambda m: nn.optim.Adam(m, lr=1e-2, amsgrad=True),
    "AdamW": lambda m: nn.optim.AdamW(m, lr=1e-2),
    "RMSprop": lambda m: nn.optim.RMSprop(m, lr=1e-3, momentum=0.5, centered=True),
    "Adagrad": lambda m: nn.optim.Adagrad(m, lr=1e-2, lr_decay=0.1),
    "optax": lambda m: nn.optim.Optimizer(m, optax.chain(optax.clip_by_global_norm(1.0), optax.lion(1e-3))),
}


def _with_plain_files(state, path):
    nn.save(state, path / "run.pt")
    return nn.load(path / "run.pt")


def _through_orbax(tree, path, like):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    checkpointer = checkpoint.PyTreeCheckpointer()
    checkpointer.save(path, tree)
    arguments = checkpoint.checkpoint_utils.construct_restore_args(like)
    return checkpointer.restore(path, item=like, restore_args=arguments)


def _with_orbax(state, path):
    return _through_orbax(state, path / "run", state)


STORES = {"plain files": _with_plain_files, "orbax": _with_orbax}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("store", STORES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_goes_on_bit_for_bit(name, store, tmp_path):
    rng = np.random.RandomState(0)
    batches = [(jnp.asarray(rng.randn(8, 6), jnp.float32), jnp.asarray(rng.randint(0, 3, 8))) for _ in range(8)]
    nn.manual_seed(0)
    model = Net()
    optimizer = OPTIMIZERS[name](model)
    for batch in batches[:4]:
        step(model, optimizer, *batch)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": nn.get_rng_state()}
    read = STORES[store](state, tmp_path)
    expected = [float(step(model, optimizer, *batch)) for batch in batches[4:]]

    nn.manual_seed(99)
    again = Net()
    restored = OPTIMIZERS[name](again)
    again.load_state_dict(read["model"])
    restored.load_state_dict(read["optimizer"])
    nn.set_rng_state(read["rng"])
    assert [float(step(again, restored, *batch)) for batch in batches[4:]] == expected
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key], value, err_msg=key)
    assert nn.Dropout(0.5)(jnp.ones(16)).tolist() != [2.0] * 16  # the stream is in use after it all


def test_a_whole_module_through_orbax(tmp_path):
    """A module is a pytree: orbax saves and restores it as it is."""
    model = Net()
    again = _through_orbax(model, tmp_path / "model", Net())
    assert type(again) is Net
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key], value, err_msg=key)
