"""Whole networks: the compiled program is the hand-written one, and training follows PyTorch's curve."""

import collections
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnn as nn
import jaxnn.functional as F
from benchmarks import half, hlo
from jaxnn.functional import _convolution_forms as forms

COMPILATION = "full"  # see conftest.py

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))


def _by_hand(p, x):
    numbers = ("NCHW", "OIHW", "NCHW")
    x = lax.conv_general_dilated(
        x, p["conv.weight"], (1, 1), [(1, 1)] * 2, dimension_numbers=numbers, precision=lax.Precision.HIGHEST
    )
    column = lambda v: v.reshape(1, -1, 1, 1)  # noqa: E731
    x = x + column(p["conv.bias"])
    scale = p["bn.weight"] / jnp.sqrt(p["bn.running_var"] + 1e-5)
    x = (x - column(p["bn.running_mean"])) * column(scale) + column(p["bn.bias"])
    x = jnp.maximum(x, 0).mean((2, 3))
    return jnp.matmul(x, p["fc.weight"].T, precision="highest") + p["fc.bias"]


def _instructions(lowered):
    """How often each operation stands in the optimized HLO."""
    text = lowered.compile().as_text()
    return collections.Counter(re.findall(r"= \S+ ([a-z][\w-]*)\(", text))


# What arithmetic leaves in the program; parameters, tuples and copies are the calling convention.
HEAVY = (
    "convolution",
    "dot",
    "fusion",
    "custom-call",
    "while",
    "reduce",
    "transpose",
    "gather",
    "scatter",
    "all-reduce",
)


@pytest.mark.parametrize("wrap", [jax.jit, nn.jit], ids=["jax.jit", "nn.jit"])
def test_the_compiled_forward_is_the_hand_written_one(wrap):
    model, x = Small().eval(), jnp.ones((4, 3, 16, 16))
    params = {name: value for name, value in model.state_dict().items() if "num_batches" not in name}
    with forms.force("direct"):  # on the CPU jaxnn may take another form than plain JAX
        ours = _instructions(wrap(lambda m, x: m(x)).lower(model, x))
        by_hand = _instructions(wrap(_by_hand).lower(params, x))
    assert {name: ours[name] for name in HEAVY} == {name: by_hand[name] for name in HEAVY}
    assert sum(ours.values()) <= sum(by_hand.values()) + 1  # the counter, unused
    np.testing.assert_allclose(model(x), _by_hand(params, x), rtol=1e-4, atol=1e-5)


def test_an_mlp_compiles_to_exactly_the_hand_written_program():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    x = jnp.ones((2, 8))
    params = model.state_dict()

    def by_hand(p, x):
        x = jnp.matmul(x, p["0.weight"].T, precision="highest") + p["0.bias"]
        return jnp.matmul(jnp.maximum(x, 0), p["2.weight"].T, precision="highest") + p["2.bias"]

    expected = _instructions(jax.jit(by_hand).lower(params, x))
    for wrap in (jax.jit, nn.jit):
        assert _instructions(wrap(lambda m, x: m(x)).lower(model, x)) == expected


def _counts(function, arguments):
    """The operations of a program that is lowered for CUDA, without what the host's XLA finds unused or twice."""
    leaves, tree = jax.tree.flatten(arguments)
    flat = jax.jit(lambda *leaves: jax.tree.leaves(function(*tree.unflatten(leaves))))
    unchecked = [jax.export.DisabledSafetyCheck.platform()]
    lowered = jax.export.export(flat, platforms=["cuda"], disabled_checks=unchecked)(*leaves)
    return hlo.counts(jax.jit(lowered.call).lower(*leaves).compile().as_text())


@pytest.mark.parametrize("name", ["ResNeXt blocks", "ConvNeXt-like", "ViT-tiny", "GPT-mini", "LSTM, 2 layers"])
def test_a_step_on_a_gpu_has_the_products_and_convolutions_of_the_hand_written_one(name):
    ours, by_hand = (_counts(*written) for written in hlo.steps(name))
    assert sum(by_hand[kind] for kind in ("dot", "convolution")) > 10
    for kind in ("dot", "convolution", "while", "custom-call"):
        assert ours[kind] == by_hand[kind], kind


@pytest.mark.parametrize("name", ["Llama 3 8B, one block"])
def test_steps_in_16_bits_and_those_by_hand_compute_the_same(name):
    """Both in float32 here; ``python -m benchmarks.half --check`` prints all."""
    ours, by_hand = half.losses(name)
    np.testing.assert_allclose(ours, by_hand, rtol=1e-6)
    assert len({*by_hand}) == 3, "nothing was trained"


OPTIMIZERS = {"SGD": dict(lr=0.05, momentum=0.9), "Adam": dict(lr=2e-3)}


def _torch_curve(torch, name, images, labels, batches, dtype):
    """The example's network, written for PyTorch, trained over `batches`."""

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(1, 32, 3, padding=1)
            self.bn1 = torch.nn.BatchNorm2d(32)
            self.conv2 = torch.nn.Conv2d(32, 64, 3, padding=1)
            self.bn2 = torch.nn.BatchNorm2d(64)
            self.pool = torch.nn.AvgPool2d(2)
            self.fc = torch.nn.Linear(64 * 2 * 2, 10)

        def forward(self, x):
            x = self.pool(torch.nn.functional.silu(self.bn1(self.conv1(x))))
            x = self.pool(torch.nn.functional.silu(self.bn2(self.conv2(x))))
            return self.fc(x.reshape(x.shape[0], -1))

    torch.manual_seed(7)
    model = Theirs()
    start = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    model.to(dtype)
    optimizer = getattr(torch.optim, name)(model.parameters(), **OPTIMIZERS[name])
    losses = []
    for chosen in batches:
        optimizer.zero_grad()
        output = model(torch.tensor(images[chosen], dtype=dtype))
        loss = torch.nn.functional.cross_entropy(output, torch.tensor(labels[chosen]).long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), start, model


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_curve_of_100_steps_follows_pytorchs_from_the_same_seed(name, dtype):
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    import digits

    (images, labels), _ = digits.load_data(0)
    rng = np.random.RandomState(0)
    batches = [rng.randint(0, len(labels), 64) for _ in range(100)]
    expected, start, theirs = _torch_curve(torch, name, images, labels, batches, getattr(torch, dtype))
    with jax.enable_x64(dtype == "float64"):
        nn.manual_seed(7)
        ours = digits.DigitsNet(dropout=0.0)
        for key, value in start.items():
            np.testing.assert_array_equal(ours.state_dict()[key], value, err_msg=key)
        ours.to(jnp.dtype(dtype))
        optimizer = getattr(nn.optim, name)(ours, **OPTIMIZERS[name])
        step = digits.train_step
        losses = [float(step(ours, optimizer, images[chosen].astype(dtype), labels[chosen])[0]) for chosen in batches]
        assert int(ours.bn2.num_batches_tracked) == 100
        tolerance = {"float32": 1e-3, "float64": 1e-6}[dtype]
        np.testing.assert_allclose(losses, expected, rtol=tolerance)
        np.testing.assert_allclose(ours.bn2.running_var, theirs.bn2.running_var.numpy(), rtol=tolerance)


@pytest.mark.slow
def test_the_digits_example_reaches_98_percent(tmp_path):
    for module in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(module)
    command = [sys.executable, str(ROOT / "examples" / "digits.py"), "--out", str(tmp_path), "--seed", "0"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "held-out accuracy" in result.stdout and "true\\said" in result.stdout
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    model = nn.load(tmp_path / "model.safetensors")
    assert model["bn1.num_batches_tracked"].dtype == np.int64


EXAMPLES = ROOT / "examples"
SCRIPT = str(EXAMPLES / "digits.py")


def test_the_example_names_a_missing_extra():
    code = (
        f"import sys, runpy; sys.modules['sklearn'] = None; sys.argv = ['digits.py']; sys.path[0] = {str(EXAMPLES)!r}; "
        f"runpy.run_path({SCRIPT!r}, run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2 and 'pip install "jaxnn-torch[examples]"' in result.stderr, result.stderr


def test_the_example_names_a_missing_device(tmp_path):
    for module in ("matplotlib", "sklearn", "tqdm"):
        pytest.importorskip(module, reason="an extra of the examples")
    result = subprocess.run(
        [sys.executable, SCRIPT, "--device", "tpu", "--out", str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 2 and "tpu" in result.stderr.splitlines()[-1]
