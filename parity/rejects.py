"""``python -m parity rejects``: what PyTorch takes is taken, and what it rejects is rejected, in shapes and options.

Random calls of every family, good and bad, on both sides. Ours is only traced, so that a thousand calls take seconds.
They agree where both give the same shapes, or where ours raises the kind of exception that PyTorch raises.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from parity.rejects_calls import FAMILIES, Call, draw_call

# What may differ: a pattern of the line "name(...): ours ..., torch ...", and why.
_PASSING = (
    "Dimension out of range|Dimension specified as|tuple index out of range|object of type .* has no len|select\\(\\): index"
    "|not enough values to unpack|too many values to unpack"
)
KNOWN: tuple[tuple[str, str], ...] = (
    (r"^conv_transpose[12]d\(.*: ours .*\b0\b", "torch's programs for the CPU disagree about empty outputs"),
    (
        r"^conv_transpose3d\(.*(groups=[2-9].*: ours|torch gives) .*\b0\b",
        "torch's programs for the CPU disagree about empty outputs",
    ),
    (r"\(.*\[(.*, )?0[],].*: ours raises .*; torch gives", "an input without elements: torch checks it less"),
    (r"^fractional_max_pool.*: ours raises .*numbers from 1 up.*torch gives", "windows or outputs without elements"),
    (r"^max_unpool.*; torch gives .*\b0\b", "windows or outputs without elements"),
    (r"^pad\(.*mode='circular'.*wrap around once.*torch gives", "a crop has left nothing to wrap around"),
    (r"^instance_norm\(.*float32\[\], .*torch gives", "statistics of one number are repeated"),
    (r"argument '\w+' \(position \d+\) must be tuple of ints", "both reject: torch looks at the types of all first"),
    (r"^max_unpool1d\(.*padding=\(0, 0\).*torch gives", "torch reads the first number of too many"),
    (
        r"^max_unpool2d\(.*stride: expected one int or 2 ints, got 3.*torch gives",
        "torch reads the first numbers of too many",
    ),
    (r"^adaptive_avg_pool\dd\(int.*: ours raises .*; torch gives .*\b0\b", "windows or outputs without elements"),
    (
        r"^instance_norm\(.*\b0\b.*: ours gives .*\b0\b.*; torch raises RuntimeError: Number of dimensions of repeat",
        "an input without elements: torch trips over it",
    ),
    (r"^local_response_norm\(.*int.*, 1\).*torch gives", "integers: torch takes a window of one"),
    (r"^local_response_norm\(int\d+\[(\d+, ){3,}.*torch gives", "integers: torch divides the sums without a rest"),
    (r"^interpolate\(int.*mode='area'.*torch gives .*\b0\b", "windows or outputs without elements"),
    (
        r"^(nll_loss|cross_entropy|multi_margin_loss)\(.*expected scalar type Long but found",
        "classes are of any integer dtype",
    ),
    (r"select\(\) cannot be applied to a 0-dim", "torch trips over the argument in passing, ours names it"),
    (r"^bilinear\(.*bias: .*torch gives", "torch broadcasts a bias of another shape"),
    (
        r"^scaled_dot_product.*value: expected a dimension -2.*torch gives",
        "torch's kernel for the CPU looks at no value behind the keys'",
    ),
    (
        r"^scaled_dot_product.*is_causal=True.*attn_mask should not.*torch gives",
        "some of torch's kernels take both masks",
    ),
    (
        r"^(nll_loss|cross_entropy)\(float32\[\d+, 0.*torch raises IndexError: Target",
        "labels have no values inside a trace",
    ),
    (r"Write a // b for.*; torch raises", "both reject: the sizes are looked at first"),
    (r"^max_unpool.*padding: .*Write a // b for.*; torch gives", "torch does not look at it beside an output_size"),
    (r"torch raises RuntimeError: There should be exactly", "torch trips over the argument in passing, ours names it"),
    (
        r"ours raises .*; torch raises .*output_size.*(must be tuple of ints|at least 5)",
        "both reject: output_size holds None",
    ),
    (
        r"ours raises .*; torch raises ValueError: Input dimension should be at least",
        "both reject: too many numbers for the rank",
    ),
    (r"reduction: expected one of.*torch raises NotImplementedError", "both reject: the reduction is looked at first"),
    (r"^MultiheadAttention.*key_padding_mask: expected.*torch raises", "both reject: the mask is looked at first"),
    (rf": ours raises .*; torch raises \w+: ({_PASSING})", "torch trips over the argument in passing, ours names it"),
    (r"; torch raises \w+: .*(elements in indices should be type int64)", "indices are int32 where JAX's integers are"),
    (r"; torch raises \w+: expected target dtype to be Long or Byte", "indices are int32 where JAX's integers are"),
    (r"^fractional_max_pool3d\(.*output_ratio=0.0.*torch gives", "an output without elements"),
    (r"^max_unpool.*: ours raises .*no empty dimension.*torch gives", "an input without elements"),
    (
        r"^(batch|instance)_norm\(float32\[0, ",
        "statistics of an empty batch: torch checks them not, or trips over them",
    ),
    (
        r"^max_unpool.*ours raises.*torch raises ValueError: .*output_size",
        "both reject; torch looks at output_size first",
    ),
)


@dataclasses.dataclass
class Outcome:
    """The shapes that a call gives, or what it raises."""

    shapes: tuple[tuple[int, ...], ...] | None
    error: Exception | None = None

    def __str__(self) -> str:
        if self.error is None:
            return f"gives {self.shapes}"
        first = str(self.error).splitlines()[0][:140] if str(self.error) else ""
        return f"raises {type(self.error).__name__}: {first}"


def agree(ours: Outcome, theirs: Outcome) -> bool:
    """Whether both take the call and give the same shapes, or both reject it in the same kind of exception."""
    if ours.error is None or theirs.error is None:
        return ours.error is theirs.error and ours.shapes == theirs.shapes
    return isinstance(ours.error, type(theirs.error))


def ours_of(call: Call) -> Outcome:
    """What jaxnn does, traced."""
    import jax

    import jaxnn

    arrays: list[Any] = []

    def collect(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            arrays.append(item)
        return item

    call.map(collect)

    def run(values: list[Any]) -> list[Any]:
        feed = iter(values)
        filled = call.map(lambda item: next(feed) if isinstance(item, np.ndarray) else item)
        if call.make is None:
            function = getattr(jaxnn.functional, call.name)
        else:
            function = getattr(jaxnn, call.name)(*call.make[0], **call.make[1])
        return _leaves(function(*filled.args, **filled.kwargs))

    try:
        with jaxnn.rng(jax.random.key(0)):
            given = [jax.ShapeDtypeStruct(a.shape, jax.dtypes.canonicalize_dtype(a.dtype)) for a in arrays]
            return Outcome(tuple(tuple(leaf.shape) for leaf in jax.eval_shape(run, given)))
    except Exception as problem:
        return Outcome(None, problem)


def theirs_of(call: Call) -> Outcome:
    """What torch does."""
    import torch

    filled = call.map(lambda item: torch.from_numpy(item) if isinstance(item, np.ndarray) else item)
    try:
        if call.make is None:
            function = getattr(torch.nn.functional, call.name)
        else:
            function = getattr(torch.nn, call.name)(*call.make[0], **call.make[1])
        return Outcome(tuple(tuple(leaf.shape) for leaf in _leaves(function(*filled.args, **filled.kwargs))))
    except Exception as problem:
        return Outcome(None, problem)


def _leaves(result: Any) -> list[Any]:
    if hasattr(result, "shape"):
        return [result]
    if isinstance(result, (tuple, list)):
        return [leaf for item in result for leaf in _leaves(item)]
    return []


def differences(seed: int, family: str, count: int) -> Iterator[tuple[str, str]]:
    """For each of `count` calls on which the two differ: a line, and why it may (or "")."""
    for number in range(count):
        call = draw_call(family, np.random.default_rng(zlib.crc32(f"{seed}/{family}/{number}".encode())))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours, theirs = ours_of(call), theirs_of(call)
        if not agree(ours, theirs):
            line = f"{call}: ours {ours}; torch {theirs}"
            yield line, next((reason for pattern, reason in KNOWN if re.search(pattern, line)), "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=500, help="calls of each family")
    parser.add_argument("--only", action="append", choices=[*FAMILIES], help="default: every family")
    parser.add_argument("--all", action="store_true", help="print every difference, not the first of each kind")


def main(arguments: argparse.Namespace) -> int:
    """Compare; 0 when nothing differs but what is known."""
    bad = 0
    for family in arguments.only or FAMILIES:
        kinds: dict[Any, list[str]] = collections.defaultdict(list)
        explained: collections.Counter[str] = collections.Counter()
        for line, reason in differences(arguments.seed, family, arguments.count):
            if reason:
                explained[reason] += 1
            else:
                kinds[_kind(line)].append(line)
        for lines in kinds.values():
            for line in lines if arguments.all else lines[:1]:
                print(f"{len(lines):4d} {line}")
        found = sum(map(len, kinds.values()))
        known = "".join(f"; {number} known: {reason}" for reason, number in explained.items())
        print(f"{family}: {arguments.count} calls, {found} differ{known}", flush=True)
        bad += found
    return 1 if bad else 0


def _kind(line: str) -> Sequence[str]:
    """What makes two differences the same: the function and both outcomes without their numbers."""
    name, _, rest = line.partition("(")
    outcomes = rest.rpartition(": ours ")[2]
    return name, re.sub(r"[\d(), -]+", "#", outcomes)[:90]
