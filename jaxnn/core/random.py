"""Random numbers: torch's host generator for initialisation, a jax key stream for dropout and its like.

One `Generator` holds both: a Mersenne twister (NumPy's MT19937, drawn from in torch's order and arithmetic by
``jaxnn.mersenne.twister``) and a jax key that is split at each draw. ``nn.jit`` and the other lifted transforms
thread the key of the current generator through the compiled code like any other state.

A draw from a generator that lives outside the trace would bake one set of random numbers into the compiled
code. Such a draw gives an abstract key: enough for ``jax.eval_shape``, refused with the remedy when it would
really be compiled.
"""

from __future__ import annotations

import contextvars
import copy
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.interpreters import batching

from jaxnn import _compat
from jaxnn.base.locks import Lock
from jaxnn.boxes.homes import TraceLeakError, may_hold
from jaxnn.boxes.slot import Slot
from jaxnn.core.conversions import place
from jaxnn.core.placement import check_alike, home
from jaxnn.lowering.define import Primitive, lower, refuse

_OUTSIDE = (
    "random numbers drawn from {} inside a plain jax transform: compiled code would use the same numbers at every call"
)
_GLOBAL, _BLOCK = "the global generator", "an nn.rng(key) block that was opened outside of it,"
_KEYS = "split a key outside, `keys = jax.random.split(nn.next_key(), n)`, and draw inside `with nn.rng(key):`"
_WAYS_OUT = {
    "scan": f"Use nn.scan, which threads the generator; or {_KEYS}, with the keys among the scanned inputs",
    "fori_loop": f"Use nn.scan, which threads the generator; or {_KEYS}, with keys[i] in the step i",
    "while_loop": "Carry a key through the loop, split it in each step, and draw inside `with nn.rng(key):`",
    "cond": "Draw a key outside, `key = nn.next_key()`, and use it in the branches inside `with nn.rng(key):`",
    "checkpoint": "Use nn.checkpoint, which threads the generator; or pass a key and draw inside `with nn.rng(key):`",
    "vmap": f"Use nn.vmap, which threads the generator; or {_KEYS}, with the keys as a mapped argument",
}
_WAYS_OUT["switch"] = _WAYS_OUT["cond"]
_WAY_OUT = (
    "Compile with nn.jit, which threads the generator; or wrap the call in `with nn.rng(key):` with a key that is an "
    "argument of the compiled function"
)
_OF_BLOCK = "Open the block inside the function that is transformed, `with nn.rng(key):`, with the key as its argument"


def _outside(source: str) -> str:
    """Why nothing is drawn here from the generator called `source`, and the way out of the transform around."""
    kind = _compat.transform_around()[0]
    way_out = (
        _OF_BLOCK if source is _BLOCK and kind in ("", "jit", "grad", "checkpoint") else _WAYS_OUT.get(kind, _WAY_OUT)
    )
    return f"{_OUTSIDE.format(source)}. {way_out}; or pass key= to the function"


_abstract_key = Primitive("jaxnn_global_generator_key")
_abstract_key.def_abstract_eval(lambda *, where: ShapedArray((2,), np.dtype("uint32")))


refuse(_abstract_key, lambda where: where)
batching.primitive_batchers[_abstract_key] = lambda args, dims, **params: (_abstract_key.bind(**params), None)

# A drawn key passes through this primitive, which is nothing but a place for vmap, jax's own too, to make it another
# key for each example: no two of them drop the same values.
_for_each_example = Primitive("jaxnn_key_for_each_example")
_for_each_example.def_abstract_eval(lambda key, *, same: key)
_for_each_example.def_impl(lambda key, *, same: key)
lower(_for_each_example, lambda key, *, same: key)


def _batch_key(axis: Any, args: Any, dims: Any, *, same: tuple[Any, ...]) -> tuple[Any, Any]:
    (key,), (dim,) = args, dims
    key = _for_each_example.bind(key, same=same)  # for the mapped axes around this one
    if dim is not None or axis.name in same:
        return key, dim
    folded = lambda data, index: jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(data), index))  # noqa: E731
    for _ in key.shape[1:]:  # one that an inner axis has made several of
        folded = jax.vmap(folded, (0, None))
    return jax.vmap(folded, (None, 0))(key, jnp.arange(axis.size)), 0


batching.fancy_primitive_batchers[_for_each_example] = _batch_key


def _key_data(key: Any) -> Any:
    """Raw uint32 data of a typed or raw jax key."""
    if not isinstance(key, (jax.Array, np.ndarray)):
        remedy = f". Write jax.random.key({key}) for a seed" if isinstance(key, (int, np.integer)) else ""
        raise TypeError(f"nn.rng: key: expected a jax.random.key, got {type(key).__name__}{remedy}")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape != ():
            raise ValueError(f"nn.rng: key: expected one key of shape (), got keys of shape {key.shape}")
        return jax.random.key_data(key)
    if key.dtype != jnp.uint32 or key.ndim != 1:
        raise TypeError(f"nn.rng: key: expected a jax.random.key or raw uint32 key data, got {key.dtype}{key.shape}")
    return key


class Generator:
    """A source of random numbers: torch's Mersenne twister for weights, a jax key stream for dropout.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> generator = nn.Generator().manual_seed(0)
        >>> weight = nn.Parameter(jnp.zeros((2, 3)))
        >>> nn.init.normal_(weight, generator=generator).shape
        (2, 3)

    Follows ``torch.Generator``. Seeded from the operating system until ``manual_seed`` is called.
    """

    def __init__(self, device: Any = None, *, key: jax.Array | None = None) -> None:
        # id of a state of the stream -> the claim of who works from it now and will write back where it got to (see
        # `take`). One that is not locked is of work that an interrupt ended before it could `release`: it counts no more.
        self._taken: dict[int, threading.Lock] = {}
        self._lock = Lock(renewed=self._taken.clear)
        self._seed = int.from_bytes(os.urandom(8), "little") >> 1
        self._host: Any = None
        self._slot: Slot | None = None if key is None else Slot(_key_data(key))
        self._from_key = key is not None
        self._called = _GLOBAL  # in messages

    def manual_seed(self, seed: int) -> Generator:
        """Start again from `seed`: both the twister and the key stream."""
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise TypeError(f"manual_seed: seed: expected an int, got {type(seed).__name__}")
        seed = int(seed)
        if not -(2**63) <= seed < 2**64:
            raise RuntimeError(
                f"manual_seed: seed: expected a 64-bit integer, got {seed}: Overflow when unpacking long"
            )
        self._seed = seed % 2**64
        self._host, self._from_key = None, False
        self._slot = None
        self._taken.clear()  # who draws from the old stream now does not write into the new one
        return self

    def seed(self) -> int:
        """Seed from the operating system; returns the seed."""
        seed = int.from_bytes(os.urandom(8), "little") >> 1
        self.manual_seed(seed)
        return seed

    def initial_seed(self) -> int:
        """The seed last given."""
        return self._seed

    @property
    def host(self) -> Any:
        """The Mersenne twister (``jaxnn.mersenne.twister.Twister``) that weights are drawn from."""
        if self._host is None:
            from jaxnn.mersenne.twister import Twister

            self._host = Twister(self._seed)
        return self._host

    @property
    def slot(self) -> Slot:
        """The box that holds the key stream's state, raw uint32 data, made on first use."""
        slot = self._slot
        if slot is None:
            with self._lock.held:
                slot = self._slot
                if slot is None:
                    slot = self._slot = Slot(_seeded(self._seed), home=None)
        return slot

    def lie(self, sharding: Any, where: str) -> None:
        """Copy the stream's state to devices that are about to draw from it, so that it stays there from call to call.

        Raises:
            RuntimeError: of several processes one has another state; names it.
        """
        slot = self.slot
        if getattr(slot._value, "sharding", None) != sharding:
            check_alike(where, sharding, {"the random stream (nn.manual_seed)": slot._value})
            slot.replace(place(slot._value, sharding))

    @property
    def draws_on_host(self) -> bool:
        """Whether weights are to be drawn from the twister now: outside any trace, with no key given."""
        return not self._from_key and _compat.at_top_level()

    def take(self, claim: threading.Lock) -> Any:
        """The stream's state for who holds `claim`, and alone draws from it until `release`, or until the claim is free.

        To be called, and the state be written, inside ``with claim:``. A lock is left by C alone: it is free
        after an interrupt, whichever line that comes at.

        While somebody works from the present state, in another thread or around this call, others get a state
        that branches off from it: no two draw the same numbers. Only who `has` the state may write the stream's box.
        """
        while True:
            slot = self.slot if self._slot is None else self._slot
            state = slot._value
            holder = self._taken.setdefault(id(state), claim)
            if holder is not claim:
                if holder.locked():
                    return _branch(state, np.uint32(next(_branches)))
                with self._lock.held:
                    self.release(state, holder)
                continue
            if self._slot is slot and slot._value is state:
                return state
            self.release(state, claim)  # the stream has moved on between the two lines above

    def has(self, state: Any, claim: threading.Lock) -> bool:
        """Whether `state` was taken with `claim` from the stream itself, and is not a branch."""
        return self._taken.get(id(state)) is claim

    def moved(self, state: Any, claim: threading.Lock, new_state: Any) -> tuple[Slot | None, Any]:
        """The stream's box and what it becomes when `claim` has got from `state` to `new_state`; None: it stays.

        Raises:
            TraceLeakError: the new state is one of a trace that this generator outlives.
        """
        slot = self._slot
        if new_state is None or new_state is state or slot is None:
            return None, None
        if not may_hold(slot.home, new_state):
            raise TraceLeakError(_outside(self._called))
        return (slot, new_state) if self.has(state, claim) else (None, None)

    def release(self, state: Any, claim: threading.Lock) -> None:
        """Nobody draws from `state` with `claim` any longer."""
        if self._taken.get(id(state)) is claim:
            del self._taken[id(state)]

    def next_key(self) -> jax.Array:
        """One fresh jax key; the stream moves on."""
        claim = threading.Lock()
        with self._lock.held, claim:
            before = self.take(claim)
            try:
                state, key = _split(home(before))
                if self.has(before, claim):
                    if not may_hold(self.slot.home, state):
                        return jax.random.wrap_key_data(
                            _abstract_key.bind(where=f"{_outside(self._called)}.\n{_user_frame()}")
                        )
                    self.slot.value = state
            finally:
                self.release(before, claim)
        if not _compat.at_top_level():
            key = _for_each_example.bind(key, same=_same_axes.get())
        return jax.random.wrap_key_data(key)

    def get_state(self) -> np.ndarray[Any, Any]:
        """The whole state as numbers of dtype uint8: torch's 5056 bytes of the twister, then those of the jax key."""
        key = np.asarray(self.slot.value)
        return np.concatenate([self.host.get_state(), np.frombuffer(key.tobytes(), np.uint8)])

    def set_state(self, new_state: Any) -> None:
        """Go back to a state from `get_state`; torch's own is taken too, and restarts the key stream from its seed."""
        state = np.asarray(new_state)
        if state.dtype != np.uint8 or state.ndim != 1:
            raise TypeError(f"set_state: new_state: expected one row of dtype uint8, got {state.dtype}{state.shape}")
        self.host.set_state(state[:5056])
        self._seed = self.host.seed
        rest = state[5056:].copy()
        self.slot.value = jnp.asarray(rest.view(np.uint32)) if rest.size else _seeded(self._seed)
        self._taken.clear()

    def clone_state(self) -> Generator:
        """Another generator in the same state."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        key = None if self._slot is None else np.asarray(self._slot.value)
        return {"seed": self._seed, "host": self._host, "key": key, "from_key": self._from_key}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._taken = {}
        self._lock = Lock(renewed=self._taken.clear)
        self._called = _GLOBAL
        self._seed, self._host, self._from_key = state["seed"], state["host"], state["from_key"]
        self._slot = None if state["key"] is None else Slot(jnp.asarray(state["key"]))


def _seeded(seed: int) -> jax.Array:
    """The key stream's first state for a 64-bit seed."""
    with jax.ensure_compile_time_eval():
        return jax.random.key_data(jax.random.key(np.uint32((seed ^ (seed >> 32)) & 0xFFFFFFFF)))


def _split(data: Any) -> tuple[Any, Any]:
    pair = jax.random.key_data(jax.random.split(jax.random.wrap_key_data(data)))
    return pair[0], pair[1]


@jax.jit
def _branch(data: Any, number: Any) -> Any:
    """Another state, which nothing drawn from `data` itself meets."""
    return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(data), number))


_branches = itertools.count(2**31)  # fold_in with a small number gives what split gives at that place


def _user_frame() -> str:
    """The innermost lines of the caller's code outside jaxnn, for the message of a refused draw."""
    import traceback

    package = os.path.dirname(os.path.dirname(__file__))
    frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(package)]
    frames = [frame for frame in frames if f"{os.sep}jax{os.sep}" not in frame.filename]
    return "Drawn here:\n" + "".join(traceback.format_list(frames[-2:]))


default_generator = Generator()
# Names of the mapped axes along which all examples draw the same numbers.
_same_axes: contextvars.ContextVar[tuple[Any, ...]] = contextvars.ContextVar("jaxnn_same_axes", default=())
# Of each thread and each task of an event loop: the generators that `use` has put on, the innermost last.
_stack: contextvars.ContextVar[tuple[Generator, ...]] = contextvars.ContextVar("jaxnn_generators", default=())


def current() -> Generator:
    """The generator that draws come from: the innermost ``nn.rng``'s or transform's, else the global one."""
    generators = _stack.get()
    return generators[-1] if generators else default_generator


@contextmanager
def use(generator: Generator) -> Iterator[Generator]:
    """Draw from `generator` inside."""
    before = _stack.get()
    _stack.set((*before, generator))
    try:
        yield generator
    finally:
        _stack.set(before)


@contextmanager
def same_along(axis_name: Any) -> Iterator[None]:
    """Inside, all examples along this mapped axis draw the same numbers."""
    before = _same_axes.set((*_same_axes.get(), axis_name))
    try:
        yield
    finally:
        _same_axes.reset(before)


def rng(key: jax.Array) -> AbstractContextManager[Generator]:
    """A context in which dropout, its like, and initialisation draw from `key`, a jax key, and nothing else.

    Example:
        >>> import jax, jaxnn as nn
        >>> @jax.jit
        ... def predict(model, x, key):
        ...     with nn.rng(key):
        ...         return model(x)
    """
    generator = Generator(key=key)
    generator._called = _BLOCK
    return use(generator)


def manual_seed(seed: int) -> Generator:
    """Seed the global generator, for weights (the same as torch's) and for dropout.

    Example:
        >>> import jaxnn as nn
        >>> _ = nn.manual_seed(0)
        >>> print(nn.Linear(2, 1).weight)  # as torch.manual_seed(0); torch.nn.Linear(2, 1)
        [[-0.00529398  0.3793229 ]]

    Follows ``torch.manual_seed``.
    """
    return default_generator.manual_seed(seed)


def initial_seed() -> int:
    """The seed of the global generator."""
    return default_generator.initial_seed()


@contextmanager
def fork_rng(devices: Any = None, enabled: bool = True) -> Iterator[None]:
    """Put the global generator back, at the end of the block, in the state it has now.

    Args:
        devices: accepted; there is one generator for all devices.
        enabled: False makes the context do nothing.

    Example:
        >>> import jaxnn as nn
        >>> before = nn.get_rng_state()
        >>> with nn.fork_rng():
        ...     layer = nn.Linear(2, 3)
        >>> bool((nn.get_rng_state() == before).all())
        True

    Follows ``torch.random.fork_rng``.
    """
    if not enabled:
        yield
        return
    state = default_generator.get_state()
    try:
        yield
    finally:
        default_generator.set_state(state)


def get_rng_state() -> np.ndarray[Any, Any]:
    """The state of the global generator.

    The first 5056 bytes are torch's: ``torch.set_rng_state(torch.from_numpy(nn.get_rng_state()[:5056]))``. The jax key
    comes after them.

    Example:
        >>> import jaxnn as nn
        >>> state = nn.get_rng_state()
        >>> first = nn.Linear(2, 3)
        >>> nn.set_rng_state(state)
        >>> bool((nn.Linear(2, 3).weight == first.weight).all())
        True

    Follows ``torch.get_rng_state``.
    """
    return default_generator.get_state()


def set_rng_state(new_state: Any) -> None:
    """Put the global generator in a state from ``get_rng_state``, this one or torch's. Follows ``torch.set_rng_state``."""
    default_generator.set_state(new_state)


def next_key() -> jax.Array:
    """One fresh jax key from the current generator: for layers of one's own that draw random numbers.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> class Noise(nn.Module):
        ...     def forward(self, x):
        ...         return x + jax.random.normal(nn.next_key(), x.shape)
        >>> Noise()(jnp.zeros(3)).shape
        (3,)
    """
    return current().next_key()
