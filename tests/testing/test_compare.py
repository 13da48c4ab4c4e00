"""The comparer on planted mistakes: it has to name the submodule and the cause."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.testing import Trace, compare, record

torch = pytest.importorskip("torch")
X = np.random.RandomState(0).randn(2, 3, 8, 8).astype(np.float32)
TOKENS = np.random.RandomState(1).randn(2, 6, 8).astype(np.float32)
HIDDEN = np.arange(6) >= np.array([[4], [6]])  # True where a position is padding


def _load(ours, theirs, change=None):
    """Our model with the other's weights, which `change` may spoil."""
    state = {name: value.detach().numpy().copy() for name, value in theirs.state_dict().items()}
    if change:
        change(state)
    ours.load_state_dict(state)
    return ours


def _cnn(nn, bn=None, act=None, **conv):
    options = dict(padding=1) | conv
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, **options), bn or nn.BatchNorm2d(8), act or nn.GELU(), nn.Conv2d(8, 4, 3, padding=1)
    )


def _planted_cnn(change=None, **options):
    theirs = _cnn(torch.nn)
    return theirs, _load(_cnn(nn, **options), theirs, change), (X,)


class BiasedBatchNorm(nn.BatchNorm2d):
    """Forgets that the running variance is divided by n - 1."""

    def forward(self, input):
        before = self.running_var
        output = super().forward(input)
        biased = input.var((0, 2, 3))
        self.running_var = (1 - self.momentum) * before + self.momentum * biased
        return output


class OwnCode(nn.Module):
    """Two layers and code between them, as `change` says."""

    def __init__(self, change=lambda x: x, after=lambda x: x):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)
        self.change, self.after = change, after

    def forward(self, x):
        return self.after(self.second(self.change(self.first(x))))


class TheirCode(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def _own_code(**changes):
    theirs = TheirCode()
    return theirs, _load(OwnCode(**changes), theirs), (TOKENS,)


class Attends(nn.Module):
    def __init__(self, invert=False):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.invert = invert

    def forward(self, x, hidden):
        return self.attention(x, x, x, key_padding_mask=~hidden if self.invert else hidden)[0]


class TheyAttend(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, hidden):
        return self.attention(x, x, x, key_padding_mask=hidden)[0]


def _attention():
    theirs = TheyAttend()
    return theirs, _load(Attends(invert=True), theirs), (TOKENS, HIDDEN)


def _recurrent(order, kind="LSTM"):
    theirs = getattr(torch.nn, kind)(8, 5, batch_first=True)
    gates = len(order)

    def reorder(state):
        for name, value in state.items():
            state[name] = np.concatenate([np.split(value, gates)[i] for i in order])

    ours = _load(getattr(nn, kind)(8, 5, batch_first=True), theirs, reorder)
    return torch.nn.Sequential(theirs), nn.Sequential(ours), (TOKENS,)


def _transposed(state):
    state["0.weight"] = state["0.weight"].T.copy()


def _linear(change):
    theirs = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh())
    return theirs, _load(nn.Sequential(nn.Linear(8, 8), nn.Tanh()), theirs, change), (TOKENS,)


def _evaluated():
    theirs = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5)).eval()
    return theirs, _load(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), theirs), (TOKENS,)


def _halves():
    theirs = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))
    ours = _load(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), theirs)
    ours[1].bfloat16()
    ours[1].register_forward_pre_hook(lambda m, args: (args[0].astype(jnp.bfloat16),))
    return theirs, ours, (TOKENS,)


class LowPrecision(nn.Linear):
    def forward(self, input):
        low = [array.astype(jnp.bfloat16).astype(jnp.float32) for array in (input, self.weight)]
        return F.linear(*low, self.bias)


def _low_precision():
    theirs = torch.nn.Sequential(torch.nn.Linear(8, 8))
    ours = nn.Sequential(LowPrecision(8, 8))
    ours[0].__class__ = type("Linear", (LowPrecision,), {})
    return theirs, _load(ours, theirs), (TOKENS,)


def _pooled(**options):
    return torch.nn.Sequential(torch.nn.AvgPool2d(3, 2, 1)), nn.Sequential(nn.AvgPool2d(3, 2, 1, **options)), (X,)


class Channels(nn.Module):
    """Hands its layer channels last."""

    def __init__(self):
        super().__init__()
        self.norm = nn.Identity()

    def forward(self, x):
        return self.norm(jnp.moveaxis(x, 1, -1))


class TheirChannels(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.Identity()

    def forward(self, x):
        return self.norm(x)


def _flipped(state):
    state["0.weight"] = state["0.weight"][:, :, ::-1, ::-1].copy()


def _unloaded(state):
    state["3.weight"] = np.zeros_like(state["3.weight"])


def _shuffled(state):
    state["3.bias"] = state["3.bias"][::-1].copy()


PLANTED = {
    "padding of the convolution": (lambda: _planted_cnn(padding=0), "0", "padding"),
    "stride of the convolution": (lambda: _planted_cnn(stride=2), "0", "option stride"),
    "another eps": (lambda: _planted_cnn(bn=nn.BatchNorm2d(8, eps=1e-3)), "1", "eps"),
    "momentum the other way": (lambda: _planted_cnn(bn=nn.BatchNorm2d(8, momentum=0.9)), "1", "momentum"),
    "biased running variance": (lambda: _planted_cnn(bn=_biased()), "1", "variance bias"),
    "tanh gelu": (lambda: _planted_cnn(act=nn.GELU("tanh")), "2", "gelu"),
    "another activation": (lambda: _planted_cnn(act=nn.SiLU()), "2", "gelu \\(exact\\) in PyTorch, silu here"),
    "gate order of the LSTM": (lambda: _recurrent((0, 1, 3, 2)), "0", "gate order.*i, f, g, o.*i, f, o, g"),
    "gate order of the GRU": (lambda: _recurrent((1, 0, 2), "GRU"), "0", "gate order.*z, r, n"),
    "transposed kernel": (lambda: _linear(_transposed), "0", "transposed kernel"),
    "flipped kernel": (lambda: _planted_cnn(_flipped), "0", "flipped kernel"),
    "a weight not loaded": (lambda: _planted_cnn(_unloaded), "3", "3?weight differs.*Was it loaded"),
    "a bias in another order": (lambda: _planted_cnn(_shuffled), "3", "bias differs.*another order"),
    "mask polarity": (_attention, "attention", "mask polarity"),
    "train, not eval": (_evaluated, "1", "mode: train|eval/train"),
    "half precision": (_halves, "1", "precision mode|bfloat16"),
    "low matmul precision": (_low_precision, "0", "precision mode"),
    "average without padding": (lambda: _pooled(count_include_pad=False), "0", "counts the padding"),
    "ceil mode": (lambda: _pooled(ceil_mode=True), "0", "ceil_mode"),
    "channels last": (lambda: (TheirChannels(), Channels(), (X,)), "norm", "layout"),
    "a forgotten activation": (lambda: _own_code(), "second", "relu is missing"),
    "a scale too much": (lambda: _own_code(change=lambda x: F.relu(x) * 0.5), "second", "0.5 times"),
    "code after the layers": (
        lambda: _own_code(change=F.relu, after=lambda x: x * 2),
        "",
        "its own code.*2 times",
    ),
}


def _biased():
    layer = BiasedBatchNorm(8)
    layer.__class__ = type("BatchNorm2d", (BiasedBatchNorm,), {})
    return layer


@pytest.mark.parametrize("name", PLANTED)
def test_finds_the_mistake(name):
    torch.manual_seed(0)
    make, path, cause = PLANTED[name]
    theirs, ours, inputs = make()
    found = compare(theirs, ours, *inputs)
    assert found.first == path, found.summary()

    assert re.search(cause, found.cause), found.summary()
    assert not found and found.inputs and found.error > 0
    assert f"part at {path or '(the model)'}" in found.summary()


@pytest.mark.parametrize("train", [True, False])
def test_a_right_port_agrees(train):
    torch.manual_seed(0)
    for theirs, ours, inputs in (_planted_cnn(), _own_code(change=F.relu), _recurrent((0, 1, 2, 3))):
        found = compare(theirs.train(train), ours.train(train), *inputs)
        assert found and found.agrees, found.summary()
        assert all(row.own_gradient > 0 for row in found.rows)


def _in_place(package, forward):
    """A model of either package whose forward may write to what its layers gave."""

    class Model(package.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = package.Conv2d(3, 3, 1), package.Conv2d(3, 3, 1)
            self.relu, self.same = package.ReLU(inplace=True), package.Identity()
            self.flat, self.drop = package.Flatten(), package.Dropout(0.0, inplace=True)
            self.act = package.Hardswish(inplace=True)

        def forward(self, x):
            return forward(self, x)

    return Model()


def _added(m, x):
    out = m.a(x)
    out += x
    return m.relu(out)


def _doubled(m, x):
    out = m.a(x)
    out *= 2
    return out


def _block(m, x):
    out = m.b(m.relu(m.a(x)))
    out += x
    out = m.relu(out)
    return m.b(out)


def _view(m, x):
    out = m.flat(m.a(x))
    out += 1
    out = m.same(out)
    out *= 2
    return out


def _view_used_before(m, x):
    out = m.flat(m.a(x))
    before = out * 3
    out += 1
    return out + before


IN_PLACE = {
    "relu": lambda m, x: m.relu(m.a(x)),
    "+=": _added,
    "*=": _doubled,
    "block": _block,
    "chain": lambda m, x: m.relu(m.drop(m.act(m.a(x)))),
    "the input": lambda m, x: m.b(m.relu(x)),
    "a view": _view,
    "a view used before": _view_used_before,
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_what_pytorch_writes_in_place_is_no_difference(name, tmp_path):
    torch.manual_seed(0)
    theirs = _in_place(torch.nn, IN_PLACE[name])
    ours = _load(_in_place(nn, IN_PLACE[name]), theirs)
    found = compare(theirs, ours, X)
    assert found, found.summary()
    mine = record(ours, X)
    for wide in (False, True):
        record(theirs, X, float64=wide).save(tmp_path / "run.pt")
        run = Trace.load(tmp_path / "run.pt")
        assert compare(run, ours), compare(run, ours).summary()
        for call, other in zip(run.calls, mine.calls):
            assert call.path == other.path and (call.gradients or "view" in name)
            for key, value in call.inputs.items():  # as the call found them
                np.testing.assert_allclose(value, other.inputs[key], atol=1e-5)


def test_a_gradient_that_parts_is_found_among_in_place_layers():
    theirs = _in_place(torch.nn, IN_PLACE["block"])

    def leaks(m, x):
        out = m.b(m.relu(m.a(x)))
        return m.b(m.relu(out * 0.5 + jax.lax.stop_gradient(out) * 0.5 + x))

    found = compare(theirs, _load(_in_place(nn, leaks), theirs), X)
    assert found.what == "gradient" and found.first == "b"
    assert "backward pass" in found.cause and "stop_gradient" in found.cause


def test_models_are_left_as_they_were():
    theirs, ours, inputs = _planted_cnn()
    before = {name: np.array(value) for name, value in ours.state_dict().items()}
    compare(theirs, ours, *inputs)
    for name, value in ours.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    assert int(theirs[1].num_batches_tracked) == 0
    assert all(box.grad is None for box in theirs.parameters())
    assert not theirs[0]._forward_hooks


def test_gradients_that_part():
    class Stops(torch.nn.Module):
        def forward(self, x):
            return x * 3

    class Leaks(nn.Module):
        def forward(self, x):
            return jax.lax.stop_gradient(x) * 2 + x

    theirs = torch.nn.Sequential(torch.nn.Linear(8, 8), Stops())
    ours = _load(nn.Sequential(nn.Linear(8, 8), Leaks()), theirs)
    found = compare(theirs, ours, TOKENS)
    assert found.what == "gradient" and found.first == "0"


def test_two_models_of_ours():
    before, after = (nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(2))
    after.load_state_dict(before.state_dict())
    assert compare(before, after, TOKENS)
    after[1].eps = 1e-2
    found = compare(before, after, TOKENS)
    assert found.first == "1" and "eps" in found.cause


def test_a_recording_in_place_of_live_pytorch(tmp_path):
    theirs, ours, inputs = _planted_cnn(act=nn.GELU("tanh"))
    record(theirs, *inputs).save(tmp_path / "run.pt")
    found = compare(Trace.load(tmp_path / "run.pt"), ours)
    assert found.first == "2" and "gelu" in found.cause
    theirs, ours, inputs = _planted_cnn()
    record(theirs, *inputs).save(tmp_path / "run.pt")
    assert compare(Trace.load(tmp_path / "run.pt"), ours)


def test_another_structure():
    theirs = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Identity())
    ours = nn.Sequential(nn.Linear(8, 8))
    ours.load_state_dict({name: value.detach().numpy() for name, value in theirs.state_dict().items()})
    found = compare(theirs, ours, TOKENS)
    assert found.first == "1" and "called only in PyTorch" in found.cause


def test_tables_and_pages(tmp_path, capsys):
    theirs, ours, inputs = _planted_cnn(act=nn.GELU("tanh"))
    found = compare(theirs, ours, *inputs)
    found.show()
    shown = capsys.readouterr().out
    assert "GELU" in shown and "part at 2" in shown
    assert "<--" in str(found).splitlines()[3] and "<--" in str(found)
    found.save_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<tr") == 1 + len(found.rows) and "<svg" in page and "src=" not in page


def test_the_command(tmp_path, monkeypatch, capsys):
    from parity.cli import main

    (tmp_path / "two_models.py").write_text(
        "import numpy as np, torch, jaxnn\n"
        "def theirs(): return torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU())\n"
        "def ours(): return jaxnn.Sequential(jaxnn.Linear(8, 8), jaxnn.GELU())\n"
        "def wrong(): return jaxnn.Sequential(jaxnn.Linear(8, 8), jaxnn.GELU('tanh'))\n"
        "def inputs(): return np.ones((2, 8), np.float32) * np.arange(8, dtype=np.float32)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--inputs", "two_models:inputs", "--copy-weights", "--html", str(tmp_path / "page.html")]
    assert main(["compare", "two_models:theirs", "two_models:ours", *options]) == 0
    assert main(["compare", "two_models:theirs", "two_models:wrong", *options, "--no-gradients"]) == 1
    assert "part at 1" in capsys.readouterr().out and (tmp_path / "page.html").exists()
    for bad in ("two_models", "two_models:nothing", "no_such_module:f"):
        with pytest.raises(SystemExit, match="parity"):
            main(["compare", "two_models:theirs", bad, *options])


def test_what_is_no_model():
    with pytest.raises(TypeError, match="expected a torch.nn.Module or a jaxnn Module, got int"):
        compare(nn.Linear(1, 1), 3, X)


def test_a_buffer_of_the_model_itself_that_differs_is_named():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
            self.register_buffer("scale", jnp.ones(8))

        def forward(self, x):
            return self.inner(x * self.scale)

    before, after = Scaled(), Scaled()
    after.load_state_dict(before.state_dict() | {"scale": jnp.arange(8.0)})
    found = compare(before, after, TOKENS)
    assert found.first == "inner.0" and "weights: scale, of the model itself, differs" in found.cause


def test_arguments_in_another_order_or_twice_are_refused(tmp_path):
    model = nn.Linear(8, 8)
    trace = record(model, TOKENS)
    for arguments, message in (
        ((str(tmp_path / "run.pt"), model), "Trace.load"),
        ((model, trace), "the reference comes first"),
        ((trace, model, TOKENS), "a Trace holds its own"),
    ):
        with pytest.raises(TypeError, match=message):
            compare(*arguments)


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 8)

    def forward(self, x):
        return x * F.sigmoid(self.gate(x))


def test_another_class_is_said_before_its_mode():
    before = nn.Sequential(nn.Linear(8, 8), SqueezeExcite()).eval()
    after = nn.Sequential(before[0], nn.Identity())
    found = compare(before, after, TOKENS)
    assert found.cause.startswith(
        "another layer: SqueezeExcite in the first model, Identity here; weights: other names"
    )


def test_between_two_models_of_jaxnn_nothing_is_said_of_pytorch():
    before = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    after = nn.Sequential(before[0], nn.LayerNorm(8), nn.Linear(8, 4))
    found = compare(before, after, TOKENS)
    assert "PyTorch" not in str(found) and "in the first model" not in found.cause
    heads = str(found).splitlines()[0].split()
    assert heads == ["submodule", "layer", "error", "gradient"] and not found.has_own and found.reference == "jaxnn"
    found = compare(before, nn.Sequential(before[0], nn.LayerNorm(8, eps=0.1), before[2]), TOKENS)
    assert "option eps: 1e-05 in the first model, 0.1 here" in found.cause
    assert compare(torch.nn.Linear(8, 8), nn.Linear(8, 8), TOKENS).has_own


def test_an_output_of_another_shape_is_shown_as_shapes():
    before, after = nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 4))
    text = str(compare(before, after, TOKENS))
    assert text.count("shape (2, 6, 4), not (2, 6, 8)") >= 2 and "inf" not in text
