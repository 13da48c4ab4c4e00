"""Every public name and signature of torch.nn is here, or explained in parity/api_differences.toml."""

import pytest

pytest.importorskip("torch")


def test_no_unexplained_difference():
    from parity import api

    found, compared = api.differences()
    unexplained = [f"{d.name}: {d.kind}: {d.text}" for d in found if not d.reason]
    assert compared > 400
    assert not unexplained, "\n" + "\n".join(unexplained)


def test_no_explanation_without_a_difference():
    from parity import api

    explained = {*api._allowed()["missing"], *api._allowed()["signature"]}
    used = {pattern for pattern in explained for d in api.differences()[0] if api._reason({pattern: "x"}, d.name)}
    assert explained == used
