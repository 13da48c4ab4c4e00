"""`plain`: a function in JAX's own operations alone, for tools that know no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from jaxnn import _compat
from jaxnn.base.checks import fail
from jaxnn.lowering.define import PLATFORMS, program_on
from jaxnn.lowering.evaluating import Evaluation
from jaxnn.transforms.signature import wraps

P = ParamSpec("P")
R = TypeVar("R")


def plain(fun: Callable[P, R], platform: str = "") -> Callable[P, R]:
    """`fun` in JAX's own operations: converters to ONNX and others that read jaxprs know no more.

    Convolutions, pooling and attention are primitives of jaxnn, with a program for each platform. Here they are JAX's
    convolutions, windows and products. Rules for derivatives are taken out too: a gradient is to be taken inside `fun`.

    Args:
        fun: a function of arrays; a module that it closes over is a constant.
        platform: whose programs to take: "cpu", "cuda", "rocm" or "tpu"; "" for those of XLA's own operations.

    Raises:
        ValueError: another platform.
        RuntimeError: the result is differentiated; of the formulas alone, derivatives can be NaN or wrong.
        NotImplementedError: a primitive of jaxnn inside an operation that cannot be opened, such as ``shard_map``.

    Example:
        >>> import jax, jax.numpy as jnp, jaxnn as nn
        >>> model = nn.Conv1d(1, 2, 3).eval()
        >>> jaxpr = jax.make_jaxpr(nn.export.plain(lambda x: model(x)))(jnp.ones((1, 1, 8)))
        >>> "jaxnn" in str(jaxpr), "conv_general_dilated" in str(jaxpr)
        (False, True)
    """
    if not callable(fun):
        fail(TypeError, "nn.export.plain", "fun", "a function of arrays", fun)
    if platform not in ("", *PLATFORMS):
        fail(ValueError, "nn.export.plain", "platform", f"one of {', '.join(PLATFORMS)}", repr(platform))

    def reaches(equation: Any) -> bool:
        return program_on(platform, equation) is not None

    evaluation = Evaluation(platform, {}, reaches, "nn.export.plain", derivatives=False)

    @wraps(fun)
    def made(*args: Any, **kwargs: Any) -> Any:
        if _compat.transform_around()[0] == "grad":
            raise RuntimeError(
                "nn.export.plain: its result has no derivatives, since the rules for them are taken out. Take the gradient "
                "inside: nn.export.plain(jax.grad(fun))"
            )
        call: Callable[..., Any] = fun
        return evaluation(lambda args, kwargs: call(*args, **kwargs))(args, kwargs)

    return made
