"""The short-time Fourier transform and its inverse."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnn.base.checks import check_choice, concrete, fail
from jaxnn.base.op import op

_MODES = {"reflect": "reflect", "constant": "constant", "replicate": "edge", "circular": "wrap"}


def _window(function: str, window: Any, n_fft: int, win_length: int, dtype: Any) -> jax.Array:
    """The window, in the middle of `n_fft` places."""
    if not 0 < win_length <= n_fft:
        fail(RuntimeError, function, "win_length", f"a length from 1 to n_fft={n_fft}", f"{win_length}")
    if window is None:
        window = jnp.ones(win_length, dtype)
    if window.shape != (win_length,):
        fail(RuntimeError, function, "window", f"shape ({win_length},), as win_length says", window)
    left = (n_fft - win_length) // 2
    return jnp.pad(window, (left, n_fft - win_length - left))


def _check_stft(
    x: Any, n_fft: int, hop_length: Any = None, win_length: Any = None, window: Any = None, center: bool = True,
    pad_mode: str = "reflect", normalized: bool = False, onesided: Any = None, return_complex: Any = None,
    align_to_window: Any = None,
) -> None:  # fmt: skip
    if x.ndim not in (1, 2):
        fail(RuntimeError, "stft", "x", "a 1D or 2D array", x)
    if return_complex is None and not jnp.iscomplexobj(x) and not (window is not None and jnp.iscomplexobj(window)):
        fail(RuntimeError, "stft", "return_complex", "True or False", "None", "Write return_complex=True")
    if hop_length is not None and hop_length <= 0:
        fail(RuntimeError, "stft", "hop_length", "a positive int", f"{hop_length}")
    check_choice("stft", "pad_mode", pad_mode, _MODES, NotImplementedError)
    if align_to_window is not None and center:
        fail(RuntimeError, "stft", "align_to_window", "None where center=True", f"{align_to_window}")


@op(check=_check_stft)
def stft(
    x: jax.Array,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> jax.Array:
    """The Fourier transforms of the windows of a signal.

    Args:
        x: shape (length,) or (batch, length), real or complex.
        n_fft: size of each transform.
        hop_length: from one window to the next; n_fft // 4 by default.
        win_length: length of the window; `n_fft` by default.
        window: shape (win_length,); ones by default.
        center: pad the signal by n_fft // 2 on both sides, so that window t has its middle at t * hop_length.
        pad_mode: "reflect", "constant", "replicate" or "circular".
        normalized: divide by the root of `n_fft`.
        onesided: only the frequencies from 0 up; the default for real signals.
        return_complex: True for complex numbers, False for pairs of real and imaginary parts as a last dimension.
        align_to_window: without `center`: cut the frames by the window's length instead of `n_fft`.

    Returns:
        Shape (batch, n_fft // 2 + 1 or n_fft, windows).

    Raises:
        RuntimeError: shapes or lengths that do not fit; `return_complex` not given for a real signal.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> T.stft(jnp.ones((2, 64)), 16, window=jnp.hanning(17)[:-1], return_complex=True).shape
        (2, 9, 17)

    Follows ``torch.stft``.
    """
    hop = n_fft // 4 if hop_length is None else hop_length
    length = n_fft if win_length is None else win_length
    real = x.real.dtype if jnp.iscomplexobj(x) else x.dtype
    shape = _window("stft", window, n_fft, length, real)
    is_complex = jnp.iscomplexobj(x) or jnp.iscomplexobj(shape)
    onesided = not is_complex if onesided is None else onesided
    if onesided and is_complex:
        fail(RuntimeError, "stft", "onesided", "False for complex numbers", "True")
    signal = x if x.ndim == 2 else x[None]
    if center:
        if pad_mode == "reflect" and n_fft // 2 >= signal.shape[-1]:
            fail(RuntimeError, "stft", "x", f"more than n_fft // 2 = {n_fft // 2} samples to reflect", x)
        signal = jnp.pad(signal, ((0, 0), (n_fft // 2, n_fft // 2)), mode=_MODES[pad_mode])
    if signal.shape[-1] < n_fft:
        fail(RuntimeError, "stft", "n_fft", f"at most the signal's length, {signal.shape[-1]}", f"{n_fft}")
    frame = length if align_to_window else n_fft
    starts = np.arange(0, signal.shape[-1] - frame + 1, hop)
    if align_to_window:
        left = (n_fft - length) // 2
        signal = jnp.pad(signal, ((0, 0), (left, n_fft)))
    frames = signal[:, starts[:, None] + np.arange(n_fft)] * shape
    result = (jnp.fft.rfft if onesided else jnp.fft.fft)(frames, norm="ortho" if normalized else None)
    result = jnp.swapaxes(result, 1, 2)
    result = result if x.ndim == 2 else result[0]
    return result if return_complex or return_complex is None else jnp.stack([result.real, result.imag], -1)


@op
def istft(
    x: jax.Array,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> jax.Array:
    """The signal of which ``stft`` gives `x`: the windows' inverse transforms, added up and divided by the windows' squares.

    Args:
        x: shape (batch, frequencies, windows) or (frequencies, windows), complex.
        n_fft, hop_length, win_length, window, center, normalized, onesided: as ``stft``.
        length: of the signal; by default what the windows cover.
        return_complex: a complex signal.

    Raises:
        RuntimeError: shapes that do not fit, or windows between which the signal is not determined.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxnn import tensor as T
        >>> window, signal = jnp.hanning(17)[:-1], jnp.sin(jnp.arange(64.0))
        >>> spectrum = T.stft(signal, 16, window=window, return_complex=True)
        >>> bool(jnp.allclose(T.istft(spectrum, 16, window=window), signal, atol=1e-5))
        True

    Follows ``torch.istft``.
    """
    if x.ndim not in (2, 3) or not jnp.iscomplexobj(x):
        fail(RuntimeError, "istft", "x", "a complex array of 2 or 3 dimensions", x)
    spectrum = x if x.ndim == 3 else x[None]
    onesided = spectrum.shape[1] != n_fft if onesided is None else onesided
    if spectrum.shape[1] != (n_fft // 2 + 1 if onesided else n_fft):
        fail(RuntimeError, "istft", "x", f"the frequencies of n_fft={n_fft}, onesided={onesided}", x)
    if onesided and return_complex:
        fail(RuntimeError, "istft", "onesided", "False for a complex signal", "True")
    hop = n_fft // 4 if hop_length is None else hop_length
    win_length = n_fft if win_length is None else win_length
    if not 0 < hop <= win_length:
        fail(RuntimeError, "istft", "hop_length", f"a hop from 1 to win_length={win_length}", f"{hop}")
    shape = _window("istft", window, n_fft, win_length, x.real.dtype)
    norm = "ortho" if normalized else None
    spectrum = jnp.swapaxes(spectrum, 1, 2)
    # torch: a real signal is made of the frequencies from 0 up alone, also where all are given.
    half = spectrum[..., : n_fft // 2 + 1]
    frames = (jnp.fft.ifft(spectrum, norm=norm) if return_complex else jnp.fft.irfft(half, n_fft, norm=norm)) * shape
    count = frames.shape[1]
    places = np.arange(count)[:, None] * hop + np.arange(n_fft)
    total = n_fft + hop * (count - 1)
    signal = jnp.zeros((frames.shape[0], total), frames.dtype).at[:, places].add(frames)
    envelope = jnp.zeros(total, shape.dtype).at[places].add(jnp.broadcast_to(shape * shape, places.shape))
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else total - start if center else total
    signal, envelope = signal[:, start:end], envelope[start:end]
    known = concrete(envelope)
    if known is not None and known.size and np.abs(known).min() <= 1e-11:
        fail(RuntimeError, "istft", "window", "windows that cover the signal", "a place where all windows are 0")
    signal = signal / envelope
    if length is not None and signal.shape[-1] < length:
        signal = jnp.pad(signal, ((0, 0), (0, length - signal.shape[-1])))
    return signal if x.ndim == 3 else signal[0]
