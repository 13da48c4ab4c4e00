"""Styles of tensor parallelism: how a layer's parameters, inputs and outputs lie along one dimension of a mesh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxnn.base.checks import as_int, fail
from jaxnn.base.dtypes import describe
from jaxnn.base.naming import own_constructor
from jaxnn.boxes.slot import Slot
from jaxnn.modules.linear import Linear
from jaxnn.modules.sparse import Embedding
from jaxnn.parallel.constraints import Inputs, Outputs
from jaxnn.parallel.device_mesh import DeviceMesh
from jaxnn.parallel.distribute import current_axes, named_boxes, place_boxes, sharding_with
from jaxnn.parallel.placement_types import Placement, Replicate, Shard

Layouts = tuple[Placement | None, ...]


def as_layouts(value: Any, where: str, argument: str) -> Layouts:
    """One placement, None, or a tuple of them, as a tuple."""
    layouts = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for item in layouts:
        if item is not None and not isinstance(item, Placement):
            fail(TypeError, where, argument, "Shard(dim), Replicate() or None", describe(item))
    return layouts


class ParallelStyle:
    """How one module is run on several devices. Follows ``torch.distributed.tensor.parallel.ParallelStyle``.

    Example:
        >>> import jaxnn as nn
        >>> isinstance(nn.parallel.ColwiseParallel(), nn.parallel.ParallelStyle)
        True
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own_constructor(cls)

    def _check(self, module: Any, mesh: DeviceMesh) -> None:
        """Raise what `_apply` would raise, and change nothing."""

    def _apply(self, module: Any, mesh: DeviceMesh) -> Any:
        raise NotImplementedError

    def _splits_features(self, module: Any) -> bool:
        """Whether the module's output is split along its last dimension, which attention's heads are made of."""
        return False


def add_hooks(module: Any, before: Any = None, after: Any = None, around: Any = None) -> None:
    """Register hooks, unless the module has equal ones already: a style that is applied twice acts once."""
    known = [hook.function for kind in ("forward_pre", "forward", "around") for hook in module._hook_list(kind)]
    if before is not None and before not in known:
        module.register_forward_pre_hook(before, with_kwargs=True)
    if after is not None and after not in known:
        module.register_forward_hook(after)
    if around is not None and around not in known:
        module._register_around_hook(around)


def check_layout(module: Any, mesh: DeviceMesh, dims: Mapping[str, int], where: str) -> list[tuple[Slot, Any]]:
    """The named parameters split along a dimension over `mesh`; everything else of the module is copied along it."""
    chosen: list[tuple[Slot, Any]] = []
    for names, box in named_boxes(module).values():
        axes = current_axes(box, mesh)
        dim = next((dims[name] for name in names if name in dims), None)
        held = {number for number, some in enumerate(axes) if set(some) & set(mesh.all_axes)}
        if dim is not None and held - {dim}:
            got = f"one that is split along dimension {min(held)} already"
            expected = f"a parameter that is whole along {' and '.join(map(repr, mesh.mesh_dim_names))}"
            fail(ValueError, where, names[0], expected, got, "Two styles, or the styles of tied layers, differ")
        if dim is not None and not held:
            axes[dim] = (*axes[dim], *mesh.all_axes)
        chosen.append((box, sharding_with(axes, mesh, box.shape, f"{where}: {box.label or names[0]}")))
    return chosen


def lay_out(module: Any, mesh: DeviceMesh, dims: Mapping[str, int], where: str) -> None:
    """Put the named parameters' parts, and copies of everything else, on the devices."""
    place_boxes(check_layout(module, mesh, dims, where), where, module)


class _Wise(ParallelStyle):
    _rows: Mapping[type, Mapping[str, int]] = {}
    _input: Mapping[type, Placement] = {}
    _defaults: tuple[Placement, Placement] = (Replicate(), Replicate())

    def __init__(
        self,
        *,
        input_layouts: Any = None,
        output_layouts: Any = None,
        use_local_output: bool = True,
        batch_dim: int = 0,
    ) -> None:
        where = type(self).__name__
        self.input_layouts = as_layouts(input_layouts or self._defaults[0], where, "input_layouts")
        self.output_layouts = as_layouts(output_layouts or self._defaults[1], where, "output_layouts")
        self.use_local_output = use_local_output
        self.batch_dim = as_int(where, "batch_dim", batch_dim)

    def _kind(self, module: Any) -> type:
        kind = next((kind for kind in self._rows if isinstance(module, kind)), None)
        if kind is None:
            raise NotImplementedError(
                f"{type(self).__name__} currently only support nn.Linear and nn.Embedding! Got {describe(module)}"
            )
        return kind

    def _check(self, module: Any, mesh: DeviceMesh) -> None:
        check_layout(module, mesh, self._rows[self._kind(module)], type(self).__name__)

    def _apply(self, module: Any, mesh: DeviceMesh) -> Any:
        kind = self._kind(module)
        lay_out(module, mesh, self._rows[kind], type(self).__name__)
        inputs = Inputs(self.input_layouts, (self._input[kind],), mesh, batch_dim=self.batch_dim)
        add_hooks(module, inputs, Outputs((), self.output_layouts, mesh, self.batch_dim))
        return module

    def __repr__(self) -> str:
        return f"{type(self).__name__}(input_layouts={self.input_layouts}, output_layouts={self.output_layouts})"


class ColwiseParallel(_Wise):
    """A Linear's outputs, or an Embedding's features, split over the devices.

    Args:
        input_layouts: how the input comes; whole by default. It is made whole.
        output_layouts: how the output is to lie; split along its last dimension by default.
        use_local_output: accepted; there is one kind of array.
        batch_dim: the dimension of the batch, which other parts of the mesh may share.

    Example:
        >>> import jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
        >>> layer = nn.parallel.parallelize_module(nn.Linear(4, 8), mesh, nn.parallel.ColwiseParallel())
        >>> tuple(layer.weight.sharding.spec)
        ('tp',)

    Follows ``torch.distributed.tensor.parallel.ColwiseParallel``.
    """

    _rows = {Linear: {"weight": 0, "bias": 0}, Embedding: {"weight": 1}}
    _input = {Linear: Replicate(), Embedding: Replicate()}
    _defaults = Replicate(), Shard(-1)

    def _splits_features(self, module: Any) -> bool:
        return isinstance(module, Linear) and self.output_layouts == (Shard(-1),)


class RowwiseParallel(_Wise):
    """A Linear's inputs, or an Embedding's rows, split over the devices, which add their results up.

    Args:
        input_layouts: how the input comes; split along its last dimension by default, whole for an Embedding.
        output_layouts: how the sum is to lie; whole by default, ``Shard(1)`` scatters it along the sequence.
        use_local_output: accepted; there is one kind of array.
        batch_dim: the dimension of the batch, which other parts of the mesh may share.

    Example:
        >>> import jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
        >>> layer = nn.parallel.parallelize_module(nn.Linear(4, 8), mesh, nn.parallel.RowwiseParallel())
        >>> tuple(layer.weight.sharding.spec)
        (None, 'tp')

    Follows ``torch.distributed.tensor.parallel.RowwiseParallel``.
    """

    _rows = {Linear: {"weight": 1}, Embedding: {"weight": 0}}
    _input = {Linear: Shard(-1), Embedding: Replicate()}
    _defaults = Shard(-1), Replicate()


class SequenceParallel(ParallelStyle):
    """LayerNorm, Dropout, RMSNorm and their like on a part of the sequence each; their parameters are whole.

    Args:
        sequence_dim: the dimension of the sequence in inputs and outputs.
        use_local_output: accepted; there is one kind of array.

    Example:
        >>> import jaxnn as nn
        >>> mesh = nn.parallel.init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
        >>> norm = nn.parallel.parallelize_module(nn.LayerNorm(4), mesh, nn.parallel.SequenceParallel())

    Follows ``torch.distributed.tensor.parallel.SequenceParallel``.
    """

    def __init__(self, *, sequence_dim: int = 1, use_local_output: bool = False) -> None:
        self.sequence_sharding = (Shard(sequence_dim),)
        self.use_local_output = use_local_output

    def _apply(self, module: Any, mesh: DeviceMesh) -> Any:
        lay_out(module, mesh, {}, type(self).__name__)
        add_hooks(module, Inputs((), self.sequence_sharding, mesh), Outputs((), self.sequence_sharding, mesh))
        return module


def _pairs(layouts: Any, where: str, argument: str) -> tuple[tuple[str, Placement | None], ...]:
    if layouts is not None and not isinstance(layouts, Mapping):
        fail(TypeError, where, argument, "a dict from names to layouts", describe(layouts))
    return tuple((name, as_layouts(layout, where, argument)[0]) for name, layout in (layouts or {}).items())


class PrepareModuleInputOutput(ParallelStyle):
    """Layouts of a module's inputs and outputs, before and after; its parameters are left alone.

    Args:
        input_layouts, desired_input_layouts: for each positional argument how it comes and how the module is to get it;
            None leaves it alone.
        input_kwarg_layouts, desired_input_kwarg_layouts: the same by names.
        output_layouts, desired_output_layouts: the same of the outputs.
        use_local_input, use_local_output: accepted; there is one kind of array.

    Raises:
        AssertionError: as many layouts as desired ones are needed.

    Example:
        >>> from jaxnn.parallel import PrepareModuleInputOutput, Replicate, Shard
        >>> style = PrepareModuleInputOutput(
        ...     input_layouts=Shard(1), desired_input_layouts=Replicate(),
        ...     output_layouts=Replicate(), desired_output_layouts=Shard(1),
        ... )

    Follows ``torch.distributed.tensor.parallel.PrepareModuleInputOutput``.
    """

    def __init__(
        self,
        *,
        input_layouts: Any = None,
        desired_input_layouts: Any = None,
        input_kwarg_layouts: Mapping[str, Placement] | None = None,
        desired_input_kwarg_layouts: Mapping[str, Placement] | None = None,
        use_local_input: bool = False,
        output_layouts: Any = None,
        desired_output_layouts: Any = None,
        use_local_output: bool = True,
    ) -> None:
        where = type(self).__name__
        self.input_layouts = as_layouts(input_layouts, where, "input_layouts")
        self.desired_input_layouts = as_layouts(desired_input_layouts, where, "desired_input_layouts")
        self.output_layouts = as_layouts(output_layouts, where, "output_layouts")
        self.desired_output_layouts = as_layouts(desired_output_layouts, where, "desired_output_layouts")
        self.input_kwarg_layouts = _pairs(input_kwarg_layouts, where, "input_kwarg_layouts")
        self.desired_input_kwarg_layouts = _pairs(desired_input_kwarg_layouts, where, "desired_input_kwarg_layouts")
        if len(self.input_layouts) != len(self.desired_input_layouts):
            raise AssertionError("input_layouts and desired_input_layouts should have same length!")
        if len(self.output_layouts) != len(self.desired_output_layouts):
            raise AssertionError("output_layouts and desired_output_layouts should have same length!")

    def _apply(self, module: Any, mesh: DeviceMesh) -> Any:
        inputs = Inputs(
            self.input_layouts, self.desired_input_layouts, mesh, self.input_kwarg_layouts, self.desired_input_kwarg_layouts
        )  # fmt: skip
        outputs = Outputs(self.output_layouts, self.desired_output_layouts, mesh)
        takes = any((*self.desired_input_layouts, *self.desired_input_kwarg_layouts))
        add_hooks(module, inputs if takes else None, outputs if any(self.desired_output_layouts) else None)
        return module


class PrepareModuleInput(PrepareModuleInputOutput):
    """Layouts of a module's inputs: how they come, and how the module is to get them. Arguments as `PrepareModuleInputOutput`.

    Example:
        >>> from jaxnn.parallel import PrepareModuleInput, Replicate, Shard
        >>> style = PrepareModuleInput(input_layouts=(Shard(1), None), desired_input_layouts=(Replicate(), None))

    Follows ``torch.distributed.tensor.parallel.PrepareModuleInput``.
    """

    def __init__(
        self,
        *,
        input_layouts: Any = None,
        desired_input_layouts: Any = None,
        input_kwarg_layouts: Mapping[str, Placement] | None = None,
        desired_input_kwarg_layouts: Mapping[str, Placement] | None = None,
        use_local_output: bool = False,
    ) -> None:
        super().__init__(
            input_layouts=input_layouts, desired_input_layouts=desired_input_layouts,
            input_kwarg_layouts=input_kwarg_layouts, desired_input_kwarg_layouts=desired_input_kwarg_layouts,
        )  # fmt: skip


class PrepareModuleOutput(PrepareModuleInputOutput):
    """Layouts of a module's outputs: how they come, and how they are to lie. Arguments as `PrepareModuleInputOutput`.

    Example:
        >>> from jaxnn.parallel import PrepareModuleOutput, Replicate, Shard
        >>> style = PrepareModuleOutput(output_layouts=Shard(-1), desired_output_layouts=Replicate())

    Follows ``torch.distributed.tensor.parallel.PrepareModuleOutput``.
    """

    def __init__(self, *, output_layouts: Any, desired_output_layouts: Any, use_local_output: bool = True) -> None:
        super().__init__(output_layouts=output_layouts, desired_output_layouts=desired_output_layouts)
