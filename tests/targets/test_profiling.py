"""A program's cost by module, and the report of a step; read off the CPU's programs, which have the same names."""

import jax
import jax.numpy as jnp
import pytest

import jaxnn as nn
import jaxnn.functional as F
from jaxnn import targets
from jaxnn.targets import pages, profiling, reporting
from jaxnn.targets.compiling import Compiled
from jaxnn.targets.naming import Names, Place, parts


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x):
        return x + self.mlp(self.norm(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(16) for _ in range(2))
        self.head = nn.Linear(16, 8)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@nn.jit(donate_argnums=(0, 1))
def step(model, optimizer, x):
    loss, grads = nn.value_and_grad(lambda m: F.mse_loss(m(x), jnp.zeros((4, 8))))(model)
    optimizer.step(model, grads)
    return loss


class _Here(Compiled):
    """A program of this host, as if it were a target's."""

    @property
    def text(self):
        return self.compiled.as_text()


@pytest.fixture(scope="module")
def made():
    nn.manual_seed(0)
    model = Net()
    arguments = (model, nn.optim.AdamW(model), jax.ShapeDtypeStruct((4, 16), jnp.float32))
    compiled = step.lower(*arguments).compile()
    memory = compiled.memory_analysis()
    sizes = [getattr(memory, f"{kind}_size_in_bytes") for kind in ("argument", "output", "alias", "temp")]
    return _Here(targets.get("h100"), None, compiled, 1.0, *sizes, 0), arguments


def test_paths_lead_to_modules():
    model = Net()
    names = Names((model, [jnp.ones(2)]))
    found = {
        "jit(step)/transpose(jvp(Net))/0/mlp/2/linear/dot_general": Place("blocks.0.mlp.2", True),
        "jit(step)/jvp(Net)/1/norm/layer_norm/reduce_sum;jit(step)/x": Place("blocks.1.norm", False),
        "jit(step)/jvp(Net)/head/dot_general": Place("head", False),
        "jit(step)/jvp(Net)/add": Place("", False),
        "jit(step)/jvp(Net)/checkpoint/rematted_computation/head/dot": Place("head", True),
        "jit(step)/jvp()/reduce_sum": Place(None, False),
        "jit(step)/while/body/Net/head/dot_general": Place("head", False),
        "": Place(None, False),
    }
    assert {name: names.place(name) for name in found} == found
    assert list(parts("a/b(c/d)/e")) == ["a", "b(c/d)", "e"]


def test_two_lists_of_blocks_with_one_spelling_stay_as_they_are():
    model = nn.Module()
    model.left, model.right = nn.ModuleList([nn.ReLU()]), nn.ModuleList([nn.ReLU()])
    assert Names(model).place("jit(f)/Module/0/max").module == "0"


def test_the_products_of_every_module_are_its_own(made):
    compiled, arguments = made
    found = profiling.profile_of(compiled, arguments)
    linear = 2 * 4 * 16 * 64
    whole = 3 * (2 * 2 * linear + 2 * 4 * 16 * 8)
    assert found.whole.flops == sum(compiled.flops.values()) == whole
    # Forward, the weight's gradient and the input's, of each of both layers.
    assert found.total("blocks.0.mlp").flops == found.total("blocks.1").flops == 6 * linear
    assert found.total("head").flops == 3 * 2 * 4 * 16 * 8
    assert found.total().flops == whole
    assert found.whole.seconds == pytest.approx(sum(share.seconds for share in found.shares))
    assert 0 < found.total("blocks.0").backward < found.whole.backward
    assert found.total("blocks.1").held >= 4 * 4 * 64  # what relu has let through


def test_tables_and_pages(made):
    compiled, arguments = made
    found = profiling.profile_of(compiled, arguments)
    lines = str(found).splitlines()
    assert lines[0].startswith("Where the time goes on h100: ")
    assert [line.split()[0] for line in lines[2:7]] == ["model", "blocks", "0", "norm", "mlp"]
    assert str(found.table(depth=1)).count("\n") == 6
    text = found.to_html()
    assert text.count("<svg") == 1 and "blocks.0.mlp.2" in text and text.endswith("</html>")


def test_a_report_adds_up(made):
    compiled, arguments = made
    found = reporting.report_of(compiled, arguments)
    count = sum(p.numel() for p in arguments[0].parameters())
    assert found.parameters == count and found.tokens == 4
    assert found.memory["parameters"] == 4 * count
    assert 8 * count <= found.memory["optimizer"] < 8 * count + 200
    assert sum(found.memory.values()) == compiled.peak_bytes
    assert found.model_flops == 24 * count and 0.5 < found.flops_ratio < 1.1  # no weight of a norm is in a product
    assert found.step_seconds == max(found.limits.values())
    assert found.mfu == found.model_flops / (found.step_seconds * 989e12)
    assert found.fits and found.limits.keys() == {"products", "memory"}
    assert "float32 at full precision" not in found.summary() or "f32 highest" in compiled.flops
    assert "h100, one device: fits" in str(found) and found.to_html().count("<svg") == 2
    assert reporting.report_of(compiled, arguments, tokens=7).tokens == 7


def test_numbers_for_people():
    assert [pages.scaled(n, "B") for n in (0, 12, 999, 1000, 12345, 2.5e9)] == [
        "0 B",
        "12 B",
        "999 B",
        "1.0 kB",
        "12.3 kB",
        "2.5 GB",
    ]
    assert pages.scaled(16 * 2**30, "B", 1024) == "16.0 GiB"
    assert [pages.seconds(n) for n in (2.0, 0.0123, 4.2e-5, 0)] == ["2.0 s", "12.3 ms", "42.0 us", "0.0 us"]
