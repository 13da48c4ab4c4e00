"""Training scripts: the gradient step as a function of the model, with torch's losses; what is of another shape is refused."""

import importlib.util
import re
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
from jaxnn.port import port_source

torch = pytest.importorskip("torch", reason="the original runs under torch")

HEAD = """
import torch
import torch.nn as nn
import torch.nn.functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor):
        return self.head(self.body(x))


torch.manual_seed(0)
X = torch.randn(4, 6, 4)
Y = torch.arange(24).view(4, 6) % 3
DATA = [(x, y) for x, y in zip(X, Y)]
"""
PLAIN = """
def train():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for x, y in DATA:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model
"""
READ_LATER = """
def train(device="cpu"):
    model = Net().to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    running, right, losses = 0.0, 0, []
    for step, (x, y) in enumerate(DATA):
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad(set_to_none=True)

        # forward
        outputs = model(x)  # of one batch
        loss = criterion(outputs, y)
        # backward
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.5)
        optimizer.step()

        running += loss.item()
        right += (outputs.argmax(1) == y).sum().item()
        losses += [running, right, norm.item()]
    return losses, model
"""
AFTER = """
class Meter:
    def step(self):
        pass


def train():
    model = Net()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses, meter = [], Meter()
    for x, y in DATA:
        loss = F.cross_entropy(model(x), y)
        (loss / 2).backward()
        meter.step()
        nn.utils.clip_grad_value_(model.parameters(), 0.1)
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    return losses, model
"""
TRAINER = """
class Trainer:
    def __init__(self):
        self.model = Net()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def step(self, x, y):
        self.model.train()
        self.optimizer.zero_grad()
        output = self.model(x)
        loss = self.criterion(output, y)
        if loss is not None:
            loss = loss + 0.01 * output.pow(2).mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def train():
    trainer = Trainer()
    return [trainer.step(x, y) for x, y in DATA], trainer.model
"""
ACCUMULATED = """
def train():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for x, y in DATA:
        optimizer.zero_grad()
        total = 0.0
        for part, target in zip(x.chunk(2), y.chunk(2)):
            loss = F.cross_entropy(model(part), target) / 2
            loss.backward()
            total += loss.detach()
        optimizer.step()
        losses.append(total.item())
    return losses, model
"""
COUNTED = """
def train():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for epoch in range(2):
        for i, (x, y) in enumerate(DATA):
            output = model(x)
            loss = F.cross_entropy(output, y)
            loss.backward()
            if (i + 1) % 3 == 0:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    return losses, model
"""
SCRIPT = """
def train():
    model = Net()
    model = model.train()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = DATA[0]
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    opt.step()
    opt.zero_grad()
    again = F.cross_entropy(model(x), y)
    return [loss.item(), again.item(), 0.0, 0.0], model
"""
STATEFUL = """
class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 5)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor):
        hidden = self.cell(x, hidden)
        return hidden.pow(2).mean(), hidden


def train():
    model = Cell()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    hidden = torch.zeros(6, 5)
    losses = []
    for x, y in DATA:
        optimizer.zero_grad()
        hidden = hidden.detach()
        loss, hidden = model(x, hidden)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model
"""
SCALED = """
def run(model, loader, optimizer, scaler, scheduler):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        with torch.amp.autocast("cpu", enabled=False):
            output = model(x)
            loss = F.cross_entropy(output, y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        yield loss.item()


def train():
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return list(run(model, DATA, optimizer, scaler, scheduler)), model
"""
TWO = """
def train():
    first, second = Net(), Net()
    one = torch.optim.SGD(first.parameters(), lr=0.1)
    two = torch.optim.SGD(second.parameters(), lr=0.1)
    losses = []
    for x, y in DATA:
        one.zero_grad()
        loss = F.cross_entropy(first(x), y)
        loss.backward()
        one.step()
        two.zero_grad()
        other = F.cross_entropy(second(x), y) + F.mse_loss(second(x), first(x).detach())
        other.backward()
        two.step()
        losses += [loss.item(), other.item()]
    return losses, second
"""
PROGRAMS = {
    name.lower(): program
    for name, program in list(globals().items())
    if isinstance(program, str) and "def train(" in program
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_trains_with_torchs_losses(program):
    """Losses, and the weights and statistics at the end."""
    text = HEAD + PROGRAMS[program]
    ported = port_source(text, "train.py")
    assert [site.before for site in ported.sites if site.status == "cannot"] == [] and "torch" not in ported.text
    assert ".backward()" not in ported.text and "zero_grad" not in ported.text
    spaces: list[dict] = [{"__name__": "original"}, {"__name__": "ported"}]
    exec(compile(text, "original.py", "exec"), spaces[0])
    exec(compile(ported.text, "ported.py", "exec"), spaces[1])
    (theirs, model), (ours, mine) = (space["train"]() for space in spaces)
    assert len(ours) == len(theirs) > 3
    np.testing.assert_allclose(np.asarray(ours, np.float32), np.asarray(theirs, np.float32), rtol=2e-5, atol=2e-6)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(mine.state_dict()[name], value.numpy(), rtol=1e-4, atol=2e-5, err_msg=name)


def test_what_comes_out():
    """The text, as docs/port_source.md shows it: comments and layout are kept."""
    out = port_source(HEAD + READ_LATER).text
    body = out[out.index("        # forward") : out.index("        running +=")]
    assert body == textwrap.indent(
        textwrap.dedent("""\
        # forward
        def loss_fn(model):
            outputs = model(x)  # of one batch
            loss = criterion(outputs, y)
            return loss, outputs

        (loss, outputs), grads = nn.value_and_grad(loss_fn, has_aux=True)(model)
        # backward
        grads, norm = nn.utils.clip_grad_norm_(grads, max_norm=0.5)
        optimizer.step(model, grads)

        """),
        "        ",
    ).replace("        \n", "\n")
    assert (
        "loss, grads = nn.value_and_grad(lambda model: F.cross_entropy(model(x), y))(model)"
        in port_source(HEAD + PLAIN).text
    )


REFUSED = {
    "several backward": (
        "    opt.zero_grad()\n    a = m(x).mean()\n    a.backward()\n    b = m(x).sum()\n    b.backward()\n    opt.step()",
        "several backward",
    ),
    "no zero_grad": ("    loss = m(x).sum()\n    loss.backward()\n    opt.step()", "no zero_grad"),
    "retain_graph": (
        "    opt.zero_grad()\n    loss = m(x).sum()\n    loss.backward(retain_graph=True)\n    opt.step()",
        "with arguments",
    ),
    "gradients read": (
        "    opt.zero_grad()\n    loss = m(x).sum()\n    loss.backward()\n    print(m.weight.grad)\n    opt.step()",
        "reads gradients",
    ),
    "no step": ("    loss = m(x).sum()\n    loss.backward()", "no optimizer.step"),
    "a step alone": ("    opt.step()", "not seen here"),
    "another clipping": (
        "    opt.zero_grad()\n    loss = m(x).sum()\n    loss.backward()\n"
        "    nn.utils.clip_grad_norm_([m.weight], 1)\n    opt.step()",
        "clipping of something else",
    ),
    "two modules": (
        "    n = nn.Linear(4, 4)\n    opt = torch.optim.SGD([*m.parameters(), *n.parameters()])\n    opt.zero_grad()\n"
        "    loss = n(m(x)).sum()\n    loss.backward()\n    opt.step()",
        "hold them in one module",
    ),
    "a model that is hidden": (
        "    opt.zero_grad()\n    def more():\n        return m(x).sum()\n    loss = m(x).sum() + more()\n    loss.backward()\n"
        "    opt.step()",
        "uses the model by itself",
    ),
    "a branch": (
        "    opt.zero_grad()\n    loss = m(x).sum()\n    if x is not None:\n        loss.backward()\n    opt.step()",
        "different blocks",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_another_shape_is_refused_with_the_remedy(case):
    body, why = REFUSED[case]
    text = (
        "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\ndef f(x: torch.Tensor):\n"
        "    m = nn.Linear(4, 4)\n    opt = torch.optim.SGD(m.parameters(), lr=0.1)\n" + body + "\n"
    )
    sites = [site for site in port_source(text, "train.py").sites if site.status == "cannot"]
    assert sites and any(why in site.why and "nn.value_and_grad" in site.why for site in sites), [s.why for s in sites]
    space: dict = {}
    exec(port_source(text, "train.py").text, space)
    with pytest.raises(NotImplementedError, match=r"train.py:\d+"):
        space["f"](jnp.ones((2, 4)))


TRIAL = """
import torch
import torch.nn as nn


class Keeper:
    def __init__(self, model):
        self.model = model


def count(model):
    return len(list(model.parameters()))


def small():
    return nn.Linear(4, 3)


def trial():
    kept, shapes = [], []
    net = small()
    for make in [small, small]:
        net = make()
        net.eval()
        shapes.append(count(net))
        x = torch.randn(2, 4)
        y = net(x)
        y.sum().backward()
        shapes.append(tuple(y.size()))
    return shapes
"""


def test_a_backward_whose_gradients_nobody_reads_is_computed():
    """What packages have at the end of a file: one pass there and back, and the shape of what came out."""
    ported = port_source(TRIAL, "trial.py")
    assert [site.status for site in ported.sites if site.name == "loss.backward()"] == ["changed"]
    assert "(_, y), _ = nn.value_and_grad(loss_fn, has_aux=True)(net)" in ported.text
    spaces: list[dict] = [{}, {}]
    exec(TRIAL, spaces[0])
    exec(ported.text, spaces[1])
    assert spaces[1]["trial"]() == spaces[0]["trial"]() == [2, (2, 3)] * 2


READERS = {
    "the caller": ("return shapes", "return net"),
    "a list": ("net.eval()", "kept.append(net)"),
    "another name": ("net.eval()", "other = net"),
    "an object": ("net.eval()", "kept = Keeper(net)"),
    "the next round": ("        net = make()\n", ""),
    "what is called behind it": ("shapes.append(tuple(y.size()))", "count(net)"),
    "what reads .grad": ("shapes.append(tuple(y.size()))", "print(x.grad)"),
    "an optimizer": ("net.eval()", "kept = torch.optim.SGD(net.parameters(), lr=0.1)"),
    "who gave the input": ("def trial():", "def trial(x):"),
    "who gave the model": ("def trial():", "def trial(net):"),
    "a second backward": ("y.sum().backward()", "y.sum().backward()\n        net(x).sum().backward()"),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_backward_whose_gradients_may_be_read_is_refused(reader):
    before, after = READERS[reader]
    assert TRIAL.count(before) == 1
    sites = port_source(TRIAL.replace(before, after), "trial.py").sites
    assert [site.status for site in sites if site.name in ("backward()", "loss.backward()")] in (
        ["cannot"],
        ["cannot"] * 2,
    )


def test_a_backward_that_is_no_gradient_stays():
    text = """
    import torch


    class F(torch.autograd.Function):
        @staticmethod
        def backward(ctx, g):
            return g


    def f(engine, loss):
        engine.backward(loss)
    """
    text = textwrap.dedent(text)
    assert "engine.backward(loss)" in port_source(text).text


TUTORIAL = Path(__file__).parents[2] / "examples" / "tutorial"


def test_a_whole_script_trains_with_torchs_losses(tmp_path):
    """The tutorial script: groups, schedules, a scaler, parts of a batch, an average, checkpoints."""
    for package in ("sklearn", "tensorboardX"):
        pytest.importorskip(package)
    text = (TUTORIAL / "train_torch.py").read_text()
    ported = port_source(text, "train_torch.py")
    assert all(site.decided for site in ported.sites)
    (tmp_path / "ported_script.py").write_text(ported.text)
    runs = []
    for path in (TUTORIAL / "train_torch.py", tmp_path / "ported_script.py"):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        load = module.load_digits

        def few(load=load):
            digits = load()
            digits.images, digits.target = digits.images[:389], digits.target[:389]
            return digits

        module.load_digits = few
        runs.append(module.main(["--epochs", "3", "--batch", "64", "--out", str(tmp_path / path.stem)]))
    (theirs, right), (ours, mine) = runs
    assert len(ours) == len(theirs) == 6
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_allclose(mine, right, rtol=0, atol=1e-2)
    checkpoint = nn.load(tmp_path / "ported_script" / "checkpoint.pt")
    expected = torch.load(tmp_path / "train_torch" / "checkpoint.pt", weights_only=False)
    for name, value in expected["model"].items():
        np.testing.assert_allclose(checkpoint["model"][name], value.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_page_shows_what_the_tool_writes():
    """docs/port_source.md: each block behind "ported: the block above" is the port of the PyTorch block before it."""
    page = (Path(__file__).parents[2] / "docs" / "port_source.md").read_text()
    pairs = re.findall(
        r'```python title="PyTorch"\n(.*?)```\n\n<!-- ported.*?-->\n```python\n(.*?)```', page, re.DOTALL
    )
    assert len(pairs) == 2
    for before, after in pairs:
        assert port_source(before, "page.py").text == after
