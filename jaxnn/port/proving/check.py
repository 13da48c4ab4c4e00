"""The ported model held to what the original did: keys, weights of the seed, outputs, gradients, training state, nn.jit."""

from __future__ import annotations

import copy
import functools
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn
import jaxnn.functional
from jaxnn.port.proving.files import read, shape_of
from jaxnn.port.proving.proof import Check, Proof
from jaxnn.port.proving.reference import (
    Reference,
    Run,
    is_f,
    made,
    options_of,
    without_dropout,
    without_recurrent_dropout,
)
from jaxnn.port.proving.values import (
    WEIGHTS,
    Expected,
    Leaves,
    Own,
    Tensor,
    error,
    judge,
    kind_of,
    leaves,
    numpy_of,
    replaced,
    seed_all,
    weights_of,
)


def where_in(failure: BaseException, root: str) -> str:
    """The innermost line of the ported files in a traceback."""
    frames = [frame for frame in traceback.extract_tb(failure.__traceback__) if frame.filename.startswith(root)]
    return f" at {frames[-1].filename.removeprefix(root).lstrip('/')}:{frames[-1].lineno}" if frames else ""


def check(make: Callable[[], Any], reference: Reference, seed: int = 0, root: str = "\0") -> Proof:
    """Hold the model that `make` builds to the reference.

    Args:
        make: gives (module, inputs) as the original's function; of the inputs only those that do not travel are used.
        reference: what the original did.
        seed: of the weights.
        root: folder of the ported files, for naming lines.
    """
    proof = Proof(notes=list(reference.notes))
    checker = _Checker(proof, reference, root)
    seed_all(seed)
    jaxnn.manual_seed(seed)
    built = checker.attempt("build", lambda: made(make()))
    if built is None:
        return proof
    model, args, kwargs = built
    if not isinstance(model, jaxnn.Module):
        proof.checks["build"] = Check("failed", f"the function gave a {type(model).__name__}, not a jaxnn Module")
        return proof
    proof.checks["build"] = Check("held")
    without_recurrent_dropout(model)
    checker.structure(model)
    checker.weights(model)
    if checker.attempt("keys", lambda: model.load_state_dict(_for_loading(reference)) or True) is None:
        return proof
    _load_constants(model, reference)
    try:
        inputs = _merged(reference.args, args), _merged(reference.kwargs, kwargs)
    except (TypeError, KeyError, IndexError) as failure:
        proof.checks["build"] = Check("failed", f"the inputs are not those of the original: {failure}")
        return proof
    with without_dropout(jaxnn.functional):
        checker.mode(model, *inputs, "eval")
        checker.mode(model, *inputs, "train")
    if reference.layers is not None and proof.checks["forward"].status != "held":
        proof.checks["forward"].text += checker.first_layer(model.eval(), *inputs)
    return proof


def _for_loading(reference: Reference) -> dict[str, Any]:
    return {name: jnp.asarray(read(value)) for name, value in reference.state.items()}


def _load_constants(model: Any, reference: Reference) -> None:
    """Give the model the original's arrays that are no state, where its own are these but for rounding, as it has its state."""
    modules = dict(model.named_modules())
    for name, filed in reference.constants.items():
        path, _, attribute = name.rpartition(".")
        mine: Any = getattr(modules.get(path), attribute, None)
        if not hasattr(mine, "dtype"):
            continue
        value = read(filed)
        if tuple(mine.shape) == value.shape and error(numpy_of(mine), value) <= WEIGHTS:
            setattr(modules[path], attribute, jnp.asarray(value).astype(mine.dtype))


def _merged(sent: Any, own: Any) -> Any:
    """The original's inputs, with the port's own objects where they did not travel."""
    if isinstance(sent, Tensor):
        return jnp.asarray(read(sent.value))
    if isinstance(sent, Own):
        return own
    if isinstance(sent, dict):
        return {key: _merged(value, own[key]) for key, value in sent.items()}
    if isinstance(sent, (list, tuple)):
        items = [_merged(value, mine) for value, mine in zip(sent, own, strict=True)]
        return type(sent)(items) if type(sent) in (list, tuple) else type(sent)(*items)
    return sent


class _Checker:
    def __init__(self, proof: Proof, reference: Reference, root: str) -> None:
        self.proof, self.reference, self.root = proof, reference, root

    def attempt(self, name: str, run: Callable[[], Any]) -> Any:
        """What `run` gives, or None and the check `name` failed."""
        try:
            return run()
        except Exception as failure:  # whatever the ported code raises is what is reported
            first = str(failure).strip().splitlines() or [""]
            text = f"{type(failure).__name__}: {first[0]}{where_in(failure, self.root)}"
            self.proof.checks[name] = Check("failed", text)
            return None

    def structure(self, model: Any) -> None:
        """Keys in their order, shapes, dtypes, what is trained; and the options of every layer."""
        ours, reference = model.state_dict(), self.reference
        wrong = ""
        if list(ours) != list(reference.state):
            odd = [f"{name} is missing" for name in reference.state if name not in ours]
            odd += [f"{name} is not in the original" for name in ours if name not in reference.state]
            wrong = "; ".join(odd[:3]) or "another order"
        for name, value in reference.state.items():
            if not wrong and tuple(ours[name].shape) != shape_of(value):
                wrong = f"{name}: shape {tuple(ours[name].shape)}, not {shape_of(value)}"
            if not wrong and kind_of(ours[name]) != reference.kinds[name]:
                wrong = f"{name}: dtype {kind_of(ours[name])}, not {reference.kinds[name]}"
        trained = [name for name, box in model.named_parameters() if box.requires_grad]
        if not wrong and trained != reference.trained:
            odd = sorted(set(trained) ^ set(reference.trained))
            wrong = f"{odd[0]}: requires_grad" if odd else "parameters in another order"
        self.proof.checks["keys"] = Check("differs", wrong) if wrong else Check("held")
        mine = options_of(model)
        differs = ""
        for path, (kind, theirs) in reference.options.items():
            if path in mine and mine[path][0] == kind and not differs:
                values = mine[path][1]
                odd = [name for name in theirs if name in values and not _alike(values[name], theirs[name])]
                differs = f"{path}.{odd[0]}: {values[odd[0]]!r}, not {theirs[odd[0]]!r}" if odd else ""
            elif path not in mine or mine[path][0] != kind:
                differs = (
                    differs or f"{path or 'the model'}: {mine[path][0] if path in mine else 'no layer'}, not {kind}"
                )
        self.proof.checks["options"] = Check("differs", differs) if differs else Check("held")

    def weights(self, model: Any) -> None:
        """Parameters and buffers as the seed made them."""
        ours, buffers = model.state_dict(), dict(model.named_buffers())
        worst, wrong = 0.0, ""
        for mine, theirs in ((ours, self.reference.state), (buffers, self.reference.buffers)):
            for name, value in theirs.items():
                found = error(numpy_of(mine[name]), value) if name in mine else np.inf
                worst = max(worst, found)
                if found > WEIGHTS and not wrong:
                    what = f"error {found:.1e}" if name in mine else "is no buffer"
                    wrong = f"{name}: {what} with the same seed"
        self.proof.checks["weights"] = Check("differs", wrong, worst) if wrong else Check("held", "", worst)

    def mode(self, model: Any, args: Any, kwargs: Any, mode: str) -> None:
        """Outputs, gradients, state and nn.jit in eval or training mode."""
        names = (
            ("forward", "gradients", "jit", "")
            if mode == "eval"
            else ("training", "training gradients", "training jit", "state")
        )
        run = self.reference.runs.get(mode)
        if run is None or run.is_random:
            why = "the original gives other numbers at each call" if run else "the original fails in this mode"
            for name in filter(None, names):
                self.proof.checks[name] = Check("skipped", why)
            return
        pure = _Pure(args, kwargs)
        twin_of = lambda: copy.deepcopy(model).train(mode == "train")  # noqa: E731
        compilers: tuple[tuple[str, Any], ...] = ((names[0], lambda f: f), (names[2], jaxnn.jit))
        for name, compile_ in compilers:
            twin = twin_of()
            seed_all(1)
            jaxnn.manual_seed(1)
            call: Any = functools.partial(compile_(pure.outputs), twin, pure.arrays)
            found = self.attempt(name, call)
            if found is None:
                continue
            self.hold(name, dict(zip(pure.names, found)), run.outputs)
            if mode == "train":
                self.hold("state" if name == names[0] else "jit state", twin.state_dict(), run.state)
            del twin, call, found
        self.gradients(names[1], twin_of, pure, run)

    def hold(self, name: str, ours: Leaves, theirs: dict[str, Expected]) -> None:
        worst, wrong = judge(ours, theirs)
        self.proof.checks[name] = Check("differs", wrong, worst) if wrong else Check("held", "", worst)

    def gradients(self, name: str, twin_of: Callable[[], Any], pure: _Pure, run: Run) -> None:
        if not run.gradients:
            self.proof.checks[name] = Check("skipped", "the original has no gradients")
            return
        twin = twin_of()
        seed_all(1)
        jaxnn.manual_seed(1)
        found = self.attempt(name, lambda: pure.gradients(twin))
        if found is None:
            return
        absent = lambda one: np.broadcast_to(np.zeros((), np.float32), shape_of(one.value))  # noqa: E731
        self.hold(
            name,
            {key: found[key] if key in found else absent(one) for key, one in run.gradients.items()},
            run.gradients,
        )

    def first_layer(self, model: Any, args: Any, kwargs: Any) -> str:
        """Which layer parts first, and the likely cause."""
        from jaxnn.testing import record
        from jaxnn.testing.compare import compare_traces

        try:
            runs = {id(file): read(file) for file in self.reference.layers}
            state = {name: read(value) for name, value in self.reference.state.items()}
            for run in runs.values():
                run.state = state
            true, own = (runs[id(file)] for file in self.reference.layers)
            found = compare_traces(true, own, record(model, *args, gradients=False, **kwargs))
        except Exception:  # the model fails: what it raises is reported already
            return ""
        return "" if found.agrees else f". {found.summary()}"


def _alike(ours: Any, theirs: Any) -> bool:
    return ours == theirs or (isinstance(ours, (list, tuple)) and list(ours) == theirs)


class _Pure:
    """The model as a function of itself and the arrays among its inputs; its results as a list of arrays."""

    def __init__(self, args: Any, kwargs: Any) -> None:
        self.arrays, self.names = [], []
        self.kinds: list[bool] = []
        is_leaf = lambda value: not isinstance(value, (dict, list, tuple))  # noqa: E731

        def hole(value: Any) -> Any:
            if not isinstance(value, (jax.Array, np.ndarray)):
                return value
            self.arrays.append(value)
            return _Hole(len(self.arrays) - 1)

        self.inputs = replaced((args, kwargs), hole, is_leaf)

    def outputs(self, model: Any, arrays: Any) -> list[Any]:
        args, kwargs = replaced(self.inputs, lambda hole: arrays[hole.at], lambda value: isinstance(value, _Hole))
        found = dict(leaves(model(*args, **kwargs)))
        self.names = list(found)
        return [jnp.asarray(value) for value in found.values()]

    def gradients(self, model: Any) -> Leaves:
        floating = [at for at, value in enumerate(self.arrays) if value.dtype == np.float32]

        def loss(model: Any, inputs: list[Any]) -> Any:
            arrays = list(self.arrays)
            for at, value in zip(floating, inputs):
                arrays[at] = value
            total: Any = 0.0
            for at, value in enumerate(self.outputs(model, arrays)):
                if jnp.issubdtype(value.dtype, jnp.inexact):
                    term = (value * jnp.asarray(weights_of(value.shape, at)).astype(value.dtype)).sum()
                    total = total + (term.real if jnp.iscomplexobj(term) else term)
            return total

        inputs = [self.arrays[at] for at in floating]
        trained = any(box.requires_grad for box in model.parameters())
        _, (*grads, by_input) = jaxnn.value_and_grad(loss, argnums=(0, 1) if trained else (1,))(model, inputs)
        return dict(grads[0] if grads else {}) | {f"input {at}": value for at, value in enumerate(by_input)}


class _Hole:
    """Stands among the inputs for an array."""

    def __init__(self, at: int) -> None:
        self.at = at


__all__ = ["check", "is_f"]
