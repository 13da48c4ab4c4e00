"""The porter's rows on PyTorch's OpInfo samples: the original under torch beside the emitted text under JAX.

python -m parity.rules [--only NAME ...] [--samples 6] [--record]

Each sample is written as a line of PyTorch, ported, and both are run: values, dtypes' kinds and gradients. Truth is torch in
float64; our error is judged beside that of torch's own float32. A row that no sample reaches is run on its own example.
``--record`` writes the rows that passed, and that nothing contradicts, to jaxnn/port/rules/tested.txt, which the table
reads: a row that is not in it is not loaded.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
from jaxnn.port.proving.values import error, expect, judge, leaves, numpy_of, weights_of
from jaxnn.port.rules import EXAMPLES, Row, every_row, key_of, load_untested, rows
from jaxnn.port.rules.tested import RECORD, tested
from parity import ours

FLOOR = 2e-5
_PICKING = (
    "topk",
    "sort",
    "argsort",
    "max",
    "min",
    "median",
    "argmax",
    "argmin",
    "kthvalue",
    "mode",
    "cummax",
    "cummin",
)
_RANDOM = (
    "empty",
    "rand",
    "normal",
    "bernoulli",
    "multinomial",
    "poisson",
    "exponential",
    "uniform",
    "cauchy",
    "geometric",
)

# Samples that no row is held to, by name and dtype, and why.
_LEFT_OUT = {
    ("logaddexp", "complex64"): "JAX takes another branch of the logarithm where an argument is far from the real line",
    ("baddbmm", "int64"): "PyTorch cuts a fraction given for alpha or beta to an integer",
}
# What JAX says where it takes less than PyTorch does: nothing wrong comes of it.
_LOUD = re.compile("accept dtype|is not supported|Prior to JAX v0.5.0|object of type 'int' has no len")


@dataclass
class Sample:
    """One call: its text on the names of its tensors, and these."""

    name: str
    text: str
    tensors: dict[str, Any]
    result: str = ""

    def function(self, at: int) -> str:
        parameters = ", ".join(f"{name}: torch.Tensor" for name in self.tensors)
        body = self.text if self.result else f"return {self.text}"
        end = f"\n    return {self.result}" if self.result else ""
        return f"def f{at}({parameters}):\n    {body}{end}\n"


@dataclass
class Found:
    """What became of the samples that reached a row."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)


def literal(value: Any, tensors: dict[str, Any]) -> str:
    """A value as PyTorch source; tensors get names. ValueError for what cannot be written."""
    torch: Any = sys.modules["torch"]
    if isinstance(value, torch.Tensor):
        name = "x" if not tensors else f"t{len(tensors)}"
        tensors[name] = value
        return name
    if value is None or isinstance(value, (bool, int, str)):
        return repr(value)
    if isinstance(value, float):
        return repr(value) if np.isfinite(value) else f'float("{value}")'
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, (tuple, list)):
        items = [literal(item, tensors) for item in value]
        return (
            f"[{', '.join(items)}]"
            if isinstance(value, list)
            else f"({', '.join(items)}{',' if len(items) == 1 else ''})"
        )
    raise ValueError(type(value).__name__)


def calls(name: str, sample: Any, forms: set[str], inplace: bool) -> Iterator[Sample]:
    """The sample as a function's call and as a method's, as far as rows have these forms."""
    for form in sorted(forms):
        tensors: dict[str, Any] = {}
        try:
            first = literal(sample.input, tensors)
            args = [literal(value, tensors) for value in sample.args]
            args += [f"{key}={literal(value, tensors)}" for key, value in sample.kwargs.items()]
        except ValueError:
            continue
        if not tensors or any(value.numel() > 3000 for value in tensors.values()):
            continue
        if form == "function":
            yield Sample(name, f"torch.{name}({', '.join([first, *args])})", tensors)
        elif first == "x" and not inplace:
            yield Sample(name, f"x.{name}({', '.join(args)})", tensors)
        elif first == "x":
            yield Sample(name, f"y = x.clone(); y.{name}({', '.join(args)})", tensors, "y")


def _without_ties(tensor: Any) -> Any:
    """Numbers of which no two are equal: which of equal ones is picked is open."""
    torch: Any = sys.modules["torch"]
    if tensor.dtype == torch.bool:
        return tensor
    order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(0))
    return (order - tensor.numel() // 2).reshape(tensor.shape).to(tensor.dtype)


def forms_of(rows: tuple[Row, ...]) -> set[str]:
    return {form for row in rows for form in (("function", "method") if row.form == "both" else (row.form,))}


def samples_of(name: str, rows: tuple[Row, ...], count: int) -> list[Sample]:
    """Up to `count` samples of each form, calls of other forms first."""
    from torch.testing._internal import common_methods_invocations as database

    torch: Any = sys.modules["torch"]
    base = name.removesuffix("_") if name.endswith("_") and not name.endswith("__") else name
    operations = [op for op in database.op_db if base in (op.name, *(alias.name for alias in op.aliases))]
    found: dict[str, list[Sample]] = defaultdict(list)
    seen = set()
    for op in operations:
        dtypes = op.supported_dtypes("cpu")
        wanted = (torch.float32, torch.int64, torch.bool, torch.complex64)
        for dtype in [dtype for dtype in wanted if dtype in dtypes][:2]:
            if (name, str(dtype).removeprefix("torch.")) in _LEFT_OUT:
                continue
            for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
                if name.rstrip("_") in _PICKING:
                    sample.input = _without_ties(sample.input)
                for call in calls(name, sample, forms_of(rows), base != name):
                    # Calls alike in all but numbers say the same of a row.
                    shape = tuple((value.ndim, str(value.dtype)) for value in call.tensors.values())
                    key = ("".join(c for c in call.text if not c.isdigit()), shape)
                    if key not in seen:
                        seen.add(key)
                        found["function" if call.text.startswith("torch.") else "method"].append(call)
    chosen = []
    for several in found.values():
        step = max(1, len(several) // count)
        chosen += several[::step][:count]
    return chosen


def example(row: Row) -> Sample:
    """A row's own example."""
    torch: Any = sys.modules["torch"]
    rng = np.random.default_rng(0)
    tensors = {}
    for name, (dtype, shape, low, high) in EXAMPLES.items():
        if name in _words(row.example):
            values = rng.uniform(low, high, shape)
            if dtype.startswith("complex"):
                values = values + 1j * rng.uniform(low, high, shape)
            values = rng.integers(int(low), int(high), shape) if dtype in ("int64", "bool") else values
            tensors[name] = torch.from_numpy(np.asarray(values)).to(getattr(torch, dtype))
    *before, last = row.example.split("; ")
    return Sample(row.torch, "; ".join(before) or last, tensors, last if before else "")


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in text).split()


# ------------------------------------------------------------------------------------------------ running both


def _torch_function(text: str, at: int) -> Any:
    torch: Any = sys.modules["torch"]
    namespace: dict[str, Any] = {"torch": torch, "n": 2, "nn": torch.nn, "F": torch.nn.functional, "np": np}
    exec(text, namespace)
    return namespace[f"f{at}"]


def _run_torch(function: Any, sample: Sample, dtype: Any, grad: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    torch: Any = sys.modules["torch"]
    cast = lambda value: value.to(dtype) if value.dtype == torch.float32 else value  # noqa: E731
    tensors = {name: cast(value.detach().clone()) for name, value in sample.tensors.items()}
    floating = [name for name, value in tensors.items() if grad and value.dtype == dtype]
    for name in floating:
        tensors[name].requires_grad_()
    torch.manual_seed(0)
    found = dict(leaves(function(*tensors.values())))
    live = [(at, value) for at, value in enumerate(found.values()) if getattr(value, "requires_grad", False)]
    gradients: dict[str, Any] = {}
    if live and floating:
        terms = [(value * torch.from_numpy(weights_of(value.shape, at)).to(value.dtype)).sum() for at, value in live]
        total = sum((term.real if term.is_complex() else term) for term in terms)
        boxes = [tensors[name] for name in floating]
        given = torch.autograd.grad(total, boxes, allow_unused=True)
        gradients = {
            name: np.zeros(tuple(box.shape)) if grad is None else numpy_of(grad)
            for name, box, grad in zip(floating, boxes, given)
        }
    return {name: numpy_of(value) for name, value in found.items()}, gradients


def _run_ours(function: Any, sample: Sample, wanted: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    arrays = {name: jnp.asarray(numpy_of(value)) for name, value in sample.tensors.items()}
    arrays = {
        name: value.astype(jnp.bfloat16) if "bfloat16" in str(sample.tensors[name].dtype) else value
        for name, value in arrays.items()
    }
    nn.manual_seed(0)
    found = dict(leaves(function(*arrays.values())))
    floating = [name for name, value in arrays.items() if value.dtype == jnp.float32]
    if not wanted or not floating:
        return {name: numpy_of(value) for name, value in found.items()}, {}

    def loss(*values: Any) -> Any:
        total: Any = 0.0
        for at, value in enumerate(dict(leaves(function(*(arrays | dict(zip(floating, values))).values()))).values()):
            if hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.inexact):
                term = (value * jnp.asarray(weights_of(value.shape, at)).astype(value.dtype)).sum()
                total = total + (term.real if jnp.iscomplexobj(term) else term)
        return total

    nn.manual_seed(0)
    grads = jax.grad(loss, tuple(range(len(floating))))(*[arrays[name] for name in floating])
    return {name: numpy_of(value) for name, value in found.items()}, {
        name: numpy_of(g) for name, g in zip(floating, grads)
    }


def _kinds_differ(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    for name, value in theirs.items():
        mine, own = np.asarray(ours.get(name)), np.asarray(value)
        if mine.dtype.kind != own.dtype.kind and {mine.dtype.kind, own.dtype.kind} != {"i", "u"}:
            return f"{name or 'the result'}: {mine.dtype}, not {own.dtype}"
    return ""


def differs(original: Any, ported: Any, sample: Sample) -> str | None:
    """What is wrong with the port of a sample; "" where nothing is; None where torch itself refuses it."""
    torch: Any = sys.modules["torch"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            own, own_gradients = _run_torch(original, sample, torch.float32)
        except Exception:
            try:  # some functions refuse what has a gradient
                own, own_gradients = _run_torch(original, sample, torch.float32, grad=False)
            except Exception:
                return None
        try:
            truth, true_gradients = _run_torch(original, sample, torch.float64)
        except Exception:
            truth, true_gradients = own, own_gradients
        try:
            mine, gradients = _run_ours(ported, sample, bool(own_gradients))
        except Exception as failure:
            if any(not value.ndim or not value.numel() for value in sample.tensors.values()):
                return None  # said loudly, and of no model: numbers without dimensions, arrays without elements
            if isinstance(failure, (TypeError, ValueError)) and _LOUD.search(str(failure)):
                return None
            return (
                f"raises {type(failure).__name__}: {str(failure).strip().splitlines()[0][:150] if str(failure) else ''}"
            )
    if any(
        np.asarray(value).dtype.kind in "iub" and error(value, own[name])
        for name, value in truth.items()
        if name in own
    ):
        truth = own  # in float64 another element is the largest
    wrong = judge(mine, expect(own, truth, FLOOR))[1] or _kinds_differ(mine, own)
    if wrong or not own_gradients:
        return wrong
    wrong = judge(gradients, expect(own_gradients, true_gradients, 10 * FLOOR))[1]
    return wrong and f"gradient of {wrong}"


def run(samples: list[Sample], found: dict[str, Found]) -> None:
    """Port the samples as one file, run each, and note it with the row that its site was ported by."""
    from jaxnn.port import port_source

    texts = [sample.function(at) for at, sample in enumerate(samples)]
    begin, starts = 4, []
    for text in texts:
        starts.append(begin)
        begin += text.count("\n")
    source = "import numpy as np\nimport torch\nn = 2\n" + "".join(texts)
    ported = port_source(source)
    namespace: dict[str, Any] = {}
    exec(compile(ported.text, "<ported>", "exec"), namespace)
    by_sample: dict[int, list[Any]] = defaultdict(list)
    for site in ported.sites:
        if site.row is not None:
            by_sample[max(at for at, start in enumerate(starts) if start <= site.line)].append(site)
    for at, sample in enumerate(samples):
        sites = [site for site in by_sample[at] if sample.name in site.row.names] or by_sample[at]
        if not sites or any(site.status == "cannot" for site in sites):
            continue
        wrong = differs(_torch_function(texts[at], at), namespace[f"f{at}"], sample)
        if wrong is None:
            continue
        for site in {id(site.row): site for site in sites}.values():
            entry = found[key_of(site.row)]
            if wrong:
                shapes = ", ".join(
                    f"{name} {tuple(value.shape)} {value.dtype}" for name, value in sample.tensors.items()
                )
                entry.failed.append(f"{sample.text} -> {site.after}: {wrong} [{shapes}]")
            else:
                entry.passed += 1


def check(names: list[str], count: int) -> tuple[dict[str, Found], dict[str, Row]]:
    """Every row of these names (all, where there are none) on its samples and its example."""
    by_name: dict[str, list[Row]] = defaultdict(list)
    for row in every_row():
        for name in row.names:
            by_name[name].append(row)
    found: dict[str, Found] = defaultdict(Found)
    keys = {key_of(row): row for row in every_row()}
    for name, several in by_name.items():
        if names and name not in names:
            continue
        random = any(word in name for word in _RANDOM)
        samples = (
            []
            if random or "[" in name or "." in name and name.split(".")[0] in ("max", "min")
            else samples_of(name, tuple(several), count)
        )
        samples += [example(row) for row in several if row.torch == name]
        for batch in (samples, *([[sample] for sample in samples] if len(samples) > 1 else [])):
            try:
                run(batch, found)
                break
            except Exception as failure:  # one sample that cannot be ported takes the file with it: then one by one
                if len(batch) == 1:
                    print(f"{name}: {batch[0].text}: {type(failure).__name__}: {failure}", file=sys.stderr)
    return found, keys


# ------------------------------------------------------------------------------------------------ the docs' table

BEGIN, END = "<!-- the rows of jaxnn/port/rules, by python -m parity.rules --docs -->", "<!-- end of the rows -->"
PAGE = Path(__file__).parents[1] / "docs" / "porting.md"


def table() -> str:
    """The table for docs/porting.md: each row's example, and what the porter makes of it."""
    from jaxnn.port import port_source

    several = rows()
    parameters = ", ".join([*(f"{name}: torch.Tensor" for name in EXAMPLES), "n=2"])
    text, lines = "import numpy as np\nimport torch\n", []
    for at, row in enumerate(several):
        *before, last = row.example.split("; ")
        body = "".join(f"    {line}\n" for line in before) + f"    return {last}\n"
        text += f"def f{at}({parameters}):\n{body}"
    functions = {
        node.name: [ast.unparse(statement) for statement in node.body]
        for node in ast.walk(ast.parse(port_source(text).text))
        if isinstance(node, ast.FunctionDef)
    }
    code = lambda source: "`" + source.replace("|", "\\|") + "`"  # noqa: E731
    for at, row in enumerate(several):
        here = "; ".join(functions[f"f{at}"]).replace("return ", "")
        notes = [row.note] if row.note else []
        notes += [f"so {', '.join(f'`{name}`' for name in row.also.split())}"] if row.also else []
        lines.append(f"| {code(row.example)} | {code(here)} | {'; '.join(notes)} |")
    return "\n".join(["| PyTorch | here | |", "|---|---|---|", *lines])


def page(text: str) -> str:
    """The page's text with the table of today."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


def shown(text: str) -> str:
    """docs/port_source.md with its first block's port of today."""
    from jaxnn.port import port_source

    head, mark, rest = text.partition("<!-- ported: the block above, by python -m jaxnn port -->\n")
    original = head.partition('```python title="PyTorch"\n')[2].partition("```")[0]
    return f"{head}{mark}```python\n{port_source(original).text}```{rest.partition('```python')[2].partition('```')[2]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m parity.rules", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help="these operations")
    parser.add_argument("--samples", type=int, default=6, help="of each operation and form, at most")
    parser.add_argument("--record", action="store_true", help="write jaxnn/port/rules/tested.txt")
    parser.add_argument(
        "--docs",
        action="store_true",
        help="only write the table of docs/porting.md, and the block of docs/port_source.md",
    )
    options = parser.parse_args()
    if options.docs:
        other = PAGE.with_name("port_source.md")
        for file, made in ((PAGE, page), (other, shown)):
            file.write_text(made(file.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    import torch

    torch.set_num_threads(1)
    with contextlib.suppress(AttributeError):
        torch._C._jit_set_profiling_mode(False)
    load_untested()
    ours.compile_once()
    ours.compile_quickly()
    found, keys = check(options.only, options.samples)
    good = {key for key, entry in found.items() if entry.passed and not entry.failed}
    for key, entry in found.items():
        if entry.failed:
            print(f"{key}\n  {entry.passed} passed, {len(entry.failed)} failed")
            for line in entry.failed[:3]:
                print(f"    {line}")
    wanted = {key for key, row in keys.items() if not options.only or set(row.names) & set(options.only)}
    unseen = sorted(key for key in wanted if key not in found)
    passed, fail = sum(entry.passed for entry in found.values()), len(wanted) - len(good) - len(unseen)
    print(f"{len(good)} of {len(wanted)} rows hold, {passed} samples; {fail} fail")
    for key in unseen:
        print(f"no sample reaches {key}")
    if options.record:
        kept = {key for key in tested() if key in keys and key not in wanted}
        RECORD.write_text("".join(f"{key}\n" for key in sorted(good | kept)), encoding="utf-8")
    return 0 if len(good) == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
