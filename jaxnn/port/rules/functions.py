"""Functions of functions, and of nested containers."""

from jaxnn.port.rules.row import Row

_ORDER = "a dict's leaves come in the order of its sorted keys, not of its insertion"
_LEAF = "is_leaf=lambda _v: _v is None or isinstance(_v, nn.Module)"  # leaves of torch's trees
_MAPPED = "keyword arguments are mapped over their first axis; torch passes them on whole"

# fmt: off
ROWS = (
    # torch.func: functions of arrays. nn.grad of a module, or of its method, asks for the gradients of its parameters.
    Row("func.vmap", "func, in_dims=0, out_dims=0, randomness='error', *, chunk_size=None", "nn.vmap({func}, in_axes={in_dims?}, out_axes={out_dims?}, randomness='error')", "torch.func.vmap(torch.sin, in_dims=1)(x)", when="randomness='error', use:positional", form="function", result="unknown", drops="chunk_size", also="vmap"),
    Row("func.vmap", "func, in_dims=0, out_dims=0, randomness='error', *, chunk_size=None", "nn.vmap({func}, in_axes={in_dims?}, out_axes={out_dims?}, randomness='error')", "f = torch.func.vmap(torch.sin, in_dims=1); f(x)", when="randomness='error'", form="function", result="unknown", drops="chunk_size", also="vmap", status="changed", note=_MAPPED),
    Row("func.vmap", "func, in_dims=0, out_dims=0, randomness='error', *, chunk_size=None", "nn.vmap({func}, in_axes={in_dims?}, out_axes={out_dims?}, randomness={randomness})", "torch.vmap(torch.sin, out_dims=1, randomness='same')(x)", form="function", result="unknown", drops="chunk_size", also="vmap", status="changed", note=_MAPPED),
    *(
        Row(f"func.{name}", "func, argnums=0, *, has_aux=False", f"{ours}({{func}}, {{argnums?}}, has_aux={{has_aux?}})", f"torch.func.{name}({of})({given})", form="function", result="unknown")
        for name, ours, of, given in (
            ("grad", "jax.grad", "torch.norm", "v"), ("jacrev", "jax.jacrev", "torch.exp", "v"), ("jacfwd", "jax.jacfwd", "torch.exp", "v"),
        )
    ),
    Row("func.grad_and_value", "func, argnums=0, has_aux=False", "(lambda _f: lambda *_xs: jax.value_and_grad(_f, {argnums?}, has_aux={has_aux?})(*_xs)[::-1])({func})", "torch.func.grad_and_value(torch.norm)(v)[0]", form="function", result="unknown"),
    Row("func.hessian", "func, argnums=0", "jax.hessian({func}, {argnums?})", "torch.func.hessian(torch.norm)(v)", form="function", result="unknown"),
    Row("func.jvp", "func, primals, tangents, *, has_aux=False", "jax.jvp({func}, {primals}, {tangents}, has_aux={has_aux?})", "torch.func.jvp(torch.sin, (x,), (y,))[1]", form="function", result="unknown"),
    Row("func.vjp", "func, *primals, has_aux=False", "jax.vjp({func}, {primals:star}, has_aux={has_aux?})", "sine, back = torch.func.vjp(torch.sin, x); back(y)[0] + sine", form="function", result="unknown"),
    # Trees.
    Row("utils._pytree.tree_map", "func, tree", f"jax.tree.map({{func}}, {{tree}}, {_LEAF})", "torch.utils._pytree.tree_map(torch.sin, {'b': x, 'a': [y]})['a'][0]", form="function", result="unknown", status="changed", note=_ORDER),
    Row("utils._pytree.tree_flatten", "tree", f"jax.tree.flatten({{tree}}, {_LEAF})", "torch.utils._pytree.tree_flatten({'a': x, 'b': [y]})[0][1]", form="function", result="unknown", status="changed", note=_ORDER),
    Row("utils._pytree.tree_leaves", "tree", f"jax.tree.leaves({{tree}}, {_LEAF})", "torch.utils._pytree.tree_leaves({'a': x, 'b': [y]})[1]", form="function", result="list", status="changed", note=_ORDER),
    Row("utils._pytree.tree_unflatten", "leaves, treespec", "jax.tree.unflatten({treespec}, {leaves})", "flat, spec = torch.utils._pytree.tree_flatten((x, [y])); torch.utils._pytree.tree_unflatten(flat, spec)[1][0]", form="function", result="unknown"),
)
