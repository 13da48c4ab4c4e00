"""torch's meta device: models without numbers, the ways to give them some, and what says clearly that there are none."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnn as nn
from jaxnn import optim
from jaxnn.base.meta import MetaArray, NoNumbersError


class Net(nn.Module):
    def __init__(self, dtype=None):
        super().__init__()
        self.linear = nn.Linear(3, 4, dtype=dtype)
        self.norm = nn.BatchNorm1d(4, dtype=dtype)
        self.register_buffer("places", jnp.arange(4.0))
        self.scale = nn.Parameter(jnp.full(4, 2.0, dtype))
        self.tied = self.linear
        self.table = jnp.zeros(2)

    def forward(self, x):
        return self.norm(self.linear(x)) * self.scale


def on_meta(build=Net):
    with nn.device("meta"):
        return build()


def numbers(tree):
    """How many numbers in memory a tree has."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))


def test_a_model_in_the_block_has_torchs_shapes_dtypes_and_ties_and_draws_nothing():
    torch = pytest.importorskip("torch")

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 4)
            self.norm = torch.nn.BatchNorm1d(4)
            self.register_buffer("places", torch.arange(4.0))
            self.scale = torch.nn.Parameter(torch.full((4,), 2.0))
            self.tied = self.linear

    with torch.device("meta"):
        theirs = Theirs().state_dict()
    nn.manual_seed(0)
    model = on_meta()
    after = nn.Linear(2, 2).weight
    nn.manual_seed(0)
    np.testing.assert_array_equal(after, nn.Linear(2, 2).weight)
    ours = model.state_dict()
    assert {key: (str(value.dtype), tuple(value.shape), value.device) for key, value in ours.items()} == {
        key: (str(value.dtype).removeprefix("torch."), tuple(value.shape), str(value.device))
        for key, value in theirs.items()
    }
    assert model.tied is model.linear and numbers(model) == model.table.size


def test_a_device_that_was_said_wins_over_the_block_around():
    with nn.device("meta"):
        with nn.device("cpu"):
            inner = nn.Linear(2, 2)
        layer = nn.Linear(2, 2, device="cpu")
        put = nn.Parameter(jnp.ones(2, device=jax.devices()[0]))
        plain = nn.Parameter(np.ones(2, np.float32))
    assert [isinstance(box.value, MetaArray) for box in (*inner.parameters(), *layer.parameters(), put, plain)] == [
        *(False,) * 5,
        True,
    ]
    assert all(isinstance(value, MetaArray) for value in nn.LSTM(2, 3, device="meta").state_dict().values())
    assert not isinstance(nn.Linear(2, 2).weight, MetaArray)


@pytest.mark.parametrize("device", ["cpu", None])
def test_to_empty_is_the_way_out(device):
    model = on_meta()
    boxes = list(model.parameters())
    assert model.to_empty(device=device) is model and boxes == list(model.parameters())
    model.linear.reset_parameters()
    nn.manual_seed(0)
    model.linear.reset_parameters()
    nn.manual_seed(0)
    np.testing.assert_array_equal(model.linear.weight, nn.Linear(3, 4).weight)
    assert model(jnp.ones((2, 3))).shape == (2, 4) and int(model.state_dict()["norm.num_batches_tracked"]) == 1
    assert isinstance(model.to_empty(device="meta").linear.weight, MetaArray)
    assert isinstance(Net().to("meta").norm.num_batches_tracked, MetaArray)


def test_load_state_dict_assigns_and_does_not_copy_as_in_torch():
    model, real = on_meta(), Net()
    with pytest.warns(UserWarning, match=r"scale and 10 more: the model's arrays are on the meta device.*assign=True"):
        model.load_state_dict(real.state_dict())
    assert isinstance(model.scale, MetaArray)
    with pytest.raises(RuntimeError, match="size mismatch for linear.weight"):
        model.load_state_dict(real.state_dict() | {"linear.weight": jnp.ones((4, 5))}, assign=True)
    missing = model.load_state_dict({"linear.weight": jnp.ones((4, 3))}, strict=False, assign=True).missing_keys
    assert "linear.bias" in missing and "norm.num_batches_tracked" not in missing  # as torch says
    with pytest.raises(NoNumbersError, match=r"linear: bias: .*float32\[4\] on the meta device.*to_empty"):
        model(jnp.ones((2, 3)))
    half = Net(jnp.bfloat16).state_dict()
    assert on_meta().load_state_dict(half, assign=True).missing_keys == []
    model.load_state_dict(half, assign=True)
    assert model.linear.weight.dtype == jnp.bfloat16
    assert jax.tree.structure(model) == jax.tree.structure(Net(jnp.bfloat16))
    with pytest.raises(RuntimeError, match=r'"scale".*has no numbers'):
        Net().load_state_dict(on_meta().state_dict())


def test_conversions_and_copies_keep_it_there():
    model = on_meta().bfloat16()
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(twin.linear.weight, MetaArray) and twin.linear.weight.dtype == jnp.bfloat16
    assert nn.init.normal_(model.linear.weight) is model.linear.weight
    model.norm.reset_parameters()
    assert numbers(model) == model.table.size


X = jnp.ones((2, 3))
NEEDS_NUMBERS = {
    "forward": lambda m: m(X),
    "jit": lambda m: nn.jit(lambda m, x: m(x))(m, X),
    "value_and_grad": lambda m: nn.value_and_grad(lambda m: m(X).sum())(m),
    "vmap": lambda m: nn.vmap(lambda m, x: m(x), in_axes=(None, 0))(m, X[None]),
    "item": lambda m: m.scale.item(),
    "operator": lambda m: 2 * m.scale,
    "index": lambda m: m.scale[0],
    "numpy": lambda m: np.asarray(m.scale),
    "float": lambda m: float(m.get_parameter("scale")),
    "box": lambda m: m.get_parameter("scale") + 1,
    "save": lambda m: nn.save(m.state_dict(), "never.safetensors"),
    "weight_norm": lambda m: nn.utils.parametrizations.weight_norm(m.linear),
    "spectral_norm": lambda m: nn.utils.parametrizations.spectral_norm(m.linear),
    "vector": lambda m: nn.utils.parameters_to_vector(m.parameters()),
}


OF_SHAPES = (
    "forward",
    "jit",
    "value_and_grad",
    "vmap",
    "weight_norm",
    "spectral_norm",
)  # JAX's own class answers others


@pytest.mark.parametrize(
    "what, build",
    [*((what, on_meta) for what in NEEDS_NUMBERS), *((what, lambda: jax.eval_shape(Net)) for what in OF_SHAPES)],
)
def test_what_needs_numbers_says_so(what, build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RuntimeError, TypeError)) as caught:
        NEEDS_NUMBERS[what](build())
    text = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert "has no numbers" in text and "to_empty" in text or "without numbers" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "move", [lambda m: m.to("cpu"), lambda m: m.cpu(), lambda m: m.get_parameter("scale").to("cpu")]
)
def test_moving_away_is_refused_as_in_torch(move):
    with pytest.raises(NotImplementedError, match="to_empty"):
        move(on_meta())


def test_devices_that_are_none_are_refused():
    with pytest.raises(RuntimeError, match="nn.device: device: expected a device of this process.*'metal'"):
        nn.device("metal")
    with pytest.raises(RuntimeError, match="expected a device, got 'meta', which holds no numbers"):
        nn.Transformer.generate_square_subsequent_mask(3, device="meta")


OPTIMIZERS = {
    "AdamW": optim.AdamW,
    "amsgrad": lambda m: optim.Adam(m, amsgrad=True),
    "momentum": lambda m: optim.SGD(m, lr=0.1, momentum=0.9),
    "Adadelta": optim.Adadelta,
    "Adafactor": optim.Adafactor,
    "Muon": lambda m: optim.Muon([m.get_parameter("linear.weight")]),
    "LBFGS": optim.LBFGS,
    "optax": lambda m: optim.Optimizer(m, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))),
    "optax_masters": lambda m: optim.Optimizer(m, optax.adam(1e-3), master_weights=True),
    "masters": lambda m: optim.AdamW(m, master_weights=True),
}


@nn.jit
def step(model, optimizer, x):
    def loss_of(model):
        return jnp.square(model(x).astype(jnp.float32) - 1).mean()

    if isinstance(optimizer, optim.LBFGS):
        return optimizer.step(model, loss_of)
    loss, grads = nn.value_and_grad(loss_of)(model)
    if isinstance(optimizer, optim.Muon):
        grads = {"linear.weight": grads["linear.weight"]}
    optimizer.step(model, grads)
    return loss


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("build", [on_meta, jax.eval_shape], ids=["meta", "shapes"])
def test_an_optimizer_of_a_model_without_numbers_has_none_and_gets_them_with_the_model(name, build):
    dtype = jnp.bfloat16 if "masters" in name else None
    # (a plain array is a leaf that eval_shape leaves without a number, and no state_dict has)
    plain = type("Plain", (Net,), {"__setattr__": lambda s, n, v: None if n == "table" else Net.__setattr__(s, n, v)})
    model, real = build(lambda: plain(dtype)), plain(dtype)
    optimizer = OPTIMIZERS[name](model)
    assert repr(optimizer) == repr(OPTIMIZERS[name](real))
    assert numbers(optimizer) < 60  # options and counts
    x = jnp.linspace(0, 1, 6, dtype=dtype).reshape(2, 3)
    with pytest.raises((RuntimeError, TypeError)) as caught:
        step(model, optimizer, x)
    assert "has no numbers" in str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert nn.jit(step).lower(model, optimizer, jax.ShapeDtypeStruct(x.shape, x.dtype)) is not None
    model.load_state_dict(real.state_dict(), assign=True)
    beside = OPTIMIZERS[name](real)
    for _ in range(2):
        assert step(model, optimizer, x) == step(real, beside, x)
    for ours, theirs in zip(jax.tree.leaves((model, optimizer)), jax.tree.leaves((real, beside)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_eager_steps_get_the_state_too():
    model, real = on_meta(), Net()
    optimizer = optim.AdamW(model)
    grads = {name: jnp.ones(box.shape) for name, box in real.named_parameters()}
    with pytest.raises((RuntimeError, TypeError)) as caught:
        optimizer.step(model, grads)
    assert "has no numbers" in str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    model.load_state_dict(real.state_dict(), assign=True)
    optimizer.step(model, grads)
    optim.AdamW(real).step(real, grads)
    np.testing.assert_array_equal(model.linear.weight, real.linear.weight)
