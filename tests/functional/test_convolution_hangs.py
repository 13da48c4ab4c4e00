"""Convolutions and gradients that once deadlocked or ended the process: each in a child process, with a time limit."""

import os
import subprocess
import sys

import pytest

_CHECKED = """
import jax, numpy as np
import jaxnn.functional as F
from parity import compare

def check(image, kernel, groups, stride, padding, calls):
    spatial = len(image) - 2
    x = np.random.default_rng(0).standard_normal(image, np.float32)
    w = np.ones(kernel, np.float32)
    options = dict(stride=stride, padding=padding, groups=groups)
    gradient = jax.jit(jax.grad(lambda w: getattr(F, f"conv{spatial}d")(x * 1.0, w, **options).sum()))
    results = [np.asarray(gradient(w)) for _ in range(calls)]
    # The cotangent is one everywhere, so each entry is a sum of one channel's strided slice.
    pads = [(0, 0), (0, 0), *[(p, p) for p in padding]]
    padded = np.pad(x.astype(np.float64), pads)
    sizes = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(image[2:], padding, kernel[2:], stride)]
    expected, short = np.zeros(kernel), np.zeros(kernel, np.float32)  # summed in float64, and by NumPy in float32
    for place in np.ndindex(*kernel[2:]):
        cut = tuple(slice(at, at + (n - 1) * s + 1, s) for at, n, s in zip(place, sizes, stride))
        met = padded[(slice(None), slice(None), *cut)]
        for sums in (expected, short):
            by_group = met.astype(sums.dtype).sum((0, *range(2, 2 + spatial))).reshape(groups, kernel[1])
            sums[(..., *place)] = np.repeat(by_group, kernel[0] // groups, axis=0)
    for result in results:
        judged = compare.judge("gradient", result, expected, short, "float32")
        assert judged.held, judged
    print("done", flush=True)
"""
# image, kernel, groups, stride, padding, calls
CASES = {
    "1-d, 3 groups of 33 channels": (((1, 99, 5000), (3, 33, 3), 3, (1,), (20,), 5), {}),
    "1-d, 8 groups of 16 channels": (((1, 128, 3238), (8, 16, 3), 8, (1,), (20,), 5), {}),
    "2-d, strided, SSE4.2": (
        ((2, 390, 33, 3), (6, 130, 3, 3), 3, (3, 2), (3, 20), 40),
        {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_weight_gradient_of_a_grouped_convolution_returns(name):
    arguments, environment = CASES[name]
    code = f"{_CHECKED}\ncheck(*{arguments!r})"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )
    assert ran.returncode == 0 and ran.stdout.strip() == "done", ran.stderr[-2000:]


# Programs of which XLA's swap of image and kernel made one that is no convolution, and ended the process.
_SWAPPED = {
    "conv_transpose2d": "F.conv_transpose2d(ones(1, 1, 2, 9), ones(1, 16, 3, 2), stride=(5, 2), padding=1)",
    "conv_transpose3d": "F.conv_transpose3d(ones(1, 4, 2, 9, 2), ones(4, 8, 3, 2, 3), stride=2, padding=1)",
    "complex": "F.conv_transpose2d(ones(1, 1, 2, 9) * 1j, ones(1, 16, 3, 2) * 1j, stride=(5, 2), padding=1)",
    "complex input gradient": "jax.vjp(lambda x: F.conv2d(x, ones(5, 8, 5, 2) * 1j, stride=(3, 2), padding=(2, 1)), "
    "ones(1, 8, 6, 6) * 1j)[1](ones(1, 5, 2, 4) * 1j)",
    "input gradient": "jax.grad(lambda x: F.conv2d(x, ones(5, 8, 5, 2), stride=(3, 2), padding=(2, 1)).sum())(ones(1, 8, 6, 6))",
    "weight gradient": "jax.grad(lambda w: (F.conv_transpose2d(ones(1, 1, 3, 3), w, stride=2, padding=(1, 3)) ** 2).sum())"
    "(ones(1, 16, 5, 4))",
}


@pytest.mark.parametrize("name", _SWAPPED)
def test_two_taps_of_stride_two_without_padding(name):
    arrays = "import jax, jax.numpy as jnp, jaxnn.functional as F\nones = lambda *shape: jnp.ones(shape)"
    code = f"{arrays}\njax.block_until_ready({_SWAPPED[name]})\nprint('done', flush=True)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and ran.stdout.strip() == "done", ran.stderr[-2000:]
