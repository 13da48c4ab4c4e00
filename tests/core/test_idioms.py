"""What a PyTorch user types first: each exception says what to write here, in eager code and under every jit."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.base import explaining
from jaxnn.base.idioms import IDIOMS

PAGE = Path(__file__).parents[2] / "docs" / "porting.md"
x, y = jnp.arange(24.0).reshape(2, 3, 4), jnp.arange(24.0)[::-1].reshape(2, 3, 4)
i, n, v = jnp.array([1, 0]), 3, 2.0
MISSING = [(row, name) for row in IDIOMS for name in row.names]


class Runs(nn.Module):
    """A layer whose forward is the code."""

    def __init__(self, code):
        super().__init__()
        self.code = code
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return eval(compile(self.code, "<idiom>", "eval"), {**globals(), "x": x, "self": self})


MODES = {
    "eager": lambda layer: layer(x),
    "nn.jit": lambda layer: nn.jit(layer)(x),
    "jax.jit": lambda layer: jax.jit(lambda layer, x: layer(x))(layer, x),
    "nn.jit, no module": lambda layer: nn.jit(lambda x: layer.forward(x))(x),
    "nn.grad": lambda layer: nn.grad(lambda layer: layer(x))(layer),
}


def notes(run, layer):
    """The notes of jaxnn on the exception that `run` ends with."""
    with pytest.raises(Exception) as caught:
        run(layer)
    return [note for note in getattr(caught.value, "__notes__", []) if note.startswith("jaxnn: instead")]


@pytest.mark.parametrize("mode", MODES)
def test_every_missing_attribute_of_an_array_says_what_to_write(mode):
    for row, name in MISSING:
        if row.of == "array" and not (name == "clone" and mode in ("eager", "nn.grad")):
            assert notes(MODES[mode], Runs(f"x.{name}")) == [row.text(name)], name


def test_numpys_arrays_are_explained_too():
    """They are what a DataLoader and `nn.load` give, and so what the first line of a script meets."""
    for array, name, says in ((np.ones(3), "to", "write `batch`"), (np.float32(1), "cpu", "jaxnn: instead of")):
        with pytest.raises(AttributeError) as caught:
            getattr(array, name)
        explaining.explain(caught.value)
        assert says in caught.value.__notes__[0]


def test_what_a_parameter_and_modules_lack():
    owners = {"box": "next(self.parameters())", "jnp": "jnp"}
    for row, name in MISSING:
        if row.of in owners:
            assert notes(MODES["eager"], Runs(f"{owners[row.of]}.{name}")) == [row.text(name)], name
        elif row.of == "nn" and not hasattr(nn, name):
            with pytest.raises(AttributeError, match="has no attribute") as caught:
                getattr(nn, name)
            assert row.text(name) in str(caught.value)


# By what is typed: code that meets the row's exception, and where ("" for everywhere).
SAID = {
    "x.view(2, -1)": [("x.view(2, -1)", "")],
    "x.view(-1)": [("x.view(-1)", ""), ("x.view(x.shape)", ""), ("self.fc(x).view(-1)", "")],
    "x.view(2, 3, 4)": [("x.view(2, 3, 4)", "")],
    "x.size(0)": [("x.size(0)", ""), ("self.fc.weight.size(0)", "")],
    "x.ndim()": [("x.ndim()", "")],
    "x.shape()": [("x.shape()", "")],
    "x.transpose(1, 2)": [("x.transpose(1, 2)", "")],
    "x.repeat(3, 1, 1)": [("x.repeat(3, 1, 1)", "")],
    "x.flatten(1)": [("x.flatten(1)", "")],
    "x.flatten(start_dim=1)": [("x.flatten(start_dim=1)", "")],
    "x.mean(dim=1, keepdim=True)": [
        *((f"x.{name}(dim=1)", "") for name in "mean sum max argmax std squeeze sort cumsum any prod".split()),
        ("x.mean(1, keepdim=True)", ""),
        ("jnp.concatenate([x, x], dim=1)", ""),
        ("jnp.var(x, dim=1)", ""),
    ],
    "a.view(2, -1)": [("np.asarray(x).view(2, -1)", "eager")],
    "a.transpose(1, 2)": [("np.asarray(x).transpose(1, 2)", "eager")],
    "a.flatten(1)": [("np.asarray(x).flatten(1)", "eager")],
    "x.sum(1, True)": [("x.sum(1, True)", "")],
    'torch.zeros(3, device="cuda")': [('jnp.zeros(3, device="cuda")', "")],
    "torch.ones(2, 3, 4)": [("jnp.ones(2, 3, 4)", "")],
    "a loss for each example": [("nn.value_and_grad(lambda m: m(x))(self.fc)", "eager")],
    "return loss, logits": [("nn.value_and_grad(lambda m: (m(x).sum(), m(x)))(self.fc)", "eager")],
    "a `loss_fn` without `return`": [("nn.value_and_grad(lambda m: None)(self.fc)", "eager")],
    "if x.sum() > 0:": [("1 if x.sum() > 0 else 2", "jit")],
    "for _ in range(n):": [("[0 for _ in range(x.sum().astype(int))]", "jit")],
    "loss.item()": [("x.sum().item()", "jit"), ("float(x.sum())", "jit")],
    'print(f"{loss:.3f}")': [("f'{x.sum():.3f}'", "jit")],
    "x.detach().cpu().numpy()": [("np.asarray(x)", "jit")],
    "x[x > 0]": [("x[x > 0]", "jit")],
    "torch.zeros(n, 3)": [("jnp.zeros((x.sum().astype(int), 3))", "jit")],
    "nn.tensor(values)": [("nn.tensor([1.0])", "eager")],
    "from jaxnn import nn": [("__import__('jaxnn.nn')", "eager"), ("exec('from jaxnn import nn')", "eager")],
    "from torch.utils.tensorboard import SummaryWriter": [
        ("exec('from jaxnn.utils.tensorboard import SummaryWriter')", "eager"),
        ("exec('from jaxnn.utils import tensorboard')", "eager"),
    ],
    "`@nn.jit` on an epoch: `train(model, loader)`": [
        ("nn.jit(lambda m, loader: loader)(self.fc, nn.utils.data.DataLoader([1]))", "eager"),
    ],
    'step(model, x, "train")': [("nn.jit(lambda x, mode: x)(x, 'train')", "eager")],
    "`@nn.jit` on a method of a Trainer": [("Trainer().step(x)", "eager"), ("Trainer().plain(x)", "eager")],
}


class Trainer:
    """The class around a training loop that people write."""

    @nn.jit
    def step(self, x):
        return x

    @jax.jit
    def plain(self, x):
        return x


@pytest.mark.parametrize("mode", MODES)
def test_every_call_that_fails_says_what_to_write(mode):
    rows = {row.torch: row for row in IDIOMS if row.meets is not None and not row.names}
    for torch_code, cases in SAID.items():
        for code, where in cases:
            if where == "" or where == mode or (where == "jit" and "jit" in mode):
                said = notes(MODES[mode], Runs(code))
                if "P<keyword>" in rows[torch_code].says:
                    function, argument = re.search(r"(\w+)\(.*?((?:keep)?dim)=", code).groups()
                    here = {"dim": "axis=1", "keepdim": "keepdims=True"}[argument]
                    assert said[0].startswith(f"jaxnn: instead of `{function}(..., {argument}="), (code, said)
                    assert f"write `{function}(..., {here})`" in said[0] and len(said) == 1, (code, said)
                else:
                    assert said == [rows[torch_code].text()], code


def test_what_numpys_arrays_lack():
    """They are what `DataLoader` and `nn.load` give. NumPy's own functions are named, not jnp's."""
    array = np.ones((2, 3), np.float32)
    for row, name in MISSING:
        if row.of in ("array", "numpy") and not hasattr(array, name):
            with pytest.raises(AttributeError) as caught:
                getattr(array, name)
            said = explaining.find(caught.value)
            assert said.startswith("jaxnn: instead of "), name
            for module, function in re.findall(r"\b(np|jnp)\.([\w.]+)", said):
                found = functools.reduce(lambda at, part: getattr(at, part, None), function.split("."), np)
                assert (found is not None) == (module == "np"), said
            assert "Arrays do not change in place" not in said, said
    note = notes(MODES["eager"], Runs("np.asarray(x).to('cuda')"))[0]
    assert "write `batch`" in note and "DataLoader(..., device=device)" in note
    assert "`np.expand_dims(x, 1)`" in notes(MODES["eager"], Runs("np.asarray(x).unsqueeze(1)"))[0]
    for code, here in (("view(-1)", "x.reshape(-1)"), ("view(2, 3, 4)", "x.reshape(2"),
                       ("size(0)", "x.shape[0]"), ("repeat(3, 1, 1)", "tile(x, (3, 1, 1))"),
                       ("mean(dim=1)", "mean(..., axis=1)")):  # fmt: skip
        said = notes(MODES["eager"], Runs(f"np.asarray(x).{code}"))
        assert said and here in said[0], (code, said)


def test_what_to_write_for_numpys_arrays_computes_what_torch_computes():
    torch = pytest.importorskip("torch")
    start, compared = (
        {"a": np.asarray([[0.5, -2, 3], [1, 4, 2]], np.float32), "i": np.asarray([1, 0]), "v": np.float32(2)},
        0,
    )
    start |= {"y": np.full((2, 3), 3, np.float32), "m": np.asarray([[True, False, True], [False, False, True]])}
    for row in IDIOMS:
        if row.of != "numpy" or not row.names[0].endswith("_") or "random" in row.here:
            continue
        known, theirs = ({name: value.copy() for name, value in start.items()} for _ in range(2))
        theirs = {name: torch.from_numpy(np.asarray(value)) for name, value in theirs.items()}
        if "index" in row.torch:
            known["v"], theirs["v"] = known["y"], theirs["y"]
        exec(row.here, known | {"np": np}, known)
        eval(row.torch, theirs)
        np.testing.assert_allclose(known["a"], theirs["a"].numpy(), rtol=1e-6, err_msg=row.torch)
        compared += 1
    assert compared > 9


@pytest.mark.filterwarnings("ignore:Python iterable type:DeprecationWarning")
@pytest.mark.parametrize(
    "make", [lambda: enumerate([1]), lambda: iter(nn.utils.data.DataLoader([1])), lambda: (i for i in "a")]
)
def test_what_goes_over_batches_is_no_configuration(make):
    with pytest.raises(TypeError) as caught:
        nn.jit(lambda batches: batches)(make())
    assert "called in the loop over the loader" in explaining.find(caught.value)


def test_an_error_without_source_is_explained_too():
    """As in shells that keep no source: the method that the code mentions."""
    assert notes(lambda _: eval("self(x)", {"self": Runs("x.size(0)"), "x": x}), None)
    assert not notes(MODES["eager"], Runs("len(x)(0)"))  # another int that is called


def test_an_exception_is_explained_once_and_others_are_left_alone():
    assert len(notes(MODES["eager"], nn.Sequential(nn.Sequential(Runs("x.permute(0, 2, 1)"))))) == 1
    for code in ("x.foo", "x.mean(bar=1)", "1 / 0", "[][0]", "self.fc.wieght"):
        assert notes(MODES["eager"], Runs(code)) == []


def test_rows_about_torch_itself():
    torch = pytest.importorskip("torch")
    rows = {row.torch: row for row in IDIOMS}
    tensors = {"torch": torch, "t": torch.ones(2, 3, 4), "x": x, "nn": nn}

    def met(code):
        try:
            eval(code, tensors)
        except Exception as error:
            return explaining.find(error)

    for code in ("torch.cat([x, x])", "torch.relu(x)", "torch.nn.Linear(4, 3)(x)"):
        assert met(code) == rows["torch.cat([x, y])"].text()
    for code in ("x + t", "t + x", "x * t"):
        assert met(code) == rows["x + tensor"].text()
    assert met("nn.jit(lambda x: x)(t)") == rows["`step(x, y)` with tensors"].text()
    seen = {*SAID, "torch.cat([x, y])", "x + tensor", "`step(x, y)` with tensors"}
    assert seen == {row.torch for row in IDIOMS if row.meets is not None and not row.names}


# Not compared: what computes nothing, draws at random, or differs in type alone.
NO_VALUES = {"x.data", "x.contiguous()", "x.is_contiguous()", "x.clone()", "x.cuda()", "x.cpu()", "x.numpy()"}
NO_VALUES |= {"x.grad", "x.requires_grad_()", "x.detach()", "x.multinomial(1)", "x.normal_()", "x.to(torch.float16)"}
NO_VALUES |= {"x.data_ptr()", "x.register_hook(f)", "x.type(torch.float32)", "x.unfold(1, 2, 1)", "x.double()"}


def test_what_to_write_computes_what_torch_computes():
    torch = pytest.importorskip("torch")
    square = jnp.arange(16.0).reshape(4, 4) / 7 + 0.1
    here = {"jnp": jnp, "jax": jax, "nn": nn, "F": F, "numpy": np, "v": 2.0}
    shapes = {"x": x / 23 + 0.01, "y": y / 23 + 0.01, "m": x > 3, "i": i, "index": jnp.zeros((2, 3, 4), int)}
    codes = {}

    for row in IDIOMS:
        for name in row.names if "{}" in row.torch else row.names[:1] or ("",):
            code = row.torch.replace("{}", name)
            compares = code.startswith("x.") and row.meets in (
                AttributeError,
                TypeError,
                ValueError,
                NotImplementedError,
            )
            if compares and code not in NO_VALUES | {"x.ndim()", "x.shape()"}:  # the last two are not torch's either
                codes[code] = row.here.replace("{}", name).removeprefix("x = ")

    def arrays(code):
        if code == "x.t()":
            return shapes | {"x": square}
        return shapes | {"x": square[0], "i": jnp.array([1, 0])} if "scatter" in code else shapes

    def theirs(code):
        known = {key: torch.from_numpy(np.array(value)) for key, value in arrays(code).items()}
        known["v"] = torch.full((2,), 2.0) if code.startswith("x.scatter") else 2.0
        return eval(code, known | {"torch": torch})

    def parts(value):
        return list(value) if isinstance(value, (list, tuple)) else [value]

    # One program: as many eager calls would compile each by itself. Sizes and flags come out as arrays.
    ours = jax.jit(lambda: {code: [jnp.asarray(part) for part in parts(eval(text, here | arrays(code)))]
                            for code, text in codes.items()})()  # fmt: skip
    for code, values in ours.items():
        expected = [torch.as_tensor(part).float().numpy() for part in parts(theirs(code))]
        assert [value.shape for value in values] == [part.shape for part in expected], code
        for value, part in zip(values, expected):
            np.testing.assert_allclose(np.asarray(value, np.float32), part, rtol=1e-5, atol=1e-6, err_msg=code)
    assert len(codes) > 90, len(codes)


def test_rows_that_meet_nothing_are_silent_and_right():
    torch = pytest.importorskip("torch")
    matrix = x[0]
    for row in IDIOMS:
        if row.meets is None:
            theirs = eval(row.torch, {"x": torch.from_numpy(np.array(matrix))})
            naive, here = (eval(code, {"x": matrix, "jnp": jnp}) for code in (row.torch, row.here))
            if row.torch == "x.max(1)":
                assert (np.asarray(here) == np.stack(theirs)).all() and naive.shape == (3,)
                continue
            np.testing.assert_allclose(here, theirs, rtol=1e-6)
            assert naive.shape != theirs.shape or not np.allclose(naive, theirs)


def test_the_table_is_about_what_torch_has_and_jax_has_not():
    torch = pytest.importorskip("torch")
    for row, name in MISSING:
        if row.of == "array":
            assert hasattr(torch.Tensor, name), name
            assert name == "clone" or not hasattr(jnp.ones(()), name), name
        elif row.of == "numpy":
            assert hasattr(torch.Tensor, name) and not hasattr(np.ndarray, name), name
        elif row.of == "jnp":
            assert hasattr(torch, name) or hasattr(torch.nn.functional, name), name
            assert not hasattr(jnp, name), name


SCRIPT = """
import sys
said = []
sys.excepthook = lambda kind, error, traceback: said.append(str(error)) or sys.__excepthook__(kind, error, traceback)
import jax.numpy as jnp, jaxnn as nn
model = nn.Linear(3, 1)
loss = model(jnp.ones((4, 3))).mean()
loss.backward()
"""


def test_a_script_that_ends_with_loss_backward_says_what_to_write(tmp_path):
    """It passes through no function of jaxnn; a hook that was there before is called as well."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT + "\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    row = next(row for row in IDIOMS if row.names == ("backward",))
    assert done.returncode == 1 and done.stderr.rstrip().endswith(row.text())
    assert "AttributeError" in done.stderr and "loss.backward()" in done.stderr


def test_the_page_has_the_table():
    """Made by ``python -c "from jaxnn.base.explaining import table; print(table())"``."""
    assert explaining.table() in PAGE.read_text()


# What the layers' own checks say.
OWN = [
    ("nn.Linear(4, 3)([[1.0, 2.0, 3.0, 4.0]])", "expected a jax array, got a list. Write jnp.asarray(x)"),
    ("F.relu([1.0])", "got a list. Write jnp.asarray(x)"),
    ("F.cross_entropy(x[0], [0, 1, 2])", "target: expected a jax array, got a list. Write jnp.asarray(x)"),
    ("nn.Linear(4, 3)(nn.ReLU())", "got a ReLU. A layer is made first and called then: nn.ReLU(...)(x)"),
    ("nn.Linear(4, 3)(nn.ReLU)", "got the class ReLU. A layer is made first"),
    ("nn.Conv2d(3, 4, 3)(jnp.ones((2, 8, 8, 3)))", "before the image's sizes, as in PyTorch: write jnp.moveaxis(x, -1, -3)"),
    ("nn.Conv1d(3, 4, 3)(jnp.ones((2, 8, 3)))", "write jnp.moveaxis(x, -1, -2)"),
    ("nn.Conv2d(3, 16 / 2, 3)", "Conv2d: out_channels: expected an int, got 8.0 (float). Write a // b for a / b"),
    ("nn.Linear(x, 3)", "in_features: expected an int, got float32[2, 3, 4]. A layer is made of options"),
    ("nn.ReLU(x)", "ReLU: inplace: expected an option, got float32[2, 3, 4]. A layer is made first and called then: nn.ReLU()"),
    ("nn.Softmax(x)", "nn.Softmax()(x)"),
    ("nn.LeakyReLU(x)", "nn.LeakyReLU()(x)"),
    ("nn.Dropout(x)", "Dropout: p: expected a probability from 0 to 1, got float32[2, 3, 4]. A layer is made of options"),
    ("nn.MSELoss(x, y)", "MSELoss: size_average: expected None or a bool, got float32[2, 3, 4]. A loss is made first"),
    ("nn.CrossEntropyLoss(x[0], i)", "nn.CrossEntropyLoss()(input, target)"),
    ("nn.Sequential([nn.ReLU()])", "list is not a Module subclass. Write Sequential(*layers)"),
    ("nn.Sequential(F.relu)", "function is not a Module subclass. Write the layer for the function"),
    ("nn.Sequential(nn.ReLU)", "type is not a Module subclass. Make the layer: ReLU(...), not ReLU"),
    ("nn.Linear(4, 3).cuda()", "JAX computes on its default device without being told"),
    ("nn.Linear(4, 3).load_state_dict('model.pt')", "Write load_state_dict(nn.load(path))"),
    ("nn.value_and_grad(nn.Linear(4, 3)(x).sum())", "expected a function of the model, got float32[]"),
    ("nn.jit(x)", "expected a function, a module or a method of one, got float32[2, 3, 4]"),
    ("nn.value_and_grad(lambda: x.sum())()", "Write it as a function of the model"),
    ("nn.value_and_grad(lambda m: m(x).sum(), has_aux=True)(nn.Linear(4, 3))", "with has_aux that it returns (loss, aux)"),
    ("nn.Linear(4, 3)(x, x)", "Linear.forward() takes 2 positional arguments but 3 were given"),
    ("nn.BatchNorm2d(3)(x, x)", "BatchNorm2d.forward() takes 2 positional arguments but 3 were given"),
    ("nn.Conv2d(3, 16)", "Conv2d.__init__() missing 1 required positional argument: 'kernel_size'"),
    ("F.softmax(x, axis=1)", "softmax() got an unexpected keyword argument 'axis'"),
]  # fmt: skip
STEPS = {
    "optimizer.step()": "got neither. Gradients are values here, not attributes of the parameters. Write: loss, grads =",
    "optimizer.step(model)": "got no gradients",
    "optimizer.step(grads)": "got a dict for the model",
    "optimizer.step(model, pair)": "got a pair: nn.value_and_grad gives the loss and the gradients",
    "optimizer.step(lambda: 1.0)": "A closure takes the model: optimizer.step(model, lambda m: loss_fn(m(x), y))",
    "optimizer.step(model, module)": "jax.grad gives a module of gradients; nn.grad gives them by name",
    "optimizer.step(model, [1])": "got a list for the gradients",
}


@pytest.mark.parametrize("code, says", OWN)
def test_what_our_own_checks_say(code, says):
    with pytest.raises((TypeError, ValueError, RuntimeError)) as caught:
        eval(code)
    assert says in str(caught.value), str(caught.value)


def test_what_an_optimizer_says():
    model = nn.Linear(4, 3)
    pair = nn.value_and_grad(lambda m: m(x).sum())(model)
    known = {"model": model, "pair": pair, "grads": pair[1], "optimizer": nn.optim.SGD(model, lr=0.1)}
    known["module"] = jax.grad(lambda m: m(x).sum())(model)
    for code, says in STEPS.items():
        with pytest.raises(TypeError) as caught:
            eval(code, known)
        assert says in str(caught.value) and len(str(caught.value)) < 330, code


def test_torchs_tensors_are_told_apart():
    torch = pytest.importorskip("torch")
    for run in (lambda t: nn.Linear(4, 3)(t), F.relu, lambda t: F.mse_loss(x, t)):
        with pytest.raises(TypeError, match=r"Write jnp.asarray\(x.numpy\(\)\) for a tensor x of torch"):
            run(torch.ones(2, 4))
