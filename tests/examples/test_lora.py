"""examples/lora.py: the numbers of LoRA in PyTorch and of peft, its names and files; merged and unmerged."""

import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from lora import add_lora, load_lora, load_lora_state_dict, lora_state_dict, merge_lora, save_lora, unload_lora  # noqa: E402


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 3)

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


X, Y = np.random.RandomState(0).randn(16, 6).astype(np.float32), np.arange(16) % 3


def _model():
    nn.manual_seed(0)
    model = Net()
    before = {name: np.asarray(value) for name, value in model.state_dict().items()}
    assert add_lora(model, r=2, alpha=6, targets=("first", "second")) == ["first", "second"]
    for parameter, value in zip([p for p in model.parameters() if p.requires_grad], (0.3, -0.2, 0.1, 0.2)):
        nn.init.normal_(parameter, std=abs(value))  # B is zero at first: that hides mistakes
    return model, before


def _trained(model, steps=20):
    optimizer = nn.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.01)

    @nn.jit
    def step(model, optimizer):
        loss, grads = nn.value_and_grad(lambda model: F.cross_entropy(model(X), Y))(model)
        optimizer.step(model, grads)
        return loss

    return [float(step(model, optimizer)) for _ in range(steps)]


def _torch_twin(before, state, dtype):
    """The same in PyTorch as peft computes it: the input goes through A and B, beside the frozen layer."""
    import torch

    class Adapted(torch.nn.Module):
        def __init__(self, name):
            super().__init__()
            self.weight, self.bias = (
                torch.tensor(before[f"{name}.{kind}"], dtype=dtype) for kind in ("weight", "bias")
            )
            self.A, self.B = (
                torch.nn.Parameter(
                    torch.tensor(np.asarray(state[f"base_model.model.{name}.{part}.weight"]), dtype=dtype)
                )
                for part in ("lora_A", "lora_B")
            )

        def forward(self, x):
            return torch.nn.functional.linear(x, self.weight, self.bias) + x @ self.A.T @ self.B.T * 3

    model = torch.nn.Sequential(Adapted("first"), torch.nn.ReLU(), Adapted("second"))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.01), []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(torch.tensor(X, dtype=dtype)), torch.tensor(Y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.detach().numpy() for p in model.parameters()]


def test_20_steps_are_pytorchs():
    torch = pytest.importorskip("torch")
    from parity import compare

    model, before = _model()
    runs = [_torch_twin(before, lora_state_dict(model), dtype) for dtype in (torch.float32, torch.float64)]
    losses = _trained(model)
    assert losses[-1] < 0.7 * losses[0]
    ours = [np.array(losses, np.float32), *lora_state_dict(model).values()]
    (low, low_state), (true, true_state) = runs
    for mine, theirs, truth in zip(ours, [np.array(low, np.float32), *low_state], [np.array(true), *true_state]):
        tensor = compare.judge("after 20 steps", np.asarray(mine), truth, theirs, "float32", 0.0)
        assert tensor.held, (tensor.ours, tensor.theirs)
    for name in ("first", "second"):  # the layers themselves have not moved
        original = model.get_submodule(name).parametrizations.weight.original
        np.testing.assert_array_equal(original, before[f"{name}.weight"])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's use of transformers
def test_peft_reads_what_is_saved(tmp_path):
    """A language model of transformers with the adapter of ours gives the logits of ours."""
    peft = pytest.importorskip("peft", reason="the original: pip install --no-deps peft accelerate")
    import torch

    from tests.examples.test_llama import FORWARD, original, recorded

    theirs = original("llama 2")
    ours, ids = recorded("llama 2"), np.random.RandomState(1).randint(0, 50, (2, 9))
    plain = FORWARD(ours, ids)
    add_lora(ours, r=2, alpha=6)
    for parameter in ours.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    save_lora(ours, tmp_path)
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path)
    with torch.no_grad():
        expected = adapted(torch.tensor(ids)).logits.numpy()
    found = FORWARD(ours, ids)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert np.abs(found - plain).max() > 0.01 * np.abs(expected).max()


def test_names_files_and_back(tmp_path):
    model, _ = _model()
    _trained(model, 2)
    expected = model(X)
    save_lora(model, tmp_path)
    state = nn.load(tmp_path / "adapter_model.safetensors")
    assert {name: value.shape for name, value in state.items()} == {
        "base_model.model.first.lora_A.weight": (2, 6),
        "base_model.model.first.lora_B.weight": (8, 2),
        "base_model.model.second.lora_A.weight": (2, 8),
        "base_model.model.second.lora_B.weight": (3, 2),
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["first", "second"] and config["r"] == 2 and config["lora_alpha"] == 6
    nn.manual_seed(0)
    again = Net()
    load_lora(again, tmp_path)
    np.testing.assert_array_equal(again(X), expected)
    with pytest.raises(KeyError, match="names of one side alone"):
        load_lora_state_dict(again, {"other": jnp.ones(2)})


def test_merged_and_unmerged():
    model, before = _model()
    adapted = model(X)
    assert set(before) != set(model.state_dict())
    merge_lora(model)
    assert set(before) == set(model.state_dict()) and type(model.first) is nn.Linear
    np.testing.assert_allclose(model(X), adapted, rtol=1e-5, atol=1e-6)
    model, _ = _model()
    unload_lora(model)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    nn.manual_seed(0)
    fresh = Net()
    plain = fresh(X)
    add_lora(fresh, targets=["first"])
    np.testing.assert_array_equal(fresh(X), plain)  # B is zero: nothing changes at first
    assert [name for name, p in fresh.named_parameters() if p.requires_grad] == [
        "first.parametrizations.weight.0.lora_A",
        "first.parametrizations.weight.0.lora_B",
    ]


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="add_lora: targets: expected names of linear layers, got third"):
        add_lora(Net(), targets=["third"])
    with pytest.raises(ValueError, match="add_lora: r: expected at least 1, got 0"):
        add_lora(Net(), r=0)
