"""torch's CPU generator in NumPy: the Mersenne twister, drawn from in torch's order and arithmetic.

Same seed, same weights: uniform and normal numbers equal torch's bit for bit. What torch fixes:

- float32, bfloat16 and float16 take one 32-bit draw each (its low 24 bits), float64 takes two (53 bits);
- the step to [low, high) is one fused multiply-add, and a result that rounds up to `high` becomes `low`;
- 16 normal numbers or more are made 16 at a time (Box-Muller: eight cosines, then eight sines), a last incomplete
  group by drawing the last 16 again; fewer are made in pairs in float64, the second of a pair kept for the next call.

A fill is cut into pieces: this thread draws them, spare threads turn them into numbers. A long one is compiled
(`compiled_fills`).
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jaxnn.mersenne import box_muller, compiled_fills, jump

Array = np.ndarray[Any, Any]

_JUMPED = 1 << 25  # draws that are skipped by a jump: so many take a tenth of a second, as a jump of a new length does
_PIECE = 1 << 15  # draws turned at a time: the scratch arrays stay in the cache
_STATE_BYTES = 5056  # torch's size; the layout below is torch's own, so either side can read the other's
_STATE = np.dtype(
    [
        ("seed", "<u8"),
        ("left", "<i4"),
        ("seeded", "<i4"),
        ("next", "<u8"),
        ("key", "<u8", 624),
        ("normal_x", "<f8"),
        ("normal_y", "<f8"),
        ("normal_rho", "<f8"),
        ("normal_is_valid", "<i4"),
        ("padding", "V12"),
    ]
)
_REDUCED = {np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)}
_FLOATING = _REDUCED | {np.dtype(np.float32), np.dtype(np.float64)}

# Turns draws into numbers, and uses the draws up.
Turn = Callable[[Array, Array], None]
# Compiled code that makes a long fill's numbers from a window of raw words, and what is still to be done to them.
Bulk = tuple[str, Callable[[Any], Any], Turn]

_pool: list[ThreadPoolExecutor] = []


def _workers() -> ThreadPoolExecutor | None:
    """Threads that turn draws into numbers; None on a machine with one processor."""
    if not _pool and (os.cpu_count() or 1) > 1:
        _pool.append(ThreadPoolExecutor(min(4, os.cpu_count() or 1) - 1, thread_name_prefix="jaxnn-init"))
    return _pool[0] if _pool else None


# A forked child has the executor but not its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.clear)


def _fused(x: Array, scale: float, shift: float) -> Array:
    """``x * scale + shift`` in float64, rounded once (Boldo and Melquiond's algorithm on Dekker's product)."""
    high = x * scale
    split = np.ldexp(1.0, 27) + 1
    x_high = x * split - (x * split - x)
    s_high = scale * split - (scale * split - scale)
    x_low, s_low = x - x_high, scale - s_high
    low = ((x_high * s_high - high) + x_high * s_low + x_low * s_high) + x_low * s_low
    t_high, t_low = _two_sum(np.asarray(shift), low)
    v_high, v_low = _two_sum(high, t_high)
    odd, rest = _two_sum(t_low, v_low)
    even = (odd.view(np.int64) & 1) == 0
    odd = np.where((rest != 0) & even, np.nextafter(odd, np.copysign(np.inf, rest)), odd)
    return v_high + odd


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    bb = total - a
    return total, (a - (total - bb)) + (b - bb)


def _check(name: str, dtype: Any) -> np.dtype[Any]:
    dtype = np.dtype(dtype)
    if dtype not in _FLOATING:
        raise NotImplementedError(f"{name}: dtype: expected float32, float64, bfloat16 or float16, got {dtype}")
    return dtype


def check_uniform(low: float, high: float, dtype: np.dtype[Any]) -> None:
    """torch's conditions on the bounds (RuntimeError)."""
    limit = float(ml_dtypes.finfo(dtype).max)
    for name, value in (("low", low), ("high", high)):
        if not -limit <= value <= limit:
            raise RuntimeError(f"uniform_: {name}: expected a number within {dtype}, got {value}")
    if low > high:
        raise RuntimeError(f"uniform_: expected low <= high, got low={low} and high={high}")
    if high - low > limit:
        raise RuntimeError(f"uniform_: expected high - low to fit {dtype}, got low={low} and high={high}")


def check_normal(std: float) -> None:
    """torch's condition on the standard deviation (RuntimeError)."""
    if not std >= 0:
        raise RuntimeError(f"normal_: std: expected a number of at least 0, got {std}")


class Twister:
    """MT19937 seeded and read as torch's CPU generator.

    Args:
        seed: its low 32 bits count, as in torch.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed % 2**64
        self._bits = np.random.MT19937()
        seeded: Any = np.random.RandomState(self.seed & 0xFFFFFFFF).get_state(legacy=False)
        self._bits.state = seeded
        self._draw = np.random.Generator(self._bits)
        self._next_normal: float | None = None

    def words(self, count: int) -> Array:
        """`count` numbers of 32 bits."""
        return self._draw.integers(0, 2**32, size=count, dtype=np.uint32)

    def long_words(self, count: int) -> Array:
        """`count` numbers of 64 bits, each of two draws, the first one high."""
        return self._draw.integers(0, 2**64, size=count, dtype=np.uint64)

    def skip(self, count: int) -> None:
        """Go on as if `count` numbers of 32 bits had been drawn."""
        if count < _JUMPED:
            self._bits.random_raw(count, output=False)
            return
        inner: Any = self._bits.state["state"]
        key, position = jump.jumped(inner["key"].astype(np.uint32), int(inner["pos"]), count)
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": position}}

    def _units(self, count: int, dtype: np.dtype[Any]) -> Array:
        """`count` numbers in [0, 1), float64 or float32."""
        return _as_units(self.long_words(count) if dtype == np.float64 else self.words(count))

    def _pieces(self, out: Array, turn: Turn, bulk: Bulk | None = None) -> None:
        """Fill flat `out` with ``turn(draws, piece)``, or the most of it by what `bulk` says."""
        if bulk and out.dtype != np.float64 and compiled_fills.worthwhile(out.size) and compiled_fills.usable(bulk[0]):
            out = out[self._in_bulk(out, turn, *bulk) :]
        draw = self.long_words if out.dtype == np.float64 else self.words
        workers = _workers() if out.size > 4 * _PIECE else None
        waiting: deque[Future[None]] = deque()
        for start in range(0, out.size, _PIECE):
            piece = out[start : start + _PIECE]
            draws = draw(piece.size)
            while waiting and waiting[0].done():
                waiting.popleft().result()
            if workers is None or len(waiting) > 8:
                turn(draws, piece)
            else:
                waiting.append(workers.submit(turn, draws, piece))
        for future in waiting:
            future.result()

    def _in_bulk(self, out: Array, turn: Turn, kind: str, compiled: Callable[[Any], Any], finish: Turn) -> int:
        """Fill the front of `out` by compiled code, and say how much of it; 0 where that has other bits than NumPy."""
        state: Any = self._bits.state
        key, position = state["state"]["key"].astype(np.uint32), int(state["state"]["pos"])
        # The next 624 raw words: the rest of this block, and the beginning of the one after it.
        window = np.concatenate([key[position:], compiled_fills.next_block(key, np)[:position]])
        made = compiled(jax.device_put(window, compiled_fills.device()))
        # Each time, since what the last fill had says nothing of this one: between powers of two any code has the same
        # bits, and JAX may have compiled anew, with other options. In float32 for every dtype: 16 bits hide differences.
        piece, expected = np.empty((2, 1 << 14), np.float32)
        turn(self.words(expected.size), expected)
        self._bits.state = state
        finish(np.asarray(made[0])[: piece.size], piece)
        compiled_fills.same_bits[kind] = bool(np.array_equal(piece, expected))
        if not compiled_fills.same_bits[kind]:
            return 0
        done = 0
        while True:
            values, window, last = made
            more = out.size - done >= 2 * compiled_fills.WORDS
            if more:
                made = compiled(window)  # is computed while these are copied
            finish(np.asarray(values), out[done : done + compiled_fills.WORDS])
            done += compiled_fills.WORDS
            if not more:
                break
        # Back to the generator's own blocks: the one that the position after these words lies in.
        position = (position + done) % 624
        key = np.concatenate([np.asarray(last)[624 - position :], np.asarray(window)[: 624 - position]])
        if position == 0:
            key, position = np.asarray(last), 624
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": position}}
        return done

    def uniform(self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, dtype: Any = np.float32) -> Array:
        """Uniform numbers in [low, high), as ``Tensor.uniform_``."""
        dtype = _check("uniform_", dtype)
        check_uniform(low, high, dtype)
        out = _empty(shape, dtype)
        self._pieces(out.reshape(-1), *uniform_fill(low, high))
        return out

    def normal(self, shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0, dtype: Any = np.float32) -> Array:
        """Normal numbers, as ``Tensor.normal_`` on a contiguous tensor."""
        dtype = _check("normal_", dtype)
        check_normal(std)
        out = _empty(shape, dtype)
        flat = out.reshape(-1)
        if flat.size < 16:
            flat[:] = [std * self._scalar_normal() + mean for _ in range(flat.size)]
            return out
        whole = flat.size // 16 * 16
        fill = normal_fill(mean, std)
        self._pieces(flat[:whole], *fill)
        if flat.size > whole:
            self.normal_tail(flat.size - whole, fill[0], flat[-16:])
        return out

    def normal_tail(self, extra: int, turn: Turn, out: Array) -> None:
        """The last 16 numbers of a size with `extra` ones behind the last group of 16."""
        if out.dtype not in _REDUCED:
            # Uniform numbers for every place are drawn first, also for those of the tail, which it then overwrites.
            self._units(extra, out.dtype)
        turn(self.long_words(16) if out.dtype == np.float64 else self.words(16), out)

    def _scalar_normal(self) -> float:
        """One standard normal number in float64; every second one was made with the one before it."""
        if self._next_normal is not None:
            value, self._next_normal = self._next_normal, None
            return value
        u1, u2 = self._units(2, np.dtype(np.float64)).tolist()
        radius, angle = math.sqrt(-2.0 * math.log1p(-u2)), 2.0 * math.pi * u1
        self._next_normal = radius * math.sin(angle)
        return radius * math.cos(angle)

    def trunc_normal(
        self, shape: tuple[int, ...], mean: float, std: float, a: float, b: float, dtype: Any = np.float32
    ) -> Array:
        """Normal numbers redrawn until they lie in [a, b], by the method ``nn.init.trunc_normal_`` picks."""
        dtype = _check("trunc_normal_", dtype)
        inside = _normal_cdf((b - mean) / std) - _normal_cdf((a - mean) / std)
        if inside > 0.3:
            low, high = dtype.type(a), dtype.type(b)
            result = self.normal(shape, mean, std, dtype)
            while (outside := (result < low) | (result > high)).any():
                result = np.where(outside, self.normal(shape, mean, std, dtype), result)
            return result
        return self._trunc_normal_by_rejection(shape, mean, std, a, b, dtype)

    def _trunc_normal_by_rejection(
        self, shape: tuple[int, ...], mean: float, std: float, a: float, b: float, dtype: np.dtype[Any]
    ) -> Array:
        wide = np.float64 if dtype == np.float64 else np.float32
        log_peak = -0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2

        def rejected(values: Array) -> Array:
            # One rounding to dtype after each operation, as torch's chain of in-place operations. Numbers that are
            # subtracted are rounded to dtype first, those that divide or multiply are not.
            x = values - dtype.type(mean)
            x = (x.astype(wide) / wide(std)).astype(dtype)
            x = x * x
            x = (x.astype(wide) * wide(-0.5)).astype(dtype)
            x = x - dtype.type(log_peak)
            with np.errstate(divide="ignore"):
                return np.log(self.uniform(shape, dtype=dtype).astype(wide)).astype(dtype) > x

        result = self.uniform(shape, a, b, dtype)
        pending = rejected(result)
        while pending.any():
            candidates = self.uniform(shape, a, b, dtype)
            result = np.where(pending, candidates, result)
            pending &= rejected(candidates)
        return result

    def randperm(self, n: int) -> Array:
        """A permutation of 0 to n-1, as ``torch.randperm``."""
        return self.randperms(1, n, n)[0]

    def randperms(self, count: int, n: int, length: int) -> Array:
        """The first `length` places of `count` permutations of 0 to n-1, drawn one after another."""
        order = np.tile(np.arange(n), (count, 1))
        if n < 2 or count == 0:
            return order[:, :length]
        draw = self.words if n < (2**32 - 1) // 20 else self.long_words
        offsets = draw(count * (n - 1)).reshape(count, n - 1) % np.arange(n, 1, -1, dtype=np.uint64)
        if count == 1:
            return np.asarray([_swapped(order[0].tolist(), offsets[0].tolist())[:length]])
        rows = np.arange(count)
        for i in range(min(length, n - 1)):
            j = offsets[:, i].astype(np.intp) + i
            order[:, i], order[rows, j] = order[rows, j], order[:, i].copy()
        return order[:, :length]

    def bernoulli(self, shape: tuple[int, ...], p: float = 0.5, dtype: Any = np.float32) -> Array:
        """Ones with probability `p`, else zeros, as ``Tensor.bernoulli_`` with a number (without MKL)."""
        if not 0 <= p <= 1:
            raise RuntimeError(f"bernoulli_: p: expected a number from 0 to 1, got {p}")
        return (self._units(math.prod(shape), np.dtype(np.float64)) < p).astype(dtype).reshape(shape)

    def random(self, shape: tuple[int, ...], low: int, high: int, dtype: Any = np.int64) -> Array:
        """Integers in [low, high), as ``Tensor.random_`` with both bounds."""
        if low >= high:
            raise RuntimeError(f"random_: expected low < high, got low={low} and high={high}")
        span = high - low
        draws = (self.long_words if span >= 2**28 else self.words)(math.prod(shape))
        return ((draws % draws.dtype.type(span)).astype(np.int64) + low).astype(dtype).reshape(shape)

    def get_state(self) -> Array:
        """The state as torch's ``Generator.get_state`` lays it out: 5056 bytes."""
        inner = self._bits.state["state"]
        position = int(inner["pos"])
        state = np.zeros((), _STATE)
        state["seed"], state["seeded"] = self.seed, 1
        state["left"], state["next"], state["key"] = 625 - position, position, inner["key"]
        state["normal_is_valid"], state["normal_y"] = self._next_normal is not None, self._next_normal or 0.0
        return np.frombuffer(state.tobytes(), np.uint8).copy()

    def set_state(self, state: Any) -> None:
        """Take a state from `get_state`, or from torch's."""
        data = np.asarray(state)
        if data.dtype != np.uint8 or data.shape != (_STATE_BYTES,):
            raise RuntimeError(
                f"set_state: expected {_STATE_BYTES} numbers of dtype uint8, got {data.dtype}{data.shape}"
            )
        fields = data.copy().view(_STATE)[0]
        # A state that was only seeded says left=1, next=0: the block is used up, as at position 624.
        position = 625 - int(fields["left"])
        if not (fields["seeded"] == 1 and 0 < position <= 624):
            raise RuntimeError("set_state: expected the state of a Mersenne twister, got other bytes")
        self.seed = int(fields["seed"])
        key = fields["key"].astype(np.uint32)
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": position}}
        self._next_normal = float(fields["normal_y"]) if fields["normal_is_valid"] else None

    def __getstate__(self) -> dict[str, Any]:
        return {"state": self.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._bits = np.random.MT19937()
        self._draw = np.random.Generator(self._bits)
        self.set_state(state["state"])


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array that begins at a multiple of 64 bytes, which ``jax.device_put`` on the CPU takes without a copy."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    return memory[begin : begin + size].view(dtype).reshape(shape)


def _as_units(draws: Array) -> Array:
    """Draws as numbers in [0, 1): the low 53 bits of 64, or the low 24 of 32. Uses up `draws`."""
    if draws.dtype == np.uint64:
        draws &= np.uint64(2**53 - 1)
        return draws * 2.0**-53
    draws &= np.uint32(0xFFFFFF)
    units = draws.view(np.int32).astype(np.float32)
    units *= np.float32(2.0**-24)
    return units


def _affine(draws: Array, low: float, high: float, dtype: np.dtype[Any]) -> Array:
    """`draws` as numbers spread over [low, high), each rounded once; not yet to float32. Uses up `draws`."""
    if draws.dtype == np.uint64:
        units = _as_units(draws)
        return units if low == 0.0 and high == 1.0 else _fused(units, high - low, low)
    low_scalar, high_scalar = np.float32(low), np.float32(high)
    # 24 bits times 24 bits is exact in float64, and so is the sum unless the range is far from zero; there the
    # second rounding, to float32, still almost never differs.
    draws &= np.uint32(0xFFFFFF)
    wide = np.multiply(draws.view(np.int32), np.float64(high_scalar - low_scalar) * 2.0**-24, dtype=np.float64)
    wide += np.float64(low_scalar)
    return wide if dtype == np.float32 else wide.astype(np.float32)


def uniform_fill(low: float, high: float) -> tuple[Turn, Bulk]:
    """How draws become uniform numbers in [low, high)."""

    def finish(values: Array, piece: Array) -> None:
        np.copyto(piece, values, casting="same_kind")
        _keep_below(piece, low, high)

    def turn(draws: Array, piece: Array) -> None:
        finish(_affine(draws, low, high, piece.dtype), piece)

    scalars = np.float32(low), np.float32(high)
    return turn, ("uniform", lambda window: compiled_fills.uniform(window, *scalars), finish)


def normal_fill(mean: float, std: float) -> tuple[Turn, Bulk]:
    """How draws become normal numbers, 16 at a time."""

    def turn(draws: Array, piece: Array) -> None:
        values = _as_units(draws)
        if values.dtype == np.float64:
            values = _normal_float64(values, mean, std)
        else:
            box_muller.fill(values, mean, std)
        np.copyto(piece, values, casting="same_kind")

    def finish(values: Array, piece: Array) -> None:
        box_muller.scale(values, mean, std, piece)

    return turn, ("normal", compiled_fills.normal, finish)


def _keep_below(values: Array, low: float, high: float) -> None:
    """Numbers that were rounded up to `high` become `low`."""
    if values.size and values.max() == values.dtype.type(high):
        values[values == values.dtype.type(high)] = low


def _normal_float64(units: Array, mean: float, std: float) -> Array:
    """Box-Muller over groups of 16, in float64."""
    pairs = units.reshape(-1, 2, 8)
    radius = np.sqrt(-2 * np.log(1 - pairs[:, 0]))
    angle = 2 * np.pi * pairs[:, 1]
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    return values if mean == 0.0 and std == 1.0 else _fused(values, std, mean)


def _normal_cdf(x: float) -> float:
    return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0


def _swapped(order: list[int], offsets: list[int]) -> list[int]:
    for i, offset in enumerate(offsets):
        order[i], order[i + offset] = order[i + offset], order[i]
    return order
