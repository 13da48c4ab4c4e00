"""`HeadwiseParallel`: the heads of nn.MultiheadAttention over the devices; and plans for nn's transformer layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxnn import _compat
from jaxnn.base.checks import fail
from jaxnn.base.dtypes import describe
from jaxnn.base.splits import splitting
from jaxnn.core.module import Module
from jaxnn.modules.attention import MultiheadAttention
from jaxnn.modules.transformer_layer import TransformerDecoderLayer, TransformerEncoderLayer
from jaxnn.parallel.constraints import Inputs, Outputs, constrain
from jaxnn.parallel.device_mesh import DeviceMesh
from jaxnn.parallel.gathering import other_values
from jaxnn.parallel.placement_types import Replicate, Shard
from jaxnn.parallel.style import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    add_hooks,
    as_layouts,
    check_layout,
    lay_out,
)

# in_proj_weight (3E, E) is three matrices in one: a part of its rows is no part of the heads. It is stored split along its
# inputs, and becomes (3, E, E) split along the heads where it is used, which moves each device's share once.
_DIMS = {
    "in_proj_weight": 1, "q_proj_weight": 0, "k_proj_weight": 0, "v_proj_weight": 0, "out_proj.weight": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Heads:
    """Around a MultiheadAttention's forward: its fused projection as three matrices, each split along the heads."""

    mesh: DeviceMesh

    def __call__(self, call: Any, module: Any, args: Any, kwargs: Any) -> Any:
        names = ("in_proj_weight", "in_proj_bias") if _compat.under_jit() else ()
        boxes = {name: box for name in names if (box := module._parameters.get(name)) is not None}
        with other_values(boxes, self._laid_out), splitting(self.mesh.jax_mesh, heads=self.mesh.all_axes):
            return call(module, args, kwargs)

    def _laid_out(self, _: str, value: Any) -> Any:
        """(3E, ...) as (3, E, ...), split along the heads."""
        if value.ndim > 1:
            value = constrain(value, Shard(1), self.mesh)  # as it is stored: and so is the gradient
        return constrain(value.reshape(3, -1, *value.shape[1:]), Shard(1), self.mesh)


class HeadwiseParallel(ParallelStyle):
    """The heads of a MultiheadAttention split over the devices, which add up what they give to the output.

    Its keys and their values stay torch's, the fused ``in_proj_weight`` too.

    Args:
        input_layouts: how query, key and value come; whole by default. They are made whole.
        output_layouts: how the output is to lie; whole by default.

    Raises:
        NotImplementedError: another kind of module.
        ValueError: the heads do not divide by the devices.

    Example:
        >>> import jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
        >>> attention = nn.MultiheadAttention(8, 2, batch_first=True)
        >>> attention = nn.parallel.parallelize_module(attention, mesh, nn.parallel.HeadwiseParallel())
        >>> tuple(attention.out_proj.weight.sharding.spec)
        (None, 'tp')

    torch has no style for this module.
    """

    def __init__(self, *, input_layouts: Any = None, output_layouts: Any = None) -> None:
        where = "HeadwiseParallel"
        self.input_layouts = as_layouts(input_layouts or Replicate(), where, "input_layouts")
        self.output_layouts = as_layouts(output_layouts or Replicate(), where, "output_layouts")

    def _check(self, module: Any, mesh: DeviceMesh) -> None:
        where = "HeadwiseParallel"
        if not isinstance(module, MultiheadAttention):
            fail(NotImplementedError, where, "module", "an nn.MultiheadAttention", describe(module))
        if module.num_heads % mesh.size():
            over = " and ".join(map(repr, mesh.mesh_dim_names))
            expected = f"num_heads that divide by the {mesh.size()} devices along {over}"
            fail(ValueError, where, "module", expected, f"{module.num_heads}")
        check_layout(module, mesh, _DIMS, where)

    def _apply(self, module: Any, mesh: DeviceMesh) -> Any:
        self._check(module, mesh)
        lay_out(module, mesh, _DIMS, "HeadwiseParallel")
        batch_dim = 0 if module.batch_first else 1
        whole = (Replicate(),) * 3
        given = self.input_layouts * 3 if len(self.input_layouts) == 1 else self.input_layouts
        names = ("query", "key", "value")
        inputs = Inputs(given, whole, mesh, tuple(zip(names, given)), tuple(zip(names, whole)), batch_dim)
        add_hooks(module, inputs, Outputs((), self.output_layouts, mesh, batch_dim), Heads(mesh))
        return module

    def __repr__(self) -> str:
        return f"HeadwiseParallel(input_layouts={self.input_layouts}, output_layouts={self.output_layouts})"


def transformer_plan(module: Module) -> dict[str, ParallelStyle]:
    """A plan for `parallelize_module`: of each transformer layer and MultiheadAttention below a module.

    Attention is split by heads, the feed-forward part by its inner features; norms, and all that is no transformer layer,
    stay as they are. Each attention and each feed-forward part adds up once a pass over the devices.

    Args:
        module: a `Transformer`, `TransformerEncoder`, `TransformerDecoder`, one of their layers, or a model of them.

    Returns:
        A dict from submodules' names to styles, to use as it is or with more entries.

    Raises:
        ValueError: nothing below `module` that this is a plan for.

    Example:
        >>> import jaxnn as nn
        >>> for name, style in nn.parallel.transformer_plan(nn.TransformerEncoderLayer(8, 2, 16)).items():
        ...     print(name, type(style).__name__)
        linear1 ColwiseParallel
        linear2 RowwiseParallel
        self_attn HeadwiseParallel
    """
    if not isinstance(module, Module):
        fail(TypeError, "transformer_plan", "module", "a module", describe(module))
    plan: dict[str, ParallelStyle] = {}
    for name, child in module.named_modules():
        prefix = name + "." if name else ""
        if isinstance(child, MultiheadAttention):
            plan[name] = HeadwiseParallel()
        elif isinstance(child, (TransformerEncoderLayer, TransformerDecoderLayer)):
            batch_dim = 0 if child.self_attn.batch_first else 1
            plan |= {
                f"{prefix}linear1": ColwiseParallel(batch_dim=batch_dim),
                f"{prefix}linear2": RowwiseParallel(batch_dim=batch_dim),
            }
    if not plan:
        expected = "a module with transformer layers or MultiheadAttention below"
        fail(ValueError, "transformer_plan", "module", expected, describe(module))
    return plan
