"""Targets by name, and what is said where a compiler is missing."""

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxnn as nn
from jaxnn import targets
from jaxnn.targets.gpus import GPUS, config_text


@pytest.mark.parametrize(
    ("name", "platform", "chips"),
    [
        ("v5e", "tpu", 1),
        ("v5p", "tpu", 1),
        ("v4:2x2", "tpu", 4),
        ("v5e:4x4", "tpu", 16),
        ("v5p:8x8x8", "tpu", 512),
        ("v6e:16x16", "tpu", 256),
    ]
    + [("h100", "cuda", 1), ("h100x8", "cuda", 8), ("a100-40", "cuda", 1), ("a100-40x16", "cuda", 16)],
)
def test_names(name, platform, chips):
    target = targets.get(name)
    assert (target.platform, target.chips, target.name) == (platform, chips, name)
    assert targets.get(target) is target


@pytest.mark.parametrize("name", ["v9", "v5e:", "v5e:4by4", "h100x0", "h100:2x2", "", "x8", None])
def test_other_names_are_refused_with_the_list(name):
    if name == "v5e:":
        assert targets.get(name).chips == 1
        return
    with pytest.raises(ValueError, match=r"targets.get: name: expected one of v4, v5e.*h100.*as 'v5e:4x4'") as caught:
        targets.get(name)
    assert len(caught.value.args) == 1


def test_peaks_by_dtype():
    v5e, h100, v4 = (targets.get(name) for name in ("v5e", "h100", "v4"))
    assert v5e.peak("bf16") == v5e.peak("f32") == v5e.peak("f32*bf16") == 6 * v5e.peak("f32 highest") == 197e12
    assert v5e.peak("f32 high") == 197e12 / 3 and v5e.peak("s8") == 394e12
    assert (h100.peak("f32 highest"), h100.peak("f32"), h100.peak("bf16")) == (67e12, 494e12, 989e12)
    assert v4.peak("bf16") == 275e12 / 2  # of one of its two cores


def test_a_gpu_is_described_to_xla_by_every_field_of_its_table():
    for gpu in GPUS.values():
        text = config_text(gpu)
        assert text.count("{") == text.count("}") == 3
        for value in (gpu.cores, gpu.memory, int(gpu.bandwidth), gpu.cache, gpu.shared, gpu.optin, gpu.clock):
            assert re.search(rf": {re.escape(str(value))}$", text, re.M), value


@pytest.mark.parametrize(("name", "extra"), [("v5e", "compile-tpu"), ("h100", "compile-cuda")])
def test_a_missing_compiler_is_named_with_its_extra(name, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("jaxnn.targets.target._devices", _uncached())
    assert not targets.is_installed(targets.get(name).platform)
    with pytest.raises(ImportError, match=re.escape(f'pip install "jaxnn-torch[{extra}]"')):
        targets.compile(nn.Identity(), jnp.ones(2), target=name)


def _uncached():
    from jaxnn.targets import target

    return target._devices.__wrapped__


def test_an_empty_library_path_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("TPU_LIBRARY_PATH", "")
    monkeypatch.setattr("jaxnn.targets.target._devices", _uncached())
    with pytest.raises(ImportError, match="TPU_LIBRARY_PATH is set to nothing"):
        targets.get("v5e").devices()


def test_arguments_that_tell_no_target_are_refused():
    with pytest.raises(ValueError, match="targets.compile: target: expected a name, as 'v5e' or 'h100', got None"):
        targets.compile(nn.Identity(), jnp.ones(2))


@pytest.mark.skipif(jax.local_device_count() < 2, reason="needs two devices")
def test_arguments_on_two_meshes_are_refused():
    devices = jax.devices()[:2]
    placed = [
        jax.device_put(jnp.ones(2), NamedSharding(Mesh(devices, (axis,)), PartitionSpec(axis))) for axis in ("a", "b")
    ]
    with pytest.raises(ValueError, match="expected arrays on one mesh, got 2 meshes"):
        targets.compile(lambda x, y: x + y, *placed, target="v5e")
