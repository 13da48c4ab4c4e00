"""GPUs as XLA is told of them: the figures of their data sheets and of CUDA's device properties."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        title: as the driver calls it.
        capability: CUDA's compute capability.
        cores: streaming multiprocessors; `lanes` float32 units in each.
        clock: GHz.
        memory: bytes, as the driver counts them; `bandwidth` in bytes a second; `cache` (L2) in bytes.
        shared: bytes of shared memory of a multiprocessor; `optin` of one block at most.
        threads: of one multiprocessor.
        link: GB/s that it sends to its neighbours (NVLink, one way), or PCIe's.
        peak: TFLOP/s of products without sparsity, by dtype. "f32 high" is TF32.
    """

    title: str
    capability: tuple[int, int]
    cores: int
    lanes: int
    clock: float
    memory: int
    bandwidth: float
    cache: int
    shared: int
    optin: int
    threads: int
    link: float
    peak: Mapping[str, float]


_AMPERE = {"bf16": 312, "f16": 312, "f32": 19.5, "f32 high": 156, "s8": 624}
_HOPPER = {"bf16": 989, "f16": 989, "f32": 67, "f32 high": 494, "s8": 1979, "f8": 1979}

GPUS = {
    "v100": Gpu(
        "Tesla V100-SXM2-16GB", (7, 0), 80, 64, 1.53, 16935682048, 898.048e9, 6291456, 98304, 98304, 2048,
        150, {"f16": 125, "bf16": 15.7, "f32": 15.7},
    ),
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 1.41, 85100068864, 2039.04e9, 41943040, 167936, 166912, 2048,
        300, _AMPERE,
    ),
    "a100-40": Gpu(
        "NVIDIA A100-SXM4-40GB", (8, 0), 108, 64, 1.41, 42331013120, 1555.2e9, 41943040, 167936, 166912, 2048,
        300, _AMPERE,
    ),
    "a6000": Gpu(
        "NVIDIA RTX A6000", (8, 6), 84, 128, 1.8, 51041271808, 768.096e9, 6291456, 102400, 101376, 1536,
        32, {"bf16": 155, "f16": 155, "f32": 38.7, "f32 high": 77.4, "s8": 310},
    ),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 1.98, 84942979072, 3352.32e9, 52428800, 233472, 232448, 2048,
        450, _HOPPER,
    ),
    "h100-pcie": Gpu(
        "NVIDIA H100 PCIe", (9, 0), 114, 128, 1.755, 84942979072, 2039.04e9, 52428800, 233472, 232448, 2048,
        64, {"bf16": 756, "f16": 756, "f32": 51, "f32 high": 378, "s8": 1513, "f8": 1513},
    ),
    "h200": Gpu(
        "NVIDIA H200", (9, 0), 132, 128, 1.98, 151397597184, 4800e9, 52428800, 233472, 232448, 2048,
        450, _HOPPER,
    ),
    "b200": Gpu(
        "NVIDIA B200", (10, 0), 148, 128, 1.965, 191514411008, 7672.32e9, 132644864, 233472, 232448, 2048,
        900, {"bf16": 2250, "f16": 2250, "f32": 75, "f32 high": 1125, "s8": 4500, "f8": 4500},
    ),
}  # fmt: skip

_CUDA, _CUDNN = "12.8.0", (9, 10, 0)


def config_text(gpu: Gpu) -> str:
    """The text of XLA's ``GpuTargetConfigProto`` for this GPU."""
    major, minor = gpu.capability
    cudnn = ".".join(map(str, _CUDNN))
    fields = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": gpu.shared,
        "shared_memory_per_block_optin": gpu.optin,
        "threads_per_core_limit": gpu.threads,
        "core_count": gpu.cores,
        "fpus_per_core": gpu.lanes,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "memory_bandwidth": int(gpu.bandwidth),
        "l2_cache_size": gpu.cache,
        "clock_rate_ghz": gpu.clock,
        "device_memory_size": gpu.memory,
        "name": f'"{gpu.title}"',
        "device_vendor": '"NVIDIA Corporation"',
        "driver_version": '"13.0.0"',
        "runtime_version": f'"{_CUDA}"',
        "compile_time_toolkit_version": f'"{_CUDA}"',
        "dnn_version": f'"{cudnn}"',
    }
    feature = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
    lines = [f"  {name}: {value}" for name, value in fields.items()]
    lines.append(f"  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {feature} }}")
    version = " ".join(f"{name}: {value}" for name, value in zip(("major", "minor", "patch"), _CUDNN))
    return "\n".join(
        [
            "gpu_device_info {",
            *lines,
            "}",
            'platform_name: "CUDA"',
            f"dnn_version_info {{ {version} }}",
            f'device_description_str: "{gpu.title}"',
            "",
        ]
    )
