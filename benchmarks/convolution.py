"""Forty convolutions of well-known networks beside PyTorch, and each form of a convolution by itself.

    python -m benchmarks.convolution [--forms] [--defaults] [--only NAME] [--rounds 7] [--threads 2]

With --forms: forward, input gradient and weight gradient of each convolution in every form that jaxnn has,
which is what `jaxnn.functional._convolution_forms.choose` rests on.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
import jaxnn.functional as F
from benchmarks import beside
from benchmarks.conv_shapes import SHAPES, Conv
from benchmarks.timing import Times, fastest
from jaxnn.functional import _convolution_forms as forms
from jaxnn.functional import _convolution_primitive as primitive
from jaxnn.functional._convolution_geometry import Geometry


def operands(conv: Conv) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    channels = (conv.channels, conv.out // conv.groups) if conv.transposed else (conv.out, conv.channels // conv.groups)
    image = rng.standard_normal((conv.batch, conv.channels, *conv.size), np.float32)
    return image, rng.standard_normal((*channels, *conv.kernel), np.float32) * 0.1


def options(conv: Conv) -> dict[str, int]:
    return dict(stride=conv.stride, padding=conv.padding, dilation=conv.dilation, groups=conv.groups)


def function(home: Any, conv: Conv) -> Callable[..., Any]:
    return getattr(home, f"conv{'_transpose' if conv.transposed else ''}{len(conv.kernel)}d")


def beside_torch(conv: Conv, rounds: int, xla: dict[str, Any]) -> tuple[dict[str, Times], dict[str, Times]]:
    """Forward, and forward with both gradients, of torch eager and of jaxnn."""
    import torch

    def of(library: Any) -> Callable[..., Any]:
        return lambda x, w: function(library, conv)(x, w, None, **options(conv))

    return beside.forward_and_gradients(of(F), of(torch.nn.functional), operands(conv), rounds, xla)


def geometry_of(conv: Conv) -> Geometry:
    spatial = len(conv.kernel)
    stride, dilation, padding = (conv.stride,) * spatial, (conv.dilation,) * spatial, (conv.padding, conv.padding)
    return Geometry(stride, (padding,) * spatial, dilation, conv.groups, jax.lax.Precision.HIGHEST)


def chosen(conv: Conv, operation: str) -> str:
    """The form that jaxnn takes on the CPU."""
    image, weight = operands(conv)
    return forms.choose(operation, image.shape, weight.shape, geometry_of(conv))


def by_form(conv: Conv, rounds: int, xla: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Microseconds by operation and form; torch's own beside them."""
    import torch

    image, weight = operands(conv)
    geometry = geometry_of(conv)
    x, w = jnp.asarray(image), jnp.asarray(weight)
    y = forms.direct(x, w, geometry)
    theirs = function(torch.nn.functional, conv)
    tx, tw, ty = (torch.tensor(np.asarray(array)) for array in (x, w, y))
    extra = {key: value for key, value in options(conv).items()}

    def gradient(which):
        leaf = (tx if which == "input" else tw).detach().clone().requires_grad_()
        out = theirs(leaf, tw, None, **extra) if which == "input" else theirs(tx, leaf, None, **extra)
        return lambda: torch.autograd.grad(out, leaf, ty, retain_graph=True)

    calls = {
        "forward": (primitive._forward, (x, w), (), lambda: theirs(tx, tw, None, **extra)),
        "input_gradient": (primitive._input_gradient, (y, w), x.shape, gradient("input")),
        "weight_gradient": (primitive._weight_gradient, (x, y), w.shape, gradient("weight")),
    }
    results = {}
    for operation, (run, arrays, shape, torch_call) in calls.items():
        contenders = {"torch": torch_call}
        for form in forms.FORMS:
            if not forms.fits(form, w.shape, geometry):
                continue
            call = functools.partial(run, geometry=geometry, shape=shape, form=form)
            compiled = jax.jit(call, compiler_options=xla)
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arrays))
            jax.block_until_ready(compiled(*arrays))
            if time.perf_counter() - start < 30:
                contenders[form] = lambda compiled=compiled, arrays=arrays: compiled(*arrays)
        results[operation] = fastest(contenders, rounds)
    return results


def main(argv: list[str] | None = None) -> None:
    parser = beside.parser(__doc__, rounds=7)
    parser.add_argument("--forms", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--defaults", action="store_true", help="without nn.compiler_options()")
    arguments = beside.parse(parser, argv)
    xla = {} if arguments.defaults else nn.compiler_options()
    shapes = [conv for conv in SHAPES if arguments.only in conv.name]
    if arguments.forms:
        for conv in (conv for conv in shapes if not conv.transposed):
            print(f"\n| {conv.name} | " + " | ".join(["torch", *forms.FORMS]) + " | fastest | chosen |")
            print("|---" * (len(forms.FORMS) + 4) + "|")
            for operation, row in by_form(conv, arguments.rounds, xla).items():
                known = [form for form in forms.FORMS if form in row]
                cells = [f"{row[form] / row['torch']:.2f}" if form in row else "-" for form in forms.FORMS]
                cells += [min(known, key=row.__getitem__), chosen(conv, operation)]
                print(f"| {operation} | {row['torch']:.0f} us | {' | '.join(cells)} |", flush=True)
        return
    titles = ["torch forward, us", "ratio", "of medians", "torch forward + backward, us", "ratio", "of medians"]
    print(f"| convolution | {' | '.join(titles)} |\n|" + "---|" * 7)
    rows = []
    for conv in shapes:
        pair = beside_torch(conv, arguments.rounds, xla)
        rows.append([beside.ratios(times) for times in pair])
        cells = [
            f"{times['torch'].best:.0f} | {ratio.best:.2f} | {ratio.median:.2f}" for times, ratio in zip(pair, rows[-1])
        ]
        print(f"| {conv.name} | {' | '.join(cells)} |", flush=True)
    for title, column in zip(("forward", "forward + backward"), zip(*rows)):
        print(f"\n{title}:")
        for kind in Times._fields:
            ratios = [getattr(ratio, kind) for ratio in column]
            over = sum(ratio > 1.5 for ratio in ratios)
            print(f"  {kind}: middle {statistics.median(ratios):.2f}, worst {max(ratios):.2f}, {over} over 1.5")


if __name__ == "__main__":
    main()
