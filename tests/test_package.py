"""The package as users get it: imports, the wheel in a new environment without torch, public names."""

import importlib
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

import jaxnn as nn

ROOT = Path(__file__).parent.parent


def _run(code, *options, python=sys.executable, **kwargs):
    return subprocess.run([python, *options, "-c", textwrap.dedent(code)], capture_output=True, text=True, **kwargs)


def test_importing_loads_neither_torch_nor_what_is_needed_later():
    result = _run(
        """
        import sys, jax
        before = set(sys.modules)
        import jaxnn
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(new & {"torch", "optax", "safetensors", "rich", "matplotlib", "orbax", "tqdm", "flax"}))
        jaxnn.optim, jaxnn.load
        """,
        cwd=ROOT,
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_importing_starts_no_backend():
    code = "import jaxnn; from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    assert _run(code, cwd=ROOT).stdout.strip() == "False"


NAMESPACES = {  # and the modules in each that are public
    "jaxnn": {
        "amp",
        "attention",
        "functional",
        "grad",
        "hub",
        "init",
        "modules",
        "optim",
        "parallel",
        "tensor",
        "targets",
        "export",
        "testing",
        "utils",
    },
    "jaxnn.amp": set(),
    "jaxnn.attention": {"bias"},
    "jaxnn.attention.bias": set(),
    "jaxnn.functional": set(),
    "jaxnn.io": set(),
    "jaxnn.optim": {"lr_scheduler", "swa_utils"},
    "jaxnn.optim.lr_scheduler": set(),
    "jaxnn.parallel": {"checkpoint"},
    "jaxnn.parallel.checkpoint": set(),
    "jaxnn.porting": set(),
    "jaxnn.tensor": set(),
    "jaxnn.targets": set(),
    "jaxnn.export": set(),
    "jaxnn.testing": set(),
    "jaxnn.utils.data": set(),
    "jaxnn.utils": {"data", "parametrizations", "parametrize", "prune", "rnn", "stateless"},
}
FILES = (
    "grad",
    "hub",
    "init",
    "optim.swa_utils",
    "utils.einops",
    "utils.parametrizations",
    "utils.parametrize",
    "utils.prune",
    "utils.rnn",
)


@pytest.mark.parametrize("package", NAMESPACES)
def test_dir_shows_what_a_package_exports_and_nothing_else(package):
    module = importlib.import_module(package)
    lines = re.findall(r"^ *from \S+ import \S+ as (\w+)", Path(module.__file__).read_text(), re.MULTILINE)
    exported = {name for name in lines if not name.startswith("_")}
    constants = {"WARN_FOR_UNFUSED_KERNELS"} if package == "jaxnn.attention" else set()
    extra = {name for name in dir(module) if isinstance(getattr(module, name), types.ModuleType)}
    assert extra == NAMESPACES[package]
    assert set(dir(module)) == exported | extra | constants


@pytest.mark.parametrize("file", FILES)
def test_dir_shows_what_a_file_defines_and_nothing_else(file):
    module = importlib.import_module(f"jaxnn.{file}")
    namespace = {name for name, value in vars(module).items() if name[0] != "_" and callable(value)}
    own = {name for name in namespace if vars(module)[name].__module__ == module.__name__}
    assert own - {"Draw"} <= set(dir(module)) == set(module.__all__) <= namespace


def test_public_names_have_docstrings():
    for name in dir(nn):
        value = getattr(nn, name)
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", "").startswith("jaxnn"):
            assert (value.__doc__ or "").strip(), f"{name} has no docstring"


def test_every_class_is_documented_where_it_is_defined():
    for name in dir(nn):
        value = getattr(nn, name)
        if isinstance(value, type) and issubclass(value, nn.Module):
            assert "__doc__" in vars(value) and vars(value)["__doc__"], f"{name} inherits its docstring"


@pytest.mark.slow
def test_the_wheel_trains_in_a_new_environment_without_torch(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    wheel = next(tmp_path.glob("jaxnn_torch-*.whl"))
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    installed = subprocess.run([python, "-m", "pip", "install", "-q", str(wheel)], capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    result = _run(
        """
        import importlib.util, jax, numpy as np
        import jaxnn as nn, jaxnn.functional as F
        assert importlib.util.find_spec("torch") is None
        nn.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        optimizer = nn.optim.SGD(model, lr=0.1, momentum=0.9)

        @nn.jit
        def step(model, optimizer, x, y):
            loss, grads = nn.value_and_grad(lambda m: F.cross_entropy(m(x), y))(model)
            optimizer.step(model, grads)
            return loss

        rng = np.random.RandomState(0)
        x, y = rng.randn(16, 1, 8, 8).astype(np.float32), rng.randint(0, 10, 16).astype(np.int32)
        losses = [float(step(model, optimizer, x, y)) for _ in range(3)]
        assert losses[2] < losses[0], losses
        nn.save(model.state_dict(), "model.safetensors")
        model.load_state_dict(nn.load("model.safetensors"))
        print("trained", jax.__version__)
        """,
        python=str(python),
        cwd=tmp_path,
    )
    assert result.stdout.startswith("trained"), result.stderr


def test_the_command_line_says_what_hides_the_package(monkeypatch, capsys):
    """Beside a clone of this name an editable installation is hidden: the name is the folder then, and has nothing."""
    from jaxnn.__main__ import main

    monkeypatch.setattr(nn, "__file__", None)
    monkeypatch.setattr(nn, "__path__", ["here/jaxnn"])
    assert main(["port", "model.py"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the folder /") and "here/jaxnn hides the installed jaxnn" in said
