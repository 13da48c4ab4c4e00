"""What a signature says of arguments that users write in several ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import jax

DType: TypeAlias = jax.typing.DTypeLike  # jnp.bfloat16, np.dtype("float32"), "float16"

# A device, a sharding, a name: "cpu", "tpu:1", "meta".
if TYPE_CHECKING:  # JAX says nothing of its devices' type: for a checker they are Any, which fits
    Device: TypeAlias = jax.sharding.Sharding | str
else:
    Device = jax.Device | jax.sharding.Sharding | str
