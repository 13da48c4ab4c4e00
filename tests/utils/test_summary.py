"""`nn.summary`: counts that can be done by hand, nothing computed, nothing changed."""

import io
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, groups=1), nn.BatchNorm2d(8), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.drop(self.features(x).mean((2, 3))))


def test_shapes_parameters_bytes_and_multiply_adds():
    net = Net()
    state = {key: np.asarray(value) for key, value in net.state_dict().items()}
    key = nn.get_rng_state()
    table = nn.summary(net, jax.ShapeDtypeStruct((2, 3, 6, 4), jnp.float32))
    rows = {row.path: row for row in table.rows}
    assert list(rows) == ["", "features", "features.0", "features.1", "features.2", "drop", "head"]
    assert rows["features.0"].output == "float32[2, 8, 6, 4]" and rows["head"].output == "float32[2, 5]"
    assert rows["features.0"].multiply_adds == 2 * 8 * 6 * 4 * 3 * 9
    assert rows["head"].multiply_adds == 2 * 8 * 5
    assert table.total.multiply_adds == rows["features.0"].multiply_adds + rows["head"].multiply_adds
    assert table.total.parameters == 8 * 27 + 8 + 16 + 45
    assert table.total.nbytes == 4 * (8 * 27 + 8 + 16 + 45 + 16) + 4  # the counter is held in four bytes
    assert all(np.array_equal(state[key], value) for key, value in net.state_dict().items())
    np.testing.assert_array_equal(key, nn.get_rng_state())
    assert not any(module.__dict__.get("_hooks") for module in net.modules())


def test_a_note_says_what_float32_costs_on_this_platform(monkeypatch):
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.Flatten(), nn.LazyLinear(8))
    x = jax.ShapeDtypeStruct((128, 64, 8, 8), jnp.float32)
    assert nn.summary(model, x).note == ""  # on the CPU nothing is faster
    for platform, speed in (("tpu", "a fifth"), ("gpu", "an eighth")):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        table = nn.summary(model, x)
        assert table.exact_float32 == table.total.multiply_adds and speed in table.note
        assert table.note in str(table) and "nn.autocast" in str(table)
        with nn.autocast(dtype=jnp.bfloat16):
            assert nn.summary(model, x).note == ""
        nn.set_float32_matmul_precision("high")
        try:
            assert nn.summary(model, x).note == ""
        finally:
            nn.set_float32_matmul_precision("highest")
        assert nn.summary(nn.Linear(8, 8), jnp.ones((2, 8))).note == ""  # too small to matter


def test_groups_frozen_parameters_and_no_inputs():
    conv = nn.Conv2d(4, 8, 3, groups=4)
    dict(conv.named_parameters())["bias"].requires_grad = False
    table = nn.summary(conv, jnp.ones((1, 4, 5, 5)))
    assert table.total.multiply_adds == 8 * 9 * 9
    assert (table.total.parameters, table.total.trainable) == (80, 72)
    assert nn.summary(conv).total.output == ""


class Odd(nn.Module):
    """Has a child whose name is no HTML."""

    def __init__(self):
        super().__init__()
        self.add_module("<a & b>", Net())

    def forward(self, x):
        return self.get_submodule("<a & b>")(x)


def test_it_prints_as_text():
    table = nn.summary(Odd(), jnp.ones((1, 3, 4, 4)))
    lines = str(table).splitlines()
    assert len(lines) == len(table.rows) + 4  # the headings, two rules, the totals
    for row, line in zip(table.rows, lines[2:]):
        assert row.kind in line and row.output in line and f"{row.multiply_adds:,}" in line
    assert lines[-1].startswith(f"{table.total.parameters:,} parameters")


def test_a_notebook_shows_a_table():
    table = nn.summary(Odd(), jnp.ones((1, 3, 4, 4)))
    page = ElementTree.fromstring(f"<div>{table._repr_html_()}</div>")  # well formed, names escaped
    assert [heading.text for heading in page.iter("th")][:3] == ["layer", "class", "output"]
    cells = [[cell.text or "" for cell in row] for row in page.findall("table/tbody/tr")]
    assert cells == table._cells() and cells[1][0].strip() == "<a & b>"
    assert page.findtext("p") == str(table).splitlines()[-1]


def test_a_terminal_shows_a_rich_table():
    rich = pytest.importorskip("rich.console")
    table = nn.summary(Net(), jnp.ones((1, 3, 4, 4)))
    console = rich.Console(record=True, width=120, file=io.StringIO())
    console.print(table)
    text = console.export_text()
    for cells in table._cells():
        assert all(cell.strip() in text for cell in cells)
    assert "Net" in text and f"{table.total.parameters:,} parameters" in text


def test_a_lazy_model_is_counted_with_what_its_first_call_would_make():
    lazy = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    table = nn.summary(lazy, jnp.ones((1, 3)))
    assert table.total.parameters == 3 * 4 + 4 + 4 * 2 + 2
    assert type(lazy[0]) is nn.LazyLinear


def test_grouped_convolutions_count_their_groups():
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 2, stride=2, groups=4))
    rows = nn.summary(net, jax.ShapeDtypeStruct((1, 8, 6, 6), jnp.float32)).rows
    assert rows[1].multiply_adds == 8 * 4 * 4 * 9
    assert rows[2].multiply_adds == 8 * 4 * 4 * 1 * 4


def test_what_is_chosen_by_platform_is_counted():
    """Long attention is such a choice; its two products are those of the plain program."""

    class Attend(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert nn.summary(Attend(), jnp.ones((1, 1, 1024, 8))).total.multiply_adds == 2 * 1024 * 1024 * 8


def _boxes(svg):
    """The boxes of a picture by their titles: (x, y, width, height)."""
    space = "{http://www.w3.org/2000/svg}"
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{space}g"):
        box = group.find(f"{space}rect").attrib
        found[group.find(f"{space}title").text] = [float(box[key]) for key in ("x", "y", "width", "height")]
    return found


def test_a_picture_has_a_box_for_each_module_inside_that_of_its_parent():
    model = nn.Sequential(nn.Linear(8, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    boxes = _boxes(nn.summary(model, jnp.ones((3, 8))).to_svg())
    assert len(boxes) == 5 and "0: Linear, float32[3, 4], 36 parameters" in boxes
    by_path = {title.partition(":")[0]: box for title, box in boxes.items()}

    def inside(inner, outer):
        return (
            all(outer[i] <= inner[i] and inner[i] + inner[i + 2] <= outer[i] + outer[i + 2] for i in (0, 1))
            and inner != outer
        )

    assert all(inside(by_path[path], by_path["Sequential"]) for path in ("0", "1"))
    assert all(inside(by_path[path], by_path["1"]) for path in ("1.0", "1.1"))
    assert not inside(by_path["0"], by_path["1"]) and by_path["0"][1] < by_path["1"][1] < by_path["1.1"][1]


def test_equal_blocks_are_drawn_once_and_names_are_escaped():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("<&>", nn.Linear(2, 2))
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)) for _ in range(6)])

    boxes = _boxes(svg := nn.summary(Odd()).to_svg())
    assert sum("blocks." in title for title in boxes) == 2 and "0 x 6" in svg
    assert any(title.startswith("<&>: Linear") for title in boxes)
