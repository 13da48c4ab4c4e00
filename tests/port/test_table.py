"""Which rows are loaded, and where they stand in the docs."""

from jaxnn.port import port_source
from jaxnn.port.rules import TABLE, Row, every_row, key_of, rows
from jaxnn.port.rules import tested as record
from parity import rules as command


def test_a_row_without_a_passing_test_is_not_loaded(monkeypatch):
    row = next(row for row in every_row() if row.torch == "hypot")
    changed = Row(row.torch, row.signature, "jnp.hypot({x}, {x})", row.example)
    assert key_of(row) in record.tested() and key_of(changed) not in record.tested()
    text = "import torch\n\n\ndef f(x: torch.Tensor, y: torch.Tensor):\n    return torch.hypot(x, y)\n"
    assert "jnp.hypot(x, y)" in port_source(text).text
    monkeypatch.delitem(TABLE, "hypot")
    found = port_source(text)
    assert [site.status for site in found.sites if "hypot" in site.name] == ["cannot"]


def test_the_record_holds_the_rows_of_today_and_no_others():
    keys = [key_of(row) for row in every_row()]
    assert len(keys) == len(set(keys))
    assert sorted(record.tested()) == record.RECORD.read_text(encoding="utf-8").splitlines()
    assert record.tested() <= set(keys), "python -m parity.rules --record: rows that are no more, or have changed"
    assert len(rows()) == len(record.tested()) > 350


def test_the_docs_table_is_that_of_the_rules():
    text = command.PAGE.read_text(encoding="utf-8")
    assert text == command.page(text), "python -m parity.rules --docs"
    assert text.count("\n| `") >= len(rows())


def test_the_page_shows_what_the_porter_writes():
    page = command.PAGE.with_name("port_source.md")
    text = page.read_text(encoding="utf-8")
    assert text == command.shown(text), "python -m parity.rules --docs"
