"""Shape, order and pieces: what moves numbers and computes none."""

from jaxnn.port.rules.row import Row

_DYNAMIC = "raises where the sizes do not divide"
_LISTS = "a list: torch gives a tuple"
_EAGER = "Python needs the numbers: fails in a compiled function"
_VIEW = "array@view"

# fmt: off
ROWS = (
    # Sizes.
    Row("size", "x, dim", "{x}.shape[{dim}]", "x.size(1)", form="method", result="int"),
    Row("size", "x", "{x}.shape", "x.size()", form="method", result="shape"),
    Row("dim", "x", "{x}.ndim", "x.dim()", form="method", result="int", also="ndimension"),
    Row("numel", "x", "{x}.size", "x.numel()", result="int", also="nelement"),
    # The same numbers in another shape.
    Row("view", "x, *shape", "{x}.reshape({shape})", "x.view(2, -1)", when="shape:ints", form="method", result=_VIEW),
    Row("view", "x, *shape", "T.view({x}, {shape})", "x.view(torch.int32)", form="method", result=_VIEW, status="helper"),
    Row("view_as", "x, other", "{x}.reshape({other}.shape)", "x.view_as(y)", form="method", result=_VIEW, also="reshape_as"),
    Row("reshape", "x, *shape", "{x}.reshape({shape})", "x.reshape(-1, 4)", form="method", result=_VIEW),
    Row("reshape", "x, shape", "{x}.reshape({shape})", "torch.reshape(x, (-1, 4))", form="function", result=_VIEW),
    Row(
        "flatten", "x, start_dim=0, end_dim=-1", "{x}.reshape(-1)", "x.flatten()",
        when="!start_dim, !end_dim", result="array=1@view", knows="array",
    ),
    Row(
        "flatten", "x, start_dim=0, end_dim=-1", "jax.lax.collapse({x}, {start_dim}, {end_dim:stop?})", "x.flatten(1)",
        when="end_dim:literal", result=_VIEW, knows="array",
    ),
    Row(
        "flatten", "x, start_dim=0, end_dim=-1", "nn.Flatten({start_dim}, {end_dim})({x})", "torch.flatten(x, 0, n)",
        result=_VIEW, knows="array",
    ),
    Row("unflatten", "x, dim, sizes", "T.unflatten({x}, {dim}, {sizes})", "x.unflatten(1, (3, -1))", result=_VIEW, status="helper"),
    Row("squeeze", "x", "jnp.squeeze({x})", "x[:, :1].squeeze()", result=_VIEW),
    Row("squeeze", "x, dim=None", "T.squeeze({x}, {dim:axes?})", "x[:, :1].squeeze(1)", result=_VIEW, status="helper"),
    Row("unsqueeze", "x, dim", "jnp.expand_dims({x}, {dim})", "x.unsqueeze(1)", result="array+1@view"),
    # Another order.
    Row(
        "transpose", "x, dim0, dim1", "jnp.swapaxes({x}, {dim0}, {dim1})", "x.transpose(1, 2)",
        when="dim0=1|2|3|4|-1|-3|-4", result=_VIEW, also="swapaxes swapdims",
    ),
    Row(
        "transpose", "x, dim0, dim1", "jnp.swapaxes({x}, {dim0}, {dim1})", "x.transpose(0, n)",
        result=_VIEW, knows="array", also="swapaxes swapdims",
    ),
    Row("permute", "x, *dims", "{x}.transpose({dims})", "x.permute(0, 2, 1)", result=_VIEW),
    Row("t", "x", "{x}.T", "a.t()", result=_VIEW),
    Row("movedim", "x, source, destination", "jnp.moveaxis({x}, {source:axes}, {destination:axes})", "x.movedim(0, 1)", result=_VIEW, also="moveaxis"),
    Row("flip", "x, *dims", "jnp.flip({x}, axis={dims:axes})", "x.flip(1)"),
    Row("fliplr", "x", "jnp.fliplr({x})", "x.fliplr()"),
    Row("flipud", "x", "jnp.flipud({x})", "x.flipud()"),
    Row("rot90", "x, k=1, dims=(0, 1)", "jnp.rot90({x}, {k}, axes={dims:axes?})", "torch.rot90(x, 1, [1, 2])"),
    Row("roll", "x, shifts, dims=None", "jnp.roll({x}, {shifts:axes}, axis={dims:axes?})", "torch.roll(x, (1, 2), (0, 1))"),
    # More of the same.
    Row("expand", "x, *size", "jnp.broadcast_to({x}, {size:tuple})", "x.expand(2, 2, 3, 4)", when="size:positive", form="method", result=_VIEW),
    Row("expand", "x, *size", "jnp.broadcast_to({x}, {size:kept})", "a.exp().expand(2, -1, 4)", when="x:shaped, size:kept", form="method", result=_VIEW),
    Row("expand", "x, *size", "T.expand({x}, {size})", "x[:1].expand(2, -1, -1)", form="method", result=_VIEW, status="helper"),
    Row("expand_as", "x, other", "jnp.broadcast_to({x}, {other}.shape)", "v.expand_as(x)", form="method", result=_VIEW),
    Row("broadcast_to", "x, size", "jnp.broadcast_to({x}, {size})", "v.broadcast_to((3, 4))", result=_VIEW),
    Row("broadcast_tensors", "*tensors", "jnp.broadcast_arrays({tensors})", "torch.broadcast_tensors(x, v)", form="function", result="arrays"),
    Row("broadcast_shapes", "*shapes", "jnp.broadcast_shapes({shapes})", "torch.broadcast_shapes((2, 1), (3,))", form="function", result="shape"),
    Row("repeat", "x, *sizes", "jnp.tile({x}, {sizes:tuple})", "x.repeat(2, 1, 1)", when="sizes>2", form="method"),
    Row("repeat", "x, *sizes", "jnp.tile({x}, {sizes:tuple})", "a.repeat(2, 1)", form="method", knows="array"),
    Row("tile", "x, *dims", "jnp.tile({x}, {dims:tuple})", "x.tile(2, 1)"),
    Row(
        "repeat_interleave", "x, repeats, dim=None, *, output_size=None",
        "jnp.repeat({x}, {repeats}, axis={dim?}, total_repeat_length={output_size?})", "x.repeat_interleave(2, dim=1)",
    ),
    Row("meshgrid", "*tensors, indexing='ij'", "jnp.meshgrid({tensors:star}, indexing={indexing})", "torch.meshgrid(v, v, indexing='ij')", form="function", result="arrays"),
    # Joined and in pieces.
    Row("cat", "tensors, dim=0", "jnp.concatenate({tensors}, axis={dim?})", "torch.cat([x, y], dim=1)", form="function", also="concat concatenate"),
    Row("stack", "tensors, dim=0", "jnp.stack({tensors}, axis={dim?})", "torch.stack([x, y], 1)", form="function"),
    *(
        Row(name, "tensors", f"jnp.{name}({{tensors}})", f"torch.{name}([x, y])", form="function")
        for name in ("hstack", "vstack", "dstack", "column_stack")
    ),
    Row(
        "split", "x, split_size_or_sections, dim=0", "jnp.split({x}, {split_size_or_sections:ends}, axis={dim?})", "q, r = x.split([1, 3], 2); q.sum() + r",
        when="split_size_or_sections:sections, use:pieces", result="arrays", knows="array", note=_LISTS,
    ),
    Row(
        "split", "x, split_size_or_sections, dim=0", "jnp.split({x}, np.cumsum({split_size_or_sections})[:-1], axis={dim?})", "s = [1, 3]; q, r = x.split(s, 2); q.sum() + r",
        when="split_size_or_sections:sizes, use:pieces", result="arrays", knows="array", note=_LISTS,
    ),
    Row(
        "split", "x, split_size_or_sections, dim=0",
        "jnp.split({x}, np.arange({split_size_or_sections}, {x}.shape[{dim}], {split_size_or_sections}), axis={dim?})",
        "q, r = x.split(3, dim=-1); q.sum() + r",
        when="x:simple, split_size_or_sections:whole, dim:literal, use:pieces", result="arrays", knows="array", note=_LISTS,
    ),
    Row("split", "x, split_size_or_sections, dim=0", "T.split({x}, {split_size_or_sections}, {dim?})", "x.split(2, 2)", result="arrays", knows="array", status="helper"),
    Row(
        "chunk", "x, chunks, dim=0", "jnp.split({x}, {chunks}, axis={dim?})", "q, r = x.chunk(2, dim=2); q + r",
        when="use:unpack", result="arrays", note=_DYNAMIC,
    ),
    Row(
        "chunk", "x, chunks, dim=0", "jnp.split({x}, {chunks}, axis={dim?})", "sum(x.chunk(2, dim=2)[i] for i in range(2))",
        when="chunks:literal, use:pieces", result="arrays", note=_DYNAMIC,
    ),
    Row("chunk", "x, chunks, dim=0", "T.chunk({x}, {chunks}, {dim?})", "x.chunk(n, dim=1)[0]", result="arrays", status="helper"),
    Row("tensor_split", "x, indices_or_sections, dim=0", "jnp.array_split({x}, {indices_or_sections}, axis={dim?})", "x.tensor_split(2, 1)[1]", result="arrays"),
    Row("unbind", "x, dim=0", "jnp.unstack({x}, axis={dim?})", "x.unbind(1)[0]", result="arrays"),
    Row("narrow", "x, dim, start, length", "jax.lax.slice_in_dim({x}, {start}, {start} + {length}, axis={dim})", "x.narrow(1, 1, 2)", when="start:simple", result=_VIEW),
    Row("select", "x, dim, index", "jax.lax.index_in_dim({x}, {index}, {dim}, keepdims=False)", "x.select(1, 0)", result="array-1@view"),
    Row("diagonal", "x, offset=0, dim1=0, dim2=1", "jnp.diagonal({x}, offset={offset?}, axis1={dim1?}, axis2={dim2?})", "x.diagonal(0, 1, 2)", result="array-1@view"),
    Row("diag", "x, diagonal=0", "jnp.diag({x}, {diagonal?})", "torch.diag(v)"),
    Row("diagflat", "x, offset=0", "jnp.diagflat({x}, {offset?})", "torch.diagflat(v)"),
    Row("diag_embed", "x, offset=0, dim1=-2, dim2=-1", "T.diag_embed({x}, {offset?}, dim1={dim1?}, dim2={dim2?})", "torch.diag_embed(x)", status="helper"),
    Row("tril", "x, diagonal=0", "jnp.tril({x}, {diagonal?})", "x.tril(1)"),
    Row("triu", "x, diagonal=0", "jnp.triu({x}, {diagonal?})", "x.triu(diagonal=1)"),
    Row("tril_indices", "row, col, offset=0", "jnp.stack(jnp.tril_indices({row}, {offset}, {col}))", "torch.tril_indices(3, 4)", form="function"),
    Row("triu_indices", "row, col, offset=0", "jnp.stack(jnp.triu_indices({row}, {offset}, {col}))", "torch.triu_indices(3, 4, 1)", form="function"),
    Row("unfold", "x, dimension, size, step", "T.unfold({x}, {dimension}, {size}, {step})", "x.unfold(2, 2, 1)", form="method", status="helper"),
    *(Row(name, "x", f"jnp.{name}({{x}})", f"torch.{name}(v)", form="function") for name in ("atleast_1d", "atleast_2d", "atleast_3d")),
    # Where numbers are, which JAX decides.
    Row("contiguous", "x, *, memory_format=None", "{x}", "x.contiguous()", form="method", result="x"),
    Row("is_contiguous", "x, *, memory_format=None", "True", "x.is_contiguous()", form="method", result="bool"),
    Row("clone", "x, *, memory_format=None", "{x}", "(x + 1).clone()", when="x:fresh", result="x@fresh"),
    Row("clone", "x, *, memory_format=None", "jnp.copy({x})", "x.clone()", result="x@fresh", note="a parameter's array knows its box: a copy does not"),
    Row("detach", "x", "jax.lax.stop_gradient({x})", "x.detach()", result="x"),
    Row("cpu", "x", "{x}", "x.cpu()", form="method", result="x", knows="any"),
    Row("cuda", "x, device=None, non_blocking=False", "{x}", "x.cuda() if False else x", form="method", result="x", knows="any"),
    Row("numpy", "x, *, force=False", "np.asarray({x})", "x.numpy()", form="method", result="numpy", status="changed", note=_EAGER),
    Row("item", "x", "{x}.item()", "x[0, 0, 0].item()", form="method", result="number", status="changed", note=_EAGER),
    Row("tolist", "x", "{x}.tolist()", "x.tolist()", form="method", result="list", status="changed", note=_EAGER),
)
