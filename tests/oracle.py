"""``assert_parity``: what the unit tests of the families hold our functions to.

Truth is torch in float64; our float32 error is judged next to torch's own float32 error by the gate of
``parity.compare`` (at most 8 times torch's own, or 2e-5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity import compare


def assert_parity(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    *arrays: Any,
    grad: bool = True,
    grad_argnums: tuple[int, ...] | None = None,
    second: bool = False,
    jit: bool = True,
    dtype: str = "float32",
    seed: int = 0,
    **kwargs: Any,
) -> None:
    """Hold `ours` against `theirs` on `arrays`: values, gradients, dtypes, and eager against jit.

    Args:
        ours: a function of jax arrays; may return nested tuples, lists and dicts of arrays.
        theirs: torch's function of the same call form.
        arrays: positional arguments. NumPy floating arrays are cast (float64 and `dtype` for torch, `dtype` for
            ours); integer and boolean ones are passed as they are (int64 for torch); anything else (None, a
            number, a tuple) goes to both unchanged.
        grad: compare the gradients, for random output cotangents, with respect to the floating arrays.
        grad_argnums: only these positions.
        second: compare also the second derivatives (a random direction's Hessian product).
        jit: compare also the jitted result.
        dtype: "float32", or "bfloat16" or "float16".
        seed: of cotangents and directions.
        kwargs: passed to both; NumPy arrays in it are cast like `arrays` and not differentiated.

    Raises:
        AssertionError: with the figures of what failed.
    """
    import torch

    low = getattr(torch, dtype)
    rounded = [_round(a, dtype) for a in arrays]
    kwargs = {name: _round(value, dtype) for name, value in kwargs.items()}
    where = [i for i, a in enumerate(rounded) if _is_floating(a)] if grad or second else []
    if grad_argnums is not None:
        where = [i for i in where if i in grad_argnums]
    rng = np.random.default_rng(seed)
    directions = [_round(rng.standard_normal(rounded[i].shape), dtype) for i in where]
    truth = _torch_run(theirs, rounded, kwargs, where, directions, second, torch.float64, seed)
    own = _torch_run(theirs, rounded, kwargs, where, directions, second, low, seed)
    runs = {"eager": _jax_run(ours, rounded, kwargs, where, directions, second, dtype, seed, False)}
    if jit:
        runs["jit"] = _jax_run(ours, rounded, kwargs, where, directions, second, dtype, seed, True)
    failures = []
    for mode, run in runs.items():
        for kind in truth:
            if len(run[kind]) != len(truth[kind]):
                failures.append(f"{mode}: {len(run[kind])} {kind}s, torch gives {len(truth[kind])}")
                continue
            noise = compare.NOISE * compare.scale_of(truth[kind])
            for i, (mine, true, its) in enumerate(zip(run[kind], truth[kind], own[kind])):
                name = f"{mode}: {kind} {i if kind == 'output' else f'of argument {where[i]}'}"
                if _family(mine.dtype) != _family(its.dtype):
                    failures.append(f"{name}: dtype {mine.dtype}, torch's is {its.dtype}")
                tensor = compare.judge(name, mine, true, its, dtype, noise)
                if not tensor.held:
                    theirs_error = "none" if tensor.theirs is None else f"{tensor.theirs:.3g}"
                    failures.append(f"{name}: error {tensor.ours:.3g}, torch's own {theirs_error} {tensor.note}")
    assert not failures, "\n" + "\n".join(failures)


def _is_floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and (value.dtype.kind == "f" or value.dtype == jnp.bfloat16)


def _round(value: Any, dtype: str) -> Any:
    return np.asarray(value).astype(jnp.dtype(dtype)) if _is_floating(value) else value


def _family(dtype: Any) -> str:
    """int64 and int32 count as one: 64-bit integers are 32 without jax_enable_x64."""
    name = np.dtype(dtype).name
    return "int" if name in ("int32", "int64") else name


def _cotangents(outputs: list[Any], dtype: str, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed + 1)
    return [_round(rng.standard_normal(output.shape), dtype) for output in outputs]


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.detach().float().numpy().astype(jnp.bfloat16)
    return tensor.detach().numpy()


def _torch_run(function, arrays, kwargs, where, directions, second, dtype, seed) -> dict[str, list[np.ndarray]]:
    import torch

    name = str(dtype).removeprefix("torch.") if dtype != torch.float64 else "float32"

    def convert(value: Any, leaf: bool = False) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if not _is_floating(value):
            return torch.from_numpy(value.astype(np.int64) if value.dtype == np.int32 else value.copy())
        return torch.from_numpy(value.astype(np.float64)).to(dtype).requires_grad_(leaf)

    tensors = [convert(a, i in where) for i, a in enumerate(arrays)]
    result = function(*tensors, **{key: convert(value) for key, value in kwargs.items()})
    outputs = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, torch.Tensor)]
    run = {"output": [_to_numpy(output) for output in outputs]}
    if not where:
        return run
    # Cotangents are drawn at the precision under test, for the float64 truth too.
    precision = _precision(arrays, name)
    weights = _cotangents([o for o in outputs if o.is_floating_point()], precision, seed)
    pairs = [
        (output, torch.from_numpy(weight.astype(np.float64)).to(output.dtype))
        for output, weight in zip([o for o in outputs if o.is_floating_point()], weights)
        if output.requires_grad
    ]
    inputs = [tensors[i] for i in where]
    grads = torch.autograd.grad(
        [p[0] for p in pairs], inputs, [p[1] for p in pairs], create_graph=second, allow_unused=True
    )
    grads = [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs)]
    run["gradient"] = [_to_numpy(g) for g in grads]
    if second:
        along = [torch.from_numpy(d.astype(np.float64)).to(dtype) for d in directions]
        live = [(g, d) for g, d in zip(grads, along) if g.requires_grad]
        seconds = [None] * len(inputs)
        if live:
            seconds = torch.autograd.grad([g for g, _ in live], inputs, [d for _, d in live], allow_unused=True)
        run["second derivative"] = [_to_numpy(torch.zeros_like(x) if s is None else s) for s, x in zip(seconds, inputs)]
    return run


def _precision(arrays: list[Any], fallback: str) -> str:
    for array in arrays:
        if _is_floating(array):
            return np.dtype(array.dtype).name
    return fallback


def _jax_run(function, arrays, kwargs, where, directions, second, dtype, seed, jit) -> dict[str, list[np.ndarray]]:
    def convert(value: Any) -> Any:
        return jnp.asarray(value) if isinstance(value, np.ndarray) else value

    converted = [convert(a) for a in arrays]
    keywords = {key: convert(value) for key, value in kwargs.items()}
    traced = [i for i, a in enumerate(converted) if isinstance(a, jax.Array)]
    transform = jax.jit if jit else lambda f: f

    def call(values: list[Any]) -> list[Any]:
        full = list(converted)
        for i, value in zip(traced, values):
            full[i] = value
        return [leaf for leaf in jax.tree.leaves(function(*full, **keywords)) if isinstance(leaf, jax.Array)]

    values = [converted[i] for i in traced]
    outputs = transform(call)(values)
    run = {"output": [np.asarray(output) for output in outputs]}
    if not where:
        return run
    slots = [traced.index(i) for i in where]
    floating = [i for i, o in enumerate(outputs) if jnp.issubdtype(o.dtype, jnp.floating)]
    weights = _cotangents([outputs[i] for i in floating], dtype, seed)
    weights = [jnp.asarray(w).astype(outputs[i].dtype) for w, i in zip(weights, floating)]

    def gradients(inputs: list[Any]) -> list[Any]:
        def part(inputs: list[Any]) -> list[Any]:
            full = list(values)
            for slot, value in zip(slots, inputs):
                full[slot] = value
            result = call(full)
            return [result[i] for i in floating]

        return jax.vjp(part, inputs)[1](weights)[0]

    inputs = [values[slot] for slot in slots]
    run["gradient"] = [np.asarray(g) for g in transform(gradients)(inputs)]
    if second:
        along = [jnp.asarray(d) for d in directions]
        seconds = transform(lambda inputs: jax.vjp(gradients, inputs)[1](along)[0])(inputs)
        run["second derivative"] = [np.asarray(s) for s in seconds]
    return run
