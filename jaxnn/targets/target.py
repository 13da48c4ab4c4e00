"""Machines by name: what a chip can do, and the devices that its compiler takes where no such machine is."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxnn.base.checks import fail
from jaxnn.targets.gpus import GPUS, Gpu, config_text

_G, _T = 10**9, 10**12


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip can do at most, as its maker says.

    Attributes:
        kind: its name here.
        platform: "tpu" or "cuda".
        memory: bytes.
        bandwidth: bytes a second between the chip and its memory.
        peak: operations a second of products, by dtype; "f32" is what float32 gets at full precision.
        link: bytes a second that a chip sends to others: along one dimension of a TPU's torus (both ways), or in all.
        clock: cycles a second of the unit that ``estimated_cycles`` counts; 0 where the compiler counts none.
        cores: devices a chip; more than one where a chip's cores are compiled for one by one.
        dimensions: of the torus of links.
    """

    kind: str
    platform: str
    memory: int
    bandwidth: float
    peak: dict[str, float]
    link: float
    clock: float = 0
    cores: int = 1
    dimensions: int = 1


def _tpu(kind: str, memory: int, bandwidth: float, bf16: float, link: float, clock: float, **more: Any) -> Chip:
    # Float32 at full precision is six products of bfloat16 on the matrix unit, "high" is three.
    peak = {"bf16": bf16 * _T, "f16": bf16 * _T, "s8": more.pop("s8", bf16) * _T}
    peak |= {"f32": bf16 * _T / 6, "f32 high": bf16 * _T / 3, "f8": more.pop("f8", bf16) * _T}
    return Chip(kind, "tpu", memory * 2**30, bandwidth * _G, peak, link * _G, clock * _G, **more)


# Memory in GiB, bandwidth in GB/s, bfloat16 in TFLOP/s, links in GB/s along one dimension, clock in GHz (the peak
# divided by the size of the matrix units); from the pages of cloud.google.com/tpu and "How to Scale Your Model".
_TPUS = (
    _tpu("v4", 32, 1228, 275, 90, 1.05, cores=2, dimensions=3),
    _tpu("v5e", 16, 819, 197, 90, 1.5, s8=394, dimensions=2),
    _tpu("v5p", 95, 2765, 459, 180, 1.75, s8=918, dimensions=3),
    _tpu("v6e", 32, 1640, 918, 180, 1.75, s8=1836, dimensions=2),
    _tpu("v7x", 192, 7380, 2307, 180, 2.2, f8=4614, cores=2, dimensions=3),
)


def _gpu(kind: str, gpu: Gpu) -> Chip:
    peak = {name: value * _T for name, value in gpu.peak.items()}
    return Chip(kind, "cuda", gpu.memory, gpu.bandwidth, peak, gpu.link * _G)


CHIPS = {chip.kind: chip for chip in (*_TPUS, *(_gpu(kind, gpu) for kind, gpu in GPUS.items()))}
_EXTRAS = {"tpu": "compile-tpu", "cuda": "compile-cuda"}
_NAMES = {"v7x": "tpu7x"}  # as libtpu spells them
_PER_HOST = 8  # GPUs of one machine


@dataclasses.dataclass(frozen=True)
class Target:
    """One chip or several: what programs are compiled for. Made by `get`.

    Attributes:
        name: as given to `get`.
        chip: what each chip can do.
        topology: chips along each dimension of the torus; for GPUs (their number,).
    """

    name: str
    chip: Chip
    topology: tuple[int, ...]

    @property
    def platform(self) -> str:
        """ "tpu" or "cuda"."""
        return self.chip.platform

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.topology)

    def peak(self, dtype: str = "bf16") -> float:
        """Operations a second of one device for products of `dtype`, as `Costs.flops` names them."""
        peaks = self.chip.peak
        narrow = min(dtype.split(" ")[0].split("*"), key=_bits)
        rest = dtype.partition(" ")[2]
        if narrow == "f32":
            if self.platform == "tpu" and not rest:  # XLA's default there: one pass of bfloat16
                narrow = "bf16"
            elif rest == "high" or (self.platform == "cuda" and not rest):
                narrow = "f32 high" if "f32 high" in peaks else "f32"
        narrow = {"f64": "f32", "c64": "f32", "u8": "s8"}.get(narrow, "f8" if narrow.startswith("f8") else narrow)
        return peaks.get(narrow, peaks.get("bf16", peaks["f32"])) / self.chip.cores

    def devices(self) -> tuple[Any, ...]:
        """JAX's devices of this target. Arrays cannot be put on them; programs can be compiled for them.

        Raises:
            ImportError: the compiler is not installed; the message names the extra.
            RuntimeError: the compiler does not know the topology.
        """
        devices = _devices(self.platform, self.chip.kind, self.topology)
        for device in devices:
            _given.setdefault(id(device), self)
        return devices

    def mesh(self, shape: Sequence[int] | None = None, names: Sequence[str] = ("data",)) -> Mesh:
        """A mesh over the target's devices, with Auto axes, in an order that suits its links.

        Args:
            shape: devices along each axis. Default: all along one.
            names: of the axes.
        """
        devices = self.devices()
        shape = (len(devices),) if shape is None else tuple(shape)
        if math.prod(shape) != len(devices) or len(shape) != len(names):
            fail(
                ValueError,
                "targets.Target.mesh",
                "shape",
                f"{len(names)} sizes (of {', '.join(names)}) whose product is {len(devices)}, the devices of {self.name}",
                shape,
            )
        return Mesh(_arranged(self, shape, devices), tuple(names), axis_types=(AxisType.Auto,) * len(shape))


def _bits(dtype: str) -> int:
    return int("".join(re.findall(r"\d+", dtype)[:1]) or 8)


def _arranged(target: Target, shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    if target.platform == "tpu" and len(devices) > 1:
        from jax.experimental import mesh_utils

        try:
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        except (NotImplementedError, ValueError, AssertionError):  # no arrangement known: in the order of numbers
            pass
    return np.array(devices).reshape(shape)


def get(name: str | Target) -> Target:
    """The target of this name.

    Args:
        name: a TPU (``"v5e"``, ``"v5p"``, ``"v6e"``, ``"v4"``, ``"v7x"``), alone or with its topology (``"v5e:4x4"``,
            ``"v5p:8x8x8"``); or a GPU (``"h100"``, ``"a100"``, ``"b200"`` ...), alone or with their number (``"h100x8"``).

    Raises:
        ValueError: no such target; the message lists those that there are.

    Example:
        >>> from jaxnn import targets
        >>> v5e = targets.get("v5e:4x4")
        >>> v5e.chips, v5e.chip.memory // 2**30
        (16, 16)
    """
    if isinstance(name, Target):
        return name
    kind, _, topology = str(name).partition(":")
    if kind in CHIPS and CHIPS[kind].platform == "tpu" and re.fullmatch(r"(0*[1-9]\d*x)*0*[1-9]\d*|", topology):
        sizes = tuple(map(int, topology.split("x"))) if topology else (1,)
        sizes += (1,) * (CHIPS[kind].dimensions - len(sizes))
        return Target(name, CHIPS[kind], sizes)
    found = re.fullmatch(r"(.*?)(?:x(\d+))?", str(name))
    if found and found[1] in GPUS and int(found[2] or 1) > 0:
        return Target(name, CHIPS[found[1]], (int(found[2] or 1),))
    known = ", ".join(CHIPS)
    fail(ValueError, "targets.get", "name", f"one of {known}; as 'v5e:4x4' or 'h100x8' for several chips", name)


def _check_installed(platform: str) -> None:
    modules = ("libtpu",) if platform == "tpu" else ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if not any(importlib.util.find_spec(module) for module in modules):
        raise ImportError(
            f'targets: the compiler for {platform} is not installed: pip install "jaxnn-torch[{_EXTRAS[platform]}]" '
            f"(of JAX's own version, {jax.__version__}; no {platform} device is needed)"
        )
    if platform == "tpu" and os.environ.get("TPU_LIBRARY_PATH") == "":
        raise ImportError("targets: TPU_LIBRARY_PATH is set to nothing, where libtpu is then looked for: unset it")


def is_installed(platform: str) -> bool:
    """Whether programs for "tpu" or "cuda" can be compiled here."""
    try:
        _check_installed(platform)
    except ImportError:
        return False
    return True


@functools.cache
def _devices(platform: str, kind: str, topology: tuple[int, ...]) -> tuple[Any, ...]:
    _check_installed(platform)
    from jax.experimental import topologies

    sizes = "x".join(map(str, topology))
    if platform == "tpu":
        # libtpu otherwise refuses a second process. Nothing runs on a TPU here that two could fight for.
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        options = {"topology_name": f"{_NAMES.get(kind, kind)}:{sizes}"}
    else:
        count = topology[0]
        hosts = max(1, count // _PER_HOST)
        if count != hosts * min(count, _PER_HOST):
            fail(ValueError, "targets.get", "name", f"up to {_PER_HOST} GPUs, or a multiple of {_PER_HOST}", count)
        options = {"target_config": config_text(GPUS[kind]), "topology": f"1x{hosts}x{count // hosts}"}
    try:
        return tuple(topologies.get_topology_desc(platform=platform, **options).devices)
    except Exception as error:
        raise RuntimeError(
            f"targets: {kind} with {sizes} chips: {str(error).strip().splitlines()[0]}"
            + (f"; is the plugin of JAX's version ({jax.__version__})?" if platform == "cuda" else "")
        ) from error


def target_of(device: Any) -> Target | None:
    """The target that gave this device (`Target.devices`); None for any other."""
    return _given.get(id(device))


_given: dict[int, Target] = {}  # by identity: `_devices` keeps them
