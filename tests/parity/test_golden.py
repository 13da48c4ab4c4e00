"""The record of all programs: what makes a program another, and what does not."""

import json

import jax
import jax.numpy as jnp
import pytest

from parity import golden, run
from parity.cli import RECORDING, main

if not RECORDING.exists():
    pytest.skip("no recording: python -m parity record", allow_module_level=True)


@pytest.fixture(autouse=True)
def _no_settings_of_a_worker(monkeypatch):
    monkeypatch.setattr(run, "start_worker", lambda options: None)  # they would last for the tests after these


def _program(name, function):
    def call(x):
        return jax.jit(inner)(x)

    @jax.custom_jvp
    def inner(x):
        return function(x)

    inner.defjvps(lambda tangent, out, x: tangent)
    inner.__name__ = call.__name__ = name
    traced = jax.jit(call).trace(jnp.ones(3))
    return [golden._hash(golden.normalised(text)) for text in (str(traced.jaxpr), traced.lower().as_text())]


def test_names_and_addresses_are_no_part_of_a_program_and_operations_are():
    first = _program("one", jnp.sin)
    assert first == _program("another_name_that_is_much_longer_than_the_first_and_breaks_lines", jnp.sin)
    assert all(a != b for a, b in zip(first, _program("one", jnp.cos)))


def test_a_record_says_which_programs_changed(tmp_path, monkeypatch, capsys):
    import jaxnn.functional as F

    arguments = ["golden", "--only", "elu", "--cases", "1", "--jobs", "1"]
    assert main([*arguments, "--write", str(tmp_path / "before.json")]) == 0
    before = json.loads((tmp_path / "before.json").read_text())["programs"]
    assert all(set(hashes) == {"jaxpr", *golden.PLATFORMS} for hashes in before.values())
    assert main([*arguments, "--against", str(tmp_path / "before.json")]) == 0
    original = F.elu
    monkeypatch.setattr(F, "elu", lambda *args, **kwargs: original(*args, **kwargs) + 1.0)
    capsys.readouterr()
    assert main([*arguments, "--against", str(tmp_path / "before.json")]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "elu" in line]
    assert lines and all(line.endswith("jaxpr, cpu, tpu, cuda") for line in lines)


def test_a_program_that_asks_for_the_host_s_platform_is_found(monkeypatch):
    import jaxnn.functional as F

    original = F.elu

    def asking(*args, **kwargs):
        return original(*args, **kwargs) + (1.0 if jax.default_backend() == "tpu" else 2.0)

    monkeypatch.setattr(F, "elu", asking)
    options = run.Options(only=("OpInfo/elu/*",), jobs=1)
    record = golden.make(golden.Wanted(str(RECORDING), 1, True, ""), options, progress=False)
    assert [line.rpartition(": ")[2] for line in golden.host_differences(record)] == ["tpu"]


def test_records_of_other_versions_are_not_compared():
    record = {"about": {"jax": "1"}, "programs": {}}
    with pytest.raises(ValueError, match="cannot be compared"):
        golden.differences(record, {"about": {"jax": "2"}, "programs": {}})
