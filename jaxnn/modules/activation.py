"""The activation layers: each keeps its options and calls the function of the same name.

The softmax layers are in ``jaxnn/modules/softmax.py``, ``MultiheadAttention`` in ``jaxnn/modules/attention.py``.
"""

from __future__ import annotations

import jax

import jaxnn.functional as F
from jaxnn import init as initializers
from jaxnn.base.checks import as_int, fail, warn_caller
from jaxnn.base.types import Device, DType
from jaxnn.boxes.parameter import Parameter, empty
from jaxnn.core.module import Module
from jaxnn.modules.attention import MultiheadAttention as MultiheadAttention
from jaxnn.modules.softmax import LogSoftmax as LogSoftmax
from jaxnn.modules.softmax import Softmax as Softmax
from jaxnn.modules.softmax import Softmax2d as Softmax2d
from jaxnn.modules.softmax import Softmin as Softmin


def _inplace_text(inplace: bool, separator: str = "") -> str:
    return f"{separator}inplace=True" if inplace else ""


class Threshold(Module):
    """``x`` where it is above `threshold`, else `value`.

    Args:
        threshold: what an element must exceed.
        value: what replaces it otherwise.
        inplace: accepted and ignored, as in all layers of this file.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Threshold(0.1, 20)(jnp.array([0.0, 0.5])))
        [20.   0.5]

    Follows ``torch.nn.Threshold``; the maths is ``functional.threshold``.
    """

    __constants__ = ["threshold", "value", "inplace"]

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.value = value
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, value={self.value}{_inplace_text(self.inplace, ', ')}"


class _Inplace(Module):
    """A layer whose only option is `inplace`, accepted and without effect."""

    __constants__ = ["inplace"]

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return _inplace_text(self.inplace)


class ReLU(_Inplace):
    """``max(x, 0)``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ReLU()(jnp.array([-1.0, 2.0])))
        [0. 2.]

    Follows ``torch.nn.ReLU``; the maths is ``functional.relu``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.relu(input, inplace=self.inplace)


class RReLU(Module):
    """In training a random slope from [lower, upper] below zero; the middle slope otherwise.

    Args:
        lower: the smallest slope; 1/8 by default.
        upper: the largest slope; 1/3 by default.
        inplace: accepted and ignored.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.RReLU(0.25, 0.75).eval()(jnp.array([-1.0, 2.0])))
        [-0.5  2. ]

    Follows ``torch.nn.RReLU``; the maths is ``functional.rrelu``.
    """

    __constants__ = ["lower", "upper", "inplace"]

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower = lower
        self.upper = upper
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}{_inplace_text(self.inplace, ', ')}"


class Hardtanh(Module):
    """``min(max(x, min_val), max_val)``.

    Args:
        min_val: -1 by default.
        max_val: 1 by default.
        inplace: accepted and ignored.
        min_value: deprecated name of `min_val`.
        max_value: deprecated name of `max_val`.

    Shape:
        (*) to the same.

    Raises:
        AssertionError: unless ``min_val < max_val``.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Hardtanh(-2, 2)(jnp.array([-3.0, 1.0])))
        [-2.  1.]

    Follows ``torch.nn.Hardtanh``; the maths is ``functional.hardtanh``.
    """

    __constants__ = ["min_val", "max_val", "inplace"]

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None:
        super().__init__()
        if min_value is not None:
            warn_caller("Hardtanh: min_value is deprecated: write min_val", FutureWarning)
            min_val = min_value
        if max_value is not None:
            warn_caller("Hardtanh: max_value is deprecated: write max_val", FutureWarning)
            max_val = max_value
        self.min_val = min_val
        self.max_val = max_val
        self.inplace = inplace
        if self.max_val <= self.min_val:
            fail(AssertionError, type(self).__name__, "max_val", f"a number above min_val={min_val}", str(max_val))

    def forward(self, input: jax.Array) -> jax.Array:
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}{_inplace_text(self.inplace, ', ')}"


class ReLU6(Hardtanh):
    """``min(max(x, 0), 6)``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ReLU6()(jnp.array([-1.0, 9.0])))
        [0. 6.]

    Follows ``torch.nn.ReLU6``.
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        return _inplace_text(self.inplace)


class Sigmoid(Module):
    """``1 / (1 + exp(-x))``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Sigmoid()(jnp.array([0.0, 1.0])).round(3))
        [0.5   0.731]

    Follows ``torch.nn.Sigmoid``; the maths is ``functional.sigmoid``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.sigmoid(input)


class Hardsigmoid(_Inplace):
    """``relu6(x + 3) / 6``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> f"{nn.Hardsigmoid()(jnp.array(1.5)):.3f}"
        '0.750'

    Follows ``torch.nn.Hardsigmoid``; the maths is ``functional.hardsigmoid``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.hardsigmoid(input, self.inplace)

    def extra_repr(self) -> str:
        return ""


class Tanh(Module):
    """The hyperbolic tangent.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Tanh()(jnp.array([0.0, 1.0])).round(3))
        [0.    0.762]

    Follows ``torch.nn.Tanh``; the maths is ``functional.tanh``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.tanh(input)


class SiLU(_Inplace):
    """``x * sigmoid(x)``, also called swish.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.SiLU()(jnp.array([0.0, 1.0])).round(3))
        [0.    0.731]

    Follows ``torch.nn.SiLU``; the maths is ``functional.silu``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.silu(input, inplace=self.inplace)


class Mish(_Inplace):
    """``x * tanh(softplus(x))``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> f"{nn.Mish()(jnp.array(1.0)):.3f}"
        '0.865'

    Follows ``torch.nn.Mish``; the maths is ``functional.mish``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.mish(input, inplace=self.inplace)


class Hardswish(_Inplace):
    """``x * relu6(x + 3) / 6``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> f"{nn.Hardswish()(jnp.array(1.0)):.3f}"
        '0.667'

    Follows ``torch.nn.Hardswish``; the maths is ``functional.hardswish``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.hardswish(input, self.inplace)

    def extra_repr(self) -> str:
        return ""


class _Alpha(Module):
    """A layer with `alpha`, minus its limit at -infinity, and `inplace`, which has no effect."""

    __constants__ = ["alpha", "inplace"]

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}{_inplace_text(self.inplace, ', ')}"


class ELU(_Alpha):
    """``x`` for x > 0, else ``alpha * (exp(x) - 1)``.

    Args:
        alpha: 1 by default.
        inplace: accepted and ignored.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.ELU()(jnp.array([-1.0, 2.0])).round(3))
        [-0.632  2.   ]

    Follows ``torch.nn.ELU``; the maths is ``functional.elu``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.elu(input, self.alpha, self.inplace)


class CELU(_Alpha):
    """``x`` for x > 0, else ``alpha * (exp(x / alpha) - 1)``.

    Args:
        alpha: 1 by default.
        inplace: accepted and ignored.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.CELU()(jnp.array([-1.0, 2.0])).round(3))
        [-0.632  2.   ]

    Follows ``torch.nn.CELU``; the maths is ``functional.celu``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.celu(input, self.alpha, self.inplace)


class SELU(_Inplace):
    """``1.0507 * elu(x, alpha=1.6733)``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> f"{nn.SELU()(jnp.array(-1.0)):.3f}"
        '-1.111'

    Follows ``torch.nn.SELU``; the maths is ``functional.selu``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.selu(input, self.inplace)


class GLU(Module):
    """``a * sigmoid(b)``, a and b being the halves of the input along `dim`.

    Args:
        dim: the dimension to halve; the last by default.

    Shape:
        (*, 2 * M, *) to (*, M, *), halved along `dim`.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.GLU()(jnp.array([3.0, 4.0, 0.0, 0.0])))
        [1.5 2. ]

    Follows ``torch.nn.GLU``; the maths is ``functional.glu``.
    """

    __constants__ = ["dim"]

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: jax.Array) -> jax.Array:
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class GELU(Module):
    """``x * Phi(x)``, Phi being the normal distribution's cumulative function.

    Args:
        approximate: "none" (default) or "tanh".

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.GELU()(jnp.array([0.0, 1.0])))
        [0.        0.8413447]

    Follows ``torch.nn.GELU``; the maths is ``functional.gelu``.
    """

    __constants__ = ["approximate"]

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: jax.Array) -> jax.Array:
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class _Shrink(Module):
    """A layer with `lambd`, half the width of its zero piece."""

    __constants__ = ["lambd"]

    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def extra_repr(self) -> str:
        return str(self.lambd)


class Hardshrink(_Shrink):
    """0 where ``|x| <= lambd``, else ``x``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Hardshrink()(jnp.array([-0.4, 0.6])).round(1))
        [0.  0.6]

    Follows ``torch.nn.Hardshrink``; the maths is ``functional.hardshrink``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.hardshrink(input, self.lambd)


class LeakyReLU(Module):
    """``x`` for x > 0, else ``negative_slope * x``.

    Args:
        negative_slope: 0.01 by default.
        inplace: accepted and ignored.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.LeakyReLU(0.5)(jnp.array([-1.0, 2.0])))
        [-0.5  2. ]

    Follows ``torch.nn.LeakyReLU``; the maths is ``functional.leaky_relu``.
    """

    __constants__ = ["inplace", "negative_slope"]

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}{_inplace_text(self.inplace, ', ')}"


class LogSigmoid(Module):
    """``log(sigmoid(x))``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> f"{nn.LogSigmoid()(jnp.array(0.0)):.3f}"
        '-0.693'

    Follows ``torch.nn.LogSigmoid``; the maths is ``functional.logsigmoid``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.logsigmoid(input)


class Softplus(Module):
    """``log(1 + exp(beta * x)) / beta``; just ``x`` where ``beta * x > threshold``.

    Args:
        beta: sharpness; 1 by default.
        threshold: where the linear part begins; 20 by default.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Softplus()(jnp.array([0.0, 30.0])))
        [ 0.6931472 30.       ]

    Follows ``torch.nn.Softplus``; the maths is ``functional.softplus``.
    """

    __constants__ = ["beta", "threshold"]

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Softshrink(_Shrink):
    """``x`` moved towards 0 by `lambd`, not past it.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> f"{nn.Softshrink()(jnp.array(0.75)):.3f}"
        '0.250'

    Follows ``torch.nn.Softshrink``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softshrink(input, self.lambd)


class PReLU(Module):
    """``x`` for x > 0, else ``weight * x`` with a learned slope.

    Args:
        num_parameters: 1 (default), or one slope for each channel (dimension 1).
        init: the slopes at first; 0.25 by default.
        device: a jax device or a sharding for the parameters; None for JAX's default.
        dtype: theirs; float32 by default.

    Shape:
        (*) to the same. With several slopes (N, num_parameters, *) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.PReLU()(jnp.array([-1.0, 2.0])))
        [-0.25  2.  ]

    Follows ``torch.nn.PReLU``; the maths is ``functional.prelu``.
    """

    __constants__ = ["num_parameters"]

    weight: jax.Array

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Device | None = None, dtype: DType | None = None
    ) -> None:
        super().__init__()
        self.num_parameters = num_parameters = as_int("PReLU", "num_parameters", num_parameters)
        self.init = init
        self.weight = Parameter(empty(num_parameters, dtype=dtype, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every slope to `init`."""
        initializers.constant_(self.weight, self.init)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Softsign(Module):
    """``x / (1 + |x|)``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> f"{nn.Softsign()(jnp.array(3.0)):.3f}"
        '0.750'

    Follows ``torch.nn.Softsign``; the maths is ``functional.softsign``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softsign(input)


class Tanhshrink(Module):
    """``x - tanh(x)``.

    Shape:
        (*) to the same.

    Example:
        >>> import jax.numpy as jnp, jaxnn as nn
        >>> print(nn.Tanhshrink()(jnp.array([0.0, 1.0])).round(3))
        [0.    0.238]

    Follows ``torch.nn.Tanhshrink``; the maths is ``functional.tanhshrink``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.tanhshrink(input)
