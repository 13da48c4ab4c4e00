"""Numbers picked, and put, by index."""

from jaxnn.port.rules.row import Row

_DYNAMIC = "fails in a compiled function: its size depends on the numbers"

# fmt: off
ROWS = (
    Row("gather", "x, dim, index", "T.gather({x}, {dim}, {index})", "x.gather(1, i)", status="helper"),
    Row("take_along_dim", "x, indices, dim", "jnp.take_along_axis({x}, {indices}, axis={dim})", "torch.take_along_dim(x, i, 1)"),
    Row("index_select", "x, dim, index", "jnp.take({x}, {index}, axis={dim})", "x.index_select(0, k)"),
    Row("take", "x, index", "jnp.take({x}, {index})", "torch.take(x, k)", knows="array"),
    Row("masked_select", "x, mask", "(lambda _x, _m: _x[_m])(*jnp.broadcast_arrays({x}, {mask}))", "x.masked_select(m[0])", note=_DYNAMIC, status="changed", result="array=1"),
    Row("scatter", "x, dim, index, src", "T.scatter({x}, {dim}, {index}, {src})", "x.scatter(1, i[:, :1], y)", status="helper"),
    Row("scatter", "x, dim, index, value", "T.scatter({x}, {dim}, {index}, {value})", "x.scatter(1, i, value=0.5)", status="helper"),
    Row("scatter_add", "x, dim, index, src", "T.scatter_add({x}, {dim}, {index}, {src})", "x.scatter_add(1, i, y)", status="helper"),
    Row("scatter_reduce", "x, dim, index, src, reduce, *, include_self=True", "T.scatter_reduce({x}, {dim}, {index}, {src}, {reduce}, include_self={include_self?})", "x.scatter_reduce(1, i, y, 'amax')", status="helper"),
    Row("index_add", "x, dim, index, source, *, alpha=1", "T.index_add({x}, {dim}, {index}, {source}, alpha={alpha?})", "x.index_add(1, k, y)", status="helper"),
    Row("index_copy", "x, dim, index, source", "T.index_copy({x}, {dim}, {index}, {source})", "x.index_copy(1, torch.tensor([2, 0, 1]), y)", status="helper"),
    Row("index_fill", "x, dim, index, value", "T.index_fill({x}, {dim}, {index}, {value})", "x.index_fill(1, k, 0.5)", status="helper"),
    Row("masked_scatter", "x, mask, source", "T.masked_scatter({x}, {mask}, {source})", "x.masked_scatter(m, y)", status="helper"),
    *(
        row
        for name, tail in (("index_put", ""), ("index_put_", ""))
        for row in (
            Row(name, "x, indices, values, accumulate=False", "{x}.at[{indices:index}].set({values})", f"x.clone().{name}((torch.tensor([0, 1]), torch.tensor([2, 0])), v){tail}", when="!accumulate", form="method"),
            Row(name, "x, indices, values, accumulate", "{x}.at[{indices:index}].add({values})", f"x.clone().{name}((torch.tensor([0, 0]), torch.tensor([2, 2])), v, accumulate=True){tail}", when="accumulate=True", form="method"),
        )
    ),
    Row("argwhere", "x", "jnp.argwhere({x})", "torch.argwhere(x > 0)", result="array=2", note=_DYNAMIC, status="changed"),
)
