"""Plans: which layouts are tried, with what memory, and what the command line says."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

import jaxnn as nn
from jaxnn import __main__, targets
from jaxnn.parallel import ColwiseParallel, RowwiseParallel
from jaxnn.targets import laying_out, planning
from jaxnn.targets.laying_out import Layout, layouts
from jaxnn.targets.planning import Attempt

needs_tpu = pytest.mark.skipif(not targets.is_installed("tpu"), reason="needs the extra compile-tpu")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(512, 512), nn.Sequential(nn.GELU(), nn.Linear(512, 512))) for _ in range(2)
        )
        self.head = nn.Linear(512, 512)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def _adamw(model):
    return nn.optim.AdamW(model, lr=1e-3)


def test_layouts_are_the_ways_to_split_the_chips():
    assert layouts(4) == [
        Layout(4, 1),
        Layout(2, 2),
        Layout(1, 4),
        *(Layout(4 // n, n, True) for n in (1, 2, 4)),
    ]
    assert str(Layout(2, 8, True)) == "data 2 x fsdp 8, remat"
    assert layouts(4, rows=2, most_tp=2) == [
        Layout(2, 1, tp=2),
        Layout(1, 2, tp=2),
        Layout(2, 1, True, 2),
        Layout(1, 2, True, 2),
    ]
    assert str(Layout(1, 2, tp=2)) == "data 1 x fsdp 2 x tp 2"


def _machine():
    """The devices of this process in place of a machine's."""

    def mesh(shape, names):
        devices = np.array(jax.devices()[: math.prod(shape)]).reshape(shape)
        return Mesh(devices, names, axis_types=(AxisType.Auto,) * len(names))

    return SimpleNamespace(platform="cpu", mesh=mesh)


def test_weights_and_moments_of_a_chip():
    model = jax.eval_shape(Net)
    count = sum(p.size for p in jax.tree.leaves(model))
    for layout, share in ((Layout(2, 1), 1), (Layout(1, 2), 2), (Layout(1, 1), 1)):
        placed, rows = laying_out.laid_out(model, layout, _machine(), jnp.bfloat16, None)
        total = laying_out.bytes_of((placed, _adamw(placed)))
        assert 12 * count // share <= total < 12 * count // share + 500
        assert (None if rows is None else tuple(rows.spec)) == (None if layout.devices == 1 else (("data", "fsdp"),))
    assert jax.tree.structure(model) == jax.tree.structure(jax.eval_shape(Net))  # which is left as it was


def test_layers_are_split_by_a_plan():
    plan = {"blocks.*.0": ColwiseParallel(), "blocks.*.1.1": RowwiseParallel()}
    model = jax.eval_shape(Net)
    for given in (plan, lambda model: plan):
        placed, _ = laying_out.laid_out(model, Layout(1, 1, tp=2), _machine(), None, given)
        assert tuple(placed.blocks[0][0].weight.sharding.spec) == ("tp", "fsdp")
    encoder = jax.eval_shape(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2))
    placed, _ = laying_out.laid_out(encoder, Layout(1, 1, tp=2), _machine(), None, None)
    assert "tp" in str(placed.layers[0].linear1.weight.sharding.spec)
    assert laying_out.default_plan(model) is None
    batch = [jax.ShapeDtypeStruct((8, 512), jnp.float32)]
    common = {"optimizer": _adamw, "target": "v5e:2x2", "layouts": [Layout(2, 1, tp=2)]}
    if targets.is_installed("tpu"):
        with pytest.raises(ValueError, match="targets.plan: tensor_plan: expected styles by the names.*tp 2"):
            targets.plan(Net, _loss, batch, **common)
        with pytest.raises(TypeError, match="targets.plan: tensor_plan: expected a dict of styles"):
            targets.plan(Net, _loss, batch, **common, tensor_plan=lambda model: 3)


def test_blocks_are_the_members_of_the_outermost_lists():
    model = Net()
    assert laying_out.blocks_of(model) == [*model.blocks]
    assert laying_out.blocks_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == []
    one = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1)
    assert laying_out.blocks_of(one) == [one.layers[0]]


def test_remat_changes_no_number_and_no_name():
    model, x = Net(), jnp.ones((4, 512))
    again = laying_out.laid_out(model, Layout(1, 1, True), _machine(), None, None)[0]
    assert again.blocks[0] is not model.blocks[0] and type(again.blocks[0]) is not type(model.blocks[0])
    assert again.state_dict().keys() == model.state_dict().keys()
    loss = nn.jit(nn.value_and_grad(planning.squared_loss))
    (value, grads), (wanted, those) = loss(again, x), loss(model, x)
    assert float(value) == pytest.approx(float(wanted), rel=1e-6) and grads.keys() == those.keys()
    text = str(jax.make_jaxpr(lambda m, x: nn.grad(planning.squared_loss)(m, x))(again, x))
    assert "checkpoint" in text or "remat" in text


def test_blocks_that_are_given_flags_compute_twice_too():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2)
    again = laying_out.laid_out(model, Layout(1, 1, True), _machine(), None, None)[0]
    types = jax.eval_shape(nn.grad(planning.squared_loss), again, jax.ShapeDtypeStruct((2, 3, 8), jnp.float32))
    assert types.keys() == dict(model.named_parameters()).keys()


def test_the_best_is_the_fastest_of_those_that_fit():
    class Report:
        def __init__(self, fits, step_seconds):
            self.fits, self.step_seconds = fits, step_seconds

    attempts = [
        Attempt(Layout(4, 1), Report(False, 1.0)),
        Attempt(Layout(2, 2), Report(True, 3.0)),
        Attempt(Layout(1, 4), Report(True, 2.0)),
        Attempt(Layout(1, 4, True), None, "the compiler finds no room"),
    ]
    plans = planning.Plans(targets.get("v5e:2x2"), attempts)
    assert plans.best is attempts[2]
    assert planning.Plans(plans.target, attempts[:1]).best is None


def test_what_the_compiler_says_of_memory():
    text = "RESOURCE_EXHAUSTED: total memory required for HLO temporaries (99.46G) ... Ran out of memory: Used 37.3G of 31.2G hbm"
    assert planning._too_much(text) == "the compiler needs 37.3G"
    assert planning._too_much("RESOURCE_EXHAUSTED: something else") == "the compiler finds no room"
    with pytest.raises(RuntimeError, match="targets.plan: INTERNAL: a fault"):
        planning._too_much("INTERNAL: a fault")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nothing", "--input", "4x8"], "expected FILE.py:NAME or package.module:NAME, got nothing"),
        (["/no/such.py:make", "--input", "4x8"], "/no/such.py: no such file"),
        (["jaxnn.modules.linear:Missing", "--input", "4x8"], "jaxnn.modules.linear has no Missing; it has"),
        (["jaxnn:Identity", "--input", "4by8"], "expected sizes and a dtype, as 256x1024:int32, got 4by8"),
        (
            ["jaxnn:Identity", "--input", "4x8", "--optimizer", "Adamm"],
            "expected a class of nn.optim, as AdamW, got Adamm",
        ),
        (
            ["jaxnn:Identity", "--input", "4x8", "--layout", "4"],
            "expected DATAxFSDP or DATAxFSDPxTP, as 2x8 or 2x4x2+remat, got 4",
        ),
        (["jaxnn:Identity", "--input", "4x8", "--target", "v9"], "targets.get: name: expected one of v4"),
    ],
)
def test_the_command_line_says_what_is_wrong(options, said, capsys):
    given = options if "--target" in options else [*options, "--target", "v5e"]
    assert __main__.main(["plan", *given]) == 2
    assert said in capsys.readouterr().err


@needs_tpu
def test_a_plan_for_four_chips(tmp_path, capsys):
    batch = [jax.ShapeDtypeStruct((64, 512), jnp.float32)]
    found = targets.plan(
        Net,
        planning.squared_loss,
        batch,
        optimizer=_adamw,
        target="v5e:2x2",
        layouts=[Layout(1, 4), Layout(4, 1)],
        tries=1,
    )
    (attempt,) = found.attempts  # the second was one too many
    split = attempt.report
    assert found.best is attempt and split.fits and split.warnings == []
    count = sum(p.size for p in jax.tree.leaves(jax.eval_shape(Net)))
    assert split.parameters == count and split.memory["parameters"] == count  # 4 bytes on one of 4
    gathers = [one for one in split.compiled.collectives if (one.kind, one.dtype) == ("all-gather", "bf16")]
    weights = 2 * 5 * 512 * 512  # in bfloat16
    # At most twice, in the forward and in the backward pass; a small weight may also go around in pieces.
    assert [one.axis for one in gathers] == ["fsdp"] and 0 < sum(one.bytes for one in gathers) <= 2.2 * weights
    assert not any(one.dtype == "f32" and one.bytes > 100_000 for one in split.compiled.collectives)
    found.save_html(tmp_path / "plan.html")
    assert "Best: " in (tmp_path / "plan.html").read_text()


def _loss(model, x):
    return model(x).sum()


@pytest.mark.parametrize(
    "changed, error, name",
    [
        ({"build": 3}, TypeError, "build"),
        ({"build": nn.Linear(2, 2)}, TypeError, "build"),
        ({"loss": 3}, TypeError, "loss"),
        ({"optimizer": "AdamW"}, TypeError, "optimizer"),
        ({"layouts": ["2x2"]}, TypeError, "layouts"),
        ({"layouts": []}, ValueError, "layouts"),
        ({"tries": 0}, ValueError, "tries"),
        ({"batch": []}, TypeError, "batch"),
        ({"batch": [3]}, TypeError, "batch"),
        ({"dtype": "bf17"}, TypeError, "dtype"),
    ],
)
def test_a_plan_says_which_argument_is_wrong(changed, error, name):
    batch = [jax.ShapeDtypeStruct((8, 512), jnp.float32)]
    arguments = {"build": Net, "loss": _loss, "batch": batch, "optimizer": _adamw, "target": "v5e:2x2"}
    with pytest.raises(error, match=f"targets.plan: {name}"):
        targets.plan(**(arguments | changed))


def test_no_layout_and_no_target_has_no_devices():
    for sizes in ((0, 4), (4, 0), (-1, 4)):
        with pytest.raises(ValueError, match="targets.Layout: .*at least 1 device"):
            Layout(*sizes)
    with pytest.raises(TypeError, match="targets.Layout: data"):
        Layout("2", 2)
    for name in ("v5e:0x2", "v5e:0", "v5p:2x0x2"):
        with pytest.raises(ValueError, match="targets.get"):
            targets.get(name)
    assert targets.get("v5e:10x2").chips == 20


def test_the_command_says_what_is_no_model_and_no_optimizer(tmp_path, capsys):
    (tmp_path / "m.py").write_text("import jax\nimport jaxnn as nn\n\ndef build():\n    return nn.Linear(4, 4)\n")
    common = ["--target", "v5e:2x2", "--input", "8x4"]
    for extra, text in (
        [("jax", []), "expected a function or a class"],
        [("build", ["--optimizer", "lr_scheduler"]), "--opt"],
    ):
        assert __main__.main(["plan", f"{tmp_path}/m.py:{extra[0]}", *common, *extra[1]]) == 2
        assert text in capsys.readouterr().err
