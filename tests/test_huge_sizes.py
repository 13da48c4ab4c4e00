"""Sizes that no machine has memory for, and negative ones: an error that names the argument, not a death or a cut-off."""

import json
import subprocess
import sys

import pytest

COMPILATION = "full"  # see conftest.py

# (function of F and one size, torch's type where its CPU neither dies nor follows the size into its arrays)
SIZES = [-(2**40), 2**40, 2**62, 2**63, 10**30]
PROGRAM = """
import json, sys, warnings
warnings.simplefilter("ignore")
if sys.argv[1] == "torch":
    import torch, torch.nn as nn, torch.nn.functional as F
    ones, ints = (lambda *shape: torch.ones(shape)), torch.tensor
else:
    import jax.numpy as jnp, jaxnn as nn, jaxnn.functional as F
    ones, ints = (lambda *shape: jnp.ones(shape)), jnp.array

images = {n: ones(1, 2, *[5] * n) for n in (1, 2, 3)}
kernels = {n: ones(2, 2, *[2] * n) for n in (1, 2, 3)}
modes = {1: ["nearest", "linear", "area", "nearest-exact"], 2: ["bilinear", "bicubic", "area"], 3: ["trilinear"]}
calls, ours = {}, {}
for n, x in images.items():
    for mode in modes[n]:
        calls[f"interpolate {n} {mode}"] = lambda s, x=x, mode=mode: F.interpolate(x, size=s, mode=mode)
        calls[f"factor {n} {mode}"] = lambda s, x=x, mode=mode: F.interpolate(x, scale_factor=float(s), mode=mode)
    for kind in ("avg", "max"):
        calls[f"adaptive {kind} {n}"] = lambda s, n=n, x=x, kind=kind: getattr(F, f"adaptive_{kind}_pool{n}d")(x, s)
    ours[f"pad {n}"] = lambda s, x=x: F.pad(x, (s, s))
    ours[f"replicate {n}"] = lambda s, n=n, x=x: F.pad(x, (s, s) * n, mode="replicate")
    ours[f"reflect {n}"] = lambda s, n=n, x=x: F.pad(x, (s, s) * n, mode="reflect")
    ours[f"circular {n}"] = lambda s, n=n, x=x: F.pad(x, (s, s) * n, mode="circular")
    ours[f"conv {n}"] = lambda s, n=n, x=x: getattr(F, f"conv{n}d")(x, kernels[n], padding=s)
    ours[f"dilation {n}"] = lambda s, n=n, x=x: getattr(F, f"conv{n}d")(x, kernels[n], dilation=s)
    ours[f"transposed {n}"] = lambda s, n=n, x=x: getattr(F, f"conv_transpose{n}d")(x, kernels[n], stride=s)
    ours[f"unpool {n}"] = lambda s, n=n: getattr(F, f"max_unpool{n}d")(
        ones(1, 1, *[1] * n), ints([[0]]).reshape(1, 1, *[1] * n), s
    )
    ours[f"pool {n}"] = lambda s, n=n, x=x: getattr(F, f"max_pool{n}d")(x, s)
ours["one_hot"] = lambda s: F.one_hot(ints([0, 1]), s)
ours["fold"] = lambda s: F.fold(ones(1, 4, 16), s, 2)
ours["unfold"] = lambda s: F.unfold(images[2], 2, padding=s)
ours["affine_grid"] = lambda s: F.affine_grid(ones(1, 2, 3), (1, 1, s, 2))
for name, call in (calls if sys.argv[1] == "torch" else calls | ours).items():
    for size in json.loads(sys.argv[2]):
        try:
            verdict = str(tuple(call(size).shape))
        except Exception as error:
            verdict = type(error).__name__
        print(json.dumps([name, size, verdict]), flush=True)
"""


def _verdicts(side):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, side, json.dumps(SIZES)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {(name, size): verdict for name, size, verdict in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def ours():
    return _verdicts("jaxnn")


def test_sizes_beyond_all_memory_are_errors(ours):
    assert len(ours) > 150
    assert not {
        key: verdict for key, verdict in ours.items() if verdict not in ("RuntimeError", "TypeError", "ValueError")
    }
    # ValueErrors are of negative sizes: of unpooling, which looks at what a kernel leads back to, and of affine_grid.
    assert {name.split()[0] for (name, size), verdict in ours.items() if verdict == "ValueError"} <= {
        "unpool",
        "affine_grid",
    }


def test_resizing_has_torchs_errors(ours):
    pytest.importorskip("torch")
    wrong = {}
    for (name, size), wanted in _verdicts("torch").items():
        if size >= 2**63 and wanted in ("TypeError", "ValueError", "RuntimeError"):
            # More than 64 bits: one of three, by which of torch's parsers reads it. A TypeError here, for factors RuntimeError.
            wanted = "RuntimeError" if name.startswith("factor") else "TypeError"
        if name.startswith("factor") and "area" in name and size > 0:
            wanted = "RuntimeError"  # torch: its parser reads the product
        if ours[name, size] != wanted:
            wrong[name, size] = (wanted, ours[name, size])
    assert not wrong
