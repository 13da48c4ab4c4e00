"""What PyTorch's own optimizer tests ask for beside the numbers: see BEHAVIOURS.md."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

torch = pytest.importorskip("torch")

EACH = [
    "SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SparseAdam", "Adagrad", "Adadelta", "Adafactor", "ASGD", "Rprop",
    "RMSprop", "Muon",
]  # fmt: skip
COMPLEX = [kind for kind in EACH if kind not in ("SparseAdam", "Adafactor", "Muon")]
RNG = np.random.RandomState(6)
W = RNG.randn(3, 4).astype(np.float32)
C = (RNG.randn(3, 4) + 1j * RNG.randn(3, 4)).astype(np.complex64)


class Model(nn.Module):
    def __init__(self, value=W):
        super().__init__()
        self.w = nn.Parameter(jnp.asarray(value))


@pytest.mark.parametrize("kind", COMPLEX)
def test_complex_parameters_are_pairs_of_numbers(kind):
    weight = torch.nn.Parameter(torch.tensor(C))
    theirs = getattr(torch.optim, kind)([weight])
    model = Model(C)
    ours = getattr(nn.optim, kind)(model)
    for step in range(5):
        gradient = C * (step + 1) - 2j
        weight.grad = torch.tensor(gradient.astype(np.complex64))
        theirs.step()
        ours.step(model, {"w": jnp.asarray(gradient, jnp.complex64)})
    np.testing.assert_allclose(np.asarray(model.w), weight.detach().numpy(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("kind", EACH)
def test_16_bit_parameters_stay_16_bit_and_move_as_in_float32(kind, dtype):
    narrow, wide = Model(W.astype(dtype)), Model(np.asarray(W.astype(dtype), np.float32))
    for model in (narrow, wide):
        optimizer = getattr(nn.optim, kind)(model, lr=0.1, **({"eps": 1e-4} if kind == "Adam" else {}))
        optimizer.step(model, {"w": jnp.asarray(W, model.w.dtype)})
    assert narrow.w.dtype == dtype
    np.testing.assert_allclose(np.asarray(narrow.w, np.float32), wide.w, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", EACH)
def test_a_step_without_gradients_changes_nothing(kind):
    model = Model()
    optimizer = getattr(nn.optim, kind)(model)
    before = optimizer.state_dict()
    for grads in ({}, {"w": None}):
        optimizer.step(model, grads)
    np.testing.assert_array_equal(model.w, W)
    assert jax.tree.structure(optimizer.state_dict()) == jax.tree.structure(before)


@pytest.mark.parametrize("kind", EACH)
def test_zero_gradients_move_nothing_without_weight_decay(kind):
    model = Model()
    optimizer = getattr(nn.optim, kind)(model, **({} if kind in ("SparseAdam", "Rprop") else {"weight_decay": 0.0}))
    if kind == "ASGD":  # torch: shrinks by lambd all the same
        optimizer.param_groups[0]["lambd"] = 0.0
    for _ in range(3):
        optimizer.step(model, {"w": jnp.zeros_like(W)})
    np.testing.assert_array_equal(model.w, W)


@pytest.mark.parametrize("kind", EACH)
def test_it_prints_and_copies_and_loads_what_older_versions_saved(kind):
    model = Model()
    optimizer = getattr(nn.optim, kind)(model)
    optimizer.step(model, {"w": jnp.asarray(W)})
    text = repr(optimizer)
    assert text.startswith(f"{kind} (") and "lr:" in text and text == repr(copy.deepcopy(optimizer))
    saved = optimizer.state_dict()
    for option in ("maximize", "foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"):
        saved["param_groups"][0].pop(option, None)
    if "step" in saved["state"].get(0, {}):
        saved["state"][0]["step"] = int(saved["state"][0]["step"])
    twin = copy.deepcopy(model)
    again = getattr(nn.optim, kind)(twin)
    again.load_state_dict(saved)
    for one, opt in ((model, optimizer), (twin, again)):
        opt.step(one, {"w": jnp.asarray(W) * 0.5})
    np.testing.assert_array_equal(model.w, twin.w)


@pytest.mark.parametrize("kind", EACH)
def test_groups_of_other_learning_rates(kind):
    both, alone = nn.ParameterList([nn.Parameter(W), nn.Parameter(W)]), [Model(), Model()]
    boxes = list(both.parameters())
    optimizer = getattr(nn.optim, kind)([{"params": [boxes[0]], "lr": 0.3}, {"params": [boxes[1]]}], lr=0.02)
    for _ in range(2):
        optimizer.step(both, {name: jnp.asarray(W) for name, _ in both.named_parameters()})
    for model, lr in zip(alone, (0.3, 0.02)):
        one = getattr(nn.optim, kind)(model, lr=lr)
        for _ in range(2):
            one.step(model, {"w": jnp.asarray(W)})
    for box, model in zip(boxes, alone):
        np.testing.assert_allclose(box.value, model.w, rtol=1e-6)
