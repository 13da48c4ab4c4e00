"""What a PyTorch user types first, and what to write for it here: one table, for exceptions and for docs/porting.md.

``explaining.py`` adds a row of it to an exception that one of PyTorch's idioms has led to.
"""

from __future__ import annotations

from typing import NamedTuple

import jax


class Idiom(NamedTuple):
    """A row of the table.

    Attributes:
        torch: what a PyTorch user types. ``{}`` stands for each of `names`.
        here: what to write instead.
        meets: the exception that it ends with here; None where it does something else without a word.
        says: what the exception says, a regular expression. For an attribute that is missing, `names` says it all.
        names: the attributes that the row is about; the first is the one in the docs' example.
        of: what has no such attribute: "array", "numpy" (NumPy's arrays, where the rows of "array" do not fit), "box" (a
            parameter), or a module's name.
        called: the method whose call failed, where the exception's text alone does not tell.
        why: a further sentence.
    """

    torch: str
    here: str
    meets: type[Exception] | None = AttributeError
    says: str = ""
    names: tuple[str, ...] = ()
    of: str = "array"
    called: str = ""
    why: str = ""

    def text(self, name: str = "") -> str:
        """The note on an exception."""
        name = name or (self.names[0] if self.names else "")
        return f"jaxnn: instead of {code(self.torch, name)} write {code(self.here, name)}" + (
            f". {self.why}" if self.why else ""
        )


def code(text: str, name: str) -> str:
    """A text of the table about the attribute `name`, as code unless it says itself what of it is."""
    text = text.replace("{}", name)
    return text if "`" in text else f"`{text}`"


def _row(torch: str, here: str, names: str = "", why: str = "", of: str = "array") -> Idiom:
    """A row of attributes that do not exist here; without `names`, of the one that `torch` begins with."""
    return Idiom(torch, here, names=tuple(names.split()) or (torch.split(".")[1].split("(")[0],), why=why, of=of)


_FINAL = "Arrays do not change in place"
_FLOAT0 = 'Gradients are values here, no attributes: see the page "Optimizers"'
_DEVICE = "JAX computes on its default device; jax.device_put(x, device) chooses another"
_NUMPY = "This is a NumPy array, as DataLoader and nn.load give them"
_STATIC = "Values are not known while the function is compiled"

# In the docs' order: training, shapes, reductions, dtypes and devices, arithmetic, functions, compiled code.
IDIOMS: tuple[Idiom, ...] = (
    # -- gradients ------------------------------------------------------------------------------------------------
    _row(
        "loss.backward()", "loss, grads = nn.value_and_grad(loss_fn)(model); optimizer.step(model, grads)", why=_FLOAT0
    ),
    _row("x.detach()", "jax.lax.stop_gradient(x)", "detach detach_"),
    _row("p.grad", "`grads[name]`, of `loss, grads = nn.value_and_grad(loss_fn)(model)`", of="box", why=_FLOAT0),
    _row(
        "x.grad", "`grads = nn.grad(loss_fn)(model)`, or `jax.grad(f)(x)` for an array", "grad grad_fn is_leaf", _FLOAT0
    ),
    _row(
        "x.requires_grad_()",
        "jax.grad(f)(x)",
        "requires_grad_ requires_grad retain_grad",
        "Every array that a function is differentiated by has a gradient; requires_grad is a parameter's",
    ),
    _row("x.register_hook(f)", "`model.register_full_backward_hook(f)`, or `jax.custom_vjp`", why=_FLOAT0),
    _row("x.data", "x", why="Reading a parameter gives the plain array; model.weight = array puts another in it"),
    # -- shapes ---------------------------------------------------------------------------------------------------
    Idiom("x.view(2, -1)", "x.reshape(2, -1)", NotImplementedError, r"`type` argument of array\.view"),
    Idiom(
        "x.view(-1)",
        "x.reshape(-1)",
        TypeError,
        r"Cannot interpret '-?\d+' as a data type|Tuple must have size 2",
        called="view",
    ),
    Idiom("x.view(2, 3, 4)", "x.reshape(2, 3, 4)", TypeError, r"view\(\) takes from (1 to 3|0 to 2) positional"),
    _row("x.view_as(y)", "x.reshape(y.shape)", "view_as reshape_as"),
    Idiom("x.size(0)", "x.shape[0]", TypeError, r"'int' object is not callable", called="size"),
    Idiom("x.ndim()", "x.ndim", TypeError, r"'int' object is not callable", called="ndim"),
    Idiom("x.shape()", "x.shape", TypeError, r"'tuple' object is not callable", called="shape"),
    _row("x.dim()", "x.ndim", "dim ndimension"),
    _row("x.numel()", "x.size", "numel nelement"),
    _row("x.permute(0, 2, 1)", "x.transpose(0, 2, 1)"),
    Idiom("x.transpose(1, 2)", "jnp.swapaxes(x, 1, 2)", TypeError, r"transpose permutation isn't a permutation"),
    _row("x.t()", "x.T"),
    _row("x.unsqueeze(1)", "jnp.expand_dims(x, 1)", "unsqueeze unsqueeze_"),
    _row("x.expand(2, 3, 4)", "jnp.broadcast_to(x, (2, 3, 4))", why="All sizes are given: there is no -1"),
    _row("x.expand_as(y)", "jnp.broadcast_to(x, y.shape)"),
    Idiom(
        "x.repeat(3, 1, 1)",
        "jnp.tile(x, (3, 1, 1))",
        TypeError,
        r"_?repeat\(\) takes (from 2 to 3 positional|at most 2 arguments)",
    ),
    Idiom("x.flatten(1)", "jax.lax.collapse(x, 1)", ValueError, r"Unexpected value for 'order' argument: -?\d"),
    Idiom(
        "x.flatten(start_dim=1)",
        "nn.Flatten(1)(x)",
        TypeError,
        r"flatten\(\) got an unexpected keyword argument '(start|end)_dim'",
    ),
    _row("x.unflatten(1, (1, 3))", "nn.Unflatten(1, (1, 3))(x)"),
    _row("x.contiguous()", "x", why="Arrays have no strides"),
    _row("x.is_contiguous()", "True", "is_contiguous", why="Arrays have no strides"),
    _row("x.chunk(2, dim=-1)", "jnp.split(x, 2, axis=-1)"),
    _row("x.split([1, 3], dim=-1)", "jnp.split(x, [1], axis=-1)", why="jnp.split takes the places, not the sizes"),
    _row("x.unbind(1)", "list(jnp.moveaxis(x, 1, 0))"),
    _row("x.narrow(1, 0, 2)", "jax.lax.slice_in_dim(x, 0, 2, axis=1)"),
    _row("x.select(1, 0)", "x[:, 0]"),
    _row("x.movedim(0, 1)", "jnp.moveaxis(x, 0, 1)"),
    _row("x.flip(0)", "jnp.flip(x, 0)"),
    _row("x.roll(1, 0)", "jnp.roll(x, 1, 0)"),
    _row("x.unfold(1, 2, 1)", "x[:, jnp.arange(2)[:, None] + jnp.arange(2)].mT"),
    # -- reductions -----------------------------------------------------------------------------------------------
    Idiom(
        "x.mean(dim=1, keepdim=True)",
        "x.mean(axis=1, keepdims=True)",
        TypeError,
        r"(?P<function>\w+)\(\) got an unexpected keyword argument '(?P<keyword>dim|dims|keepdim|unbiased)'",
        why="dim is axis, keepdim is keepdims, and var and std take ddof=1 for torch's unbiased=True",
    ),
    Idiom("x.sum(1, True)", "x.sum(1, keepdims=True)", TypeError, r"Cannot interpret '(True|False)' as a data type"),
    Idiom("x.var(1)", "x.var(1, ddof=1)", None, why="Without ddof=1 it is PyTorch's unbiased=False"),
    Idiom("x.std(1)", "x.std(1, ddof=1)", None, why="Without ddof=1 it is PyTorch's unbiased=False"),
    Idiom("x.max(1)", "x.max(1), x.argmax(1)", None, why="x.max(1), x.min(1) and x.sort() give the values alone"),
    Idiom("x.repeat(2, 1)", "jnp.tile(x, (2, 1))", None, why="x.repeat is numpy.repeat: each row twice"),
    Idiom("x.transpose(0, 1)", "jnp.swapaxes(x, 0, 1)", None, why="of a matrix; x.transpose(0, 1) leaves it as it is"),
    _row("x.max(1).values", "x.max(1)", "values", why="x.max(1), x.min(1) and x.sort() give the values alone"),
    _row("x.max(1).indices", "x.argmax(1)", "indices"),
    _row("x.amax(1)", "x.max(1)"),
    _row("x.amin(1)", "x.min(1)"),
    _row("x.topk(2)", "jax.lax.top_k(x, 2)"),
    _row("x.norm()", "jnp.linalg.norm(x.reshape(-1))", why="jnp.linalg.norm(x, axis=1) along an axis"),
    _row("x.logsumexp(1)", "jax.nn.logsumexp(x, axis=1)"),
    _row("x.{}(dim=1)", "F.{}(x, dim=1)", "softmax log_softmax"),
    # -- dtypes and devices ---------------------------------------------------------------------------------------
    _row("x.to(torch.float16)", "x.astype(jnp.float16)", why="For .to(device): " + _DEVICE),
    _row("x.float()", "x.astype(jnp.float32)"),
    _row("x.half()", "x.astype(jnp.float16)"),
    _row("x.bfloat16()", "x.astype(jnp.bfloat16)"),
    _row("x.double()", "x.astype(jnp.float64)", why='It needs jax.config.update("jax_enable_x64", True)'),
    _row("x.long()", "x.astype(int)", "long int short"),
    _row("x.bool()", "x.astype(bool)"),
    _row("x.type(torch.float32)", "x.astype(jnp.float32)"),
    _row("x.type_as(y)", "x.astype(y.dtype)"),
    _row("x.is_floating_point()", "jnp.issubdtype(x.dtype, jnp.floating)"),
    _row("x.cuda()", "x", "cuda is_cuda pin_memory share_memory_", _DEVICE),
    _row("x.cpu()", "jax.device_get(x)"),
    _row("x.numpy()", "numpy.asarray(x)"),
    _row("x.clone()", "x", why="Arrays do not change: nothing is gained by a copy"),
    _row("x.new_zeros(3)", "jnp.zeros(3, x.dtype)"),
    _row("x.data_ptr()", "`model.get_parameter(a) is model.get_parameter(b)`, to see ties"),
    # -- NumPy's arrays: the other rows hold too, with np for jnp ---------------------------------------------------
    _row(
        "batch.to(device)",
        "batch",
        "to cuda",
        why=f"{_NUMPY}: a model takes it as it is, and DataLoader(..., device=device) "
        "puts batches on a device. For a dtype: batch.astype(np.float32)",
        of="numpy",
    ),
    _row("batch.cpu()", "batch", "cpu numpy detach contiguous pin_memory", why=_NUMPY, of="numpy"),
    Idiom("a.view(2, -1)", "a.reshape(2, -1)", ValueError, r"Type must be a sub-type of ndarray type"),
    Idiom(
        "a.transpose(1, 2)",
        "np.swapaxes(a, 1, 2)",
        ValueError,
        r"axes don't match array",
        called="transpose",
        why=_NUMPY,
    ),
    Idiom("a.flatten(1)", "a.reshape(a.shape[0], -1)", TypeError, r"order must be str, not int", why=_NUMPY),
    _row("a.clone()", "a.copy()", why=_NUMPY, of="numpy"),
    _row("a.add_(y)", "a += y", "add_ sub_ mul_ div_ pow_", of="numpy"),
    _row("a.clamp_(0, 1)", "np.clip(a, 0, 1, out=a)", of="numpy"),
    _row("a.zero_()", "a[...] = 0", of="numpy"),
    _row("a.fill_(v)", "a[...] = v", of="numpy"),
    _row("a.copy_(y)", "a[...] = y", of="numpy"),
    _row("a.masked_fill_(m, v)", "a[m] = v", of="numpy"),
    _row("a.exp_()", "np.exp(a, out=a)", "exp_ sqrt_", of="numpy"),
    _row("a.neg_()", "np.negative(a, out=a)", of="numpy"),
    _row("a.relu_()", "np.maximum(a, 0, out=a)", of="numpy"),
    _row("a.index_add_(0, i, v)", "np.add.at(a, i, v)", "index_add_ scatter_add_", of="numpy"),
    _row("a.index_copy_(0, i, v)", "a[i] = v", "index_copy_ scatter_ index_put_", of="numpy"),
    _row(
        "a.normal_()",
        "a[...] = np.random.normal(size=a.shape)",
        "normal_ uniform_ random_ bernoulli_ exponential_",
        of="numpy",
    ),
    # -- arithmetic and indices -----------------------------------------------------------------------------------
    _row(
        "x.{}()",
        "jnp.{}(x)",
        "exp log sqrt abs sin cos tan sinh cosh tanh sign floor ceil square reciprocal isnan "
        "isinf isfinite log1p expm1 log2 log10 exp2 tril triu",
    ),  # fmt: skip
    _row("x.{}()", "F.{}(x)", "sigmoid relu"),
    _row("x.{}()", "jax.lax.{}(x)", "rsqrt erf"),
    _row("x.pow(2)", "x**2"),
    _row("x.{}(y)", "jnp.{}(x, y)", "maximum minimum add multiply atan2 fmod logaddexp"),
    _row("x.mul(y)", "x * y"),
    _row("x.sub(y)", "x - y"),
    _row("x.div(y)", "x / y"),
    _row("x.matmul(y.mT)", 'jnp.matmul(x, y.mT, precision="highest")', "matmul mm bmm mv"),
    _row("x.eq(y)", "x == y"),
    _row("x.ne(y)", "x != y"),
    _row("x.gt(y)", "x > y"),
    _row("x.ge(y)", "x >= y"),
    _row("x.lt(y)", "x < y"),
    _row("x.le(y)", "x <= y"),
    _row("x.clamp(min=0)", "jnp.clip(x, 0)", "clamp clamp_min clamp_max"),
    _row("x.masked_fill(x > 5, 0.0)", "jnp.where(x > 5, 0.0, x)"),
    _row("x.where(x > 5, y)", "jnp.where(x > 5, x, y)"),
    _row("x.index_select(0, i)", "jnp.take(x, i, axis=0)"),
    _row("x.gather(1, index)", "jnp.take_along_axis(x, index, 1)"),
    _row("x.scatter_add(0, i, v)", "x.at[i].add(v)", "scatter_add scatter_add_ index_add index_add_"),
    _row("x.scatter(0, i, v)", "x.at[i].set(v)", "scatter scatter_ index_fill index_copy_ index_put_"),
    _row("x.masked_select(m)", "x[m]", why="Outside of compiled functions only: the size depends on values"),
    _row("x.multinomial(1)", "jax.random.categorical(nn.next_key(), jnp.log(x))"),
    _row("x.zero_()", "x = jnp.zeros_like(x)", why=_FINAL),
    _row("x.fill_(v)", "x = jnp.full_like(x, v)", why=_FINAL),
    _row("x.copy_(y)", "x = y", why=f"{_FINAL}; model.weight = y puts y in the parameter"),
    _row("x.masked_fill_(m, v)", "x = jnp.where(m, v, x)", why=_FINAL),
    _row("x.add_(y)", "x = x + y", "add_ sub_ mul_ div_ pow_ clamp_ exp_ sqrt_ relu_ neg_", _FINAL),
    _row(
        "x.normal_()",
        "x = jax.random.normal(nn.next_key(), x.shape)",
        "normal_ uniform_ random_ bernoulli_ exponential_",
        f"{_FINAL}; nn.init.normal_(model.weight) reaches a parameter",
    ),
    # -- functions ------------------------------------------------------------------------------------------------
    _row("torch.cat(xs, dim=1)", "jnp.concatenate(xs, axis=1)", of="jnp"),
    _row("torch.tensor(values)", "jnp.asarray(values)", "tensor as_tensor from_numpy Tensor FloatTensor", of="jnp"),
    _row(
        "torch.randn(n)",
        "jax.random.normal(nn.next_key(), (n,))",
        "randn rand randint randperm randn_like rand_like",
        "jax.random has normal, uniform, randint, permutation",
        of="jnp",
    ),
    _row("torch.{}(x)", "F.{}(x)", "relu sigmoid softmax log_softmax gelu", of="jnp"),
    _row("torch.manual_seed(0)", "nn.manual_seed(0)", of="jnp"),
    _row("torch.no_grad()", "nn.no_grad()", of="jnp"),
    _row(
        "torch.{}(x, ...)",
        'the function of `jnp` that the page "Porting" names',
        "bmm mm unsqueeze permute clamp gather chunk masked_fill flatten numel topk index_select norm",
        of="jnp",
    ),  # fmt: skip
    _row(
        "torch.{}",
        "jnp.{}",
        "float16 bfloat16 float32 float64 int8 int32 int64 zeros ones arange linspace stack where "
        "zeros_like ones_like full eye einsum matmul exp log sqrt tanh argmax",
        of="nn",
    ),  # fmt: skip
    _row("torch.{}(xs, dim=1)", "jnp.concatenate(xs, axis=1)", "cat concat", of="nn"),
    _row("torch.tensor(values)", "jnp.asarray(values)", "tensor as_tensor from_numpy Tensor FloatTensor", of="nn"),
    _row("torch.randn(n)", "jax.random.normal(nn.next_key(), (n,))", "randn rand randint randperm", of="nn"),
    _row("torch.cuda.is_available()", 'jax.default_backend() == "gpu"', "cuda backends", _DEVICE, of="nn"),
    _row("torch.device(name)", "jax.devices(name)[0]", why=_DEVICE, of="nn"),
    _row("torch.compile(f)", "nn.jit(f)", of="nn"),
    _row("torch.{}(x)", "F.{}(x)", "relu sigmoid softmax log_softmax gelu", "F is jaxnn.functional", of="nn"),
    Idiom("nn.tensor(values)", "jnp.asarray(values)", TypeError, r"'module' object is not callable", called="tensor"),
    Idiom(
        "from jaxnn import nn",
        "import jaxnn as nn",
        ImportError,
        r"cannot import name 'nn' from 'jaxnn'|No module named 'jaxnn\.nn'",
    ),
    Idiom(
        "from torch.utils.tensorboard import SummaryWriter",
        "from tensorboardX import SummaryWriter",
        ImportError,
        r"No module named 'jaxnn\.utils\.tensorboard|cannot import name 'tensorboard' from 'jaxnn",
        why="It needs no PyTorch: pip install tensorboardX",
    ),
    _row("torch.utils.data.{}", "nn.utils.data.{}", "DataLoader Dataset TensorDataset", of="nn"),
    _row("torch.optim.{}", "nn.optim.{}", "SGD Adam AdamW lr_scheduler", of="nn"),
    Idiom(
        "torch.cat([x, y])",
        "jnp.concatenate([x, y])",
        TypeError,
        r"(must be Tensor|expected Tensor|must be tuple of Tensors).*not? .*(ArrayImpl|Tracer)|"
        r"expected Tensor as element .* but got .*(ArrayImpl|Tracer)",
        why="A function or a layer of torch was given an array of JAX: use jnp, F and nn throughout",
    ),
    Idiom(
        "x + tensor",
        "x + jnp.asarray(tensor)",
        TypeError,
        r"unsupported operand type\(s\) .*'(Tensor|\S*ArrayImpl|\S*Tracer)' and '(Tensor|\S*ArrayImpl|\S*Tracer)'",
        why="An array of JAX and a tensor of torch do not mix",
    ),
    Idiom(
        'torch.zeros(3, device="cuda")',
        "jnp.zeros(3)",
        AttributeError,
        r"'str' object has no attribute '_is_concrete'",
        why=_DEVICE,
    ),
    Idiom("torch.ones(2, 3, 4)", "jnp.ones((2, 3, 4))", TypeError, r"(ones|zeros|full|empty)\(\) takes .* positional"),
    # -- training -------------------------------------------------------------------------------------------------
    Idiom(
        "a loss for each example",
        "`loss.mean()` or `loss.sum()`",
        TypeError,
        r"Gradient only defined for scalar-output functions\. Output had shape",
        why="A loss is one number",
    ),
    Idiom(
        "return loss, logits",
        "`(loss, logits), grads = nn.value_and_grad(loss_fn, has_aux=True)(model)`",
        TypeError,
        r"Gradient only defined for scalar-output functions\. Output was \(",
    ),
    Idiom(
        "a `loss_fn` without `return`",
        "return loss",
        TypeError,
        r"Gradient only defined for scalar-output functions\. Output was None",
    ),
    Idiom(
        "`step(x, y)` with tensors",
        "step(x.numpy(), y.numpy())",
        TypeError,
        r"value is of type <class 'torch\.Tensor'>",
        why="A compiled function takes arrays of JAX or NumPy",
    ),
    Idiom(
        "`@nn.jit` on a method of a Trainer",
        "`@nn.jit` on a function `step(model, optimizer, x)`, called by the method with `self.model, self.optimizer`",
        TypeError,
        r"value is of type <class .* at path self\b",
        why="Only arguments that are modules, optimizers or arrays come in and go out of compiled code",
    ),
    Idiom(
        "`@nn.jit` on an epoch: `train(model, loader)`",
        "`@nn.jit` on a function of one batch, `step(model, optimizer, x, y)`, called in the loop over the loader",
        TypeError,
        r"value is of type <class '[^']*(DataLoader|Dataset|_iterators\.|iterator|generator|enumerate|zip|tqdm)[^']*'",
        why="A compiled epoch would hold all its data, and every step of it",
    ),
    Idiom(
        'step(model, x, "train")',
        "`nn.jit(step, static_argnames=...)`, with the name of the argument",
        TypeError,
        r"value is of type <class .*was passed to the function at path",
        why="An argument that is no module and no array is configuration: compiled in, once for each value",
    ),
    # -- compiled code --------------------------------------------------------------------------------------------
    Idiom(
        "if x.sum() > 0:",
        "`jnp.where(x.sum() > 0, a, b)`, or `jax.lax.cond`",
        jax.errors.TracerBoolConversionError,
        why=_STATIC,
    ),
    Idiom(
        "for _ in range(n):",
        "`nn.jit(f, static_argnames='n')`, or `jax.lax.fori_loop`",
        jax.errors.TracerIntegerConversionError,
        why=_STATIC,
    ),
    Idiom(
        "loss.item()",
        "`return loss`, and `float(loss)` outside of the compiled function",
        jax.errors.ConcretizationTypeError,
        r"item\(\) method|`(float|int|complex)` function",
        why=_STATIC,
    ),
    Idiom(
        'print(f"{loss:.3f}")',
        'jax.debug.print("{:.3f}", loss)',
        TypeError,
        r"unsupported format string passed to \w*Tracer",
        why=_STATIC,
    ),
    Idiom(
        "x.detach().cpu().numpy()",
        "`return x`, and `numpy.asarray(x)` outside of the compiled function",
        jax.errors.TracerArrayConversionError,
        why=_STATIC,
    ),
    Idiom(
        "x[x > 0]",
        "`jnp.where(x > 0, x, 0)`, or `x[jnp.nonzero(x > 0, size=n)]`",
        jax.errors.NonConcreteBooleanIndexError,
        why="Sizes cannot depend on values in a compiled function",
    ),
    Idiom(
        "torch.zeros(n, 3)",
        "nn.jit(f, static_argnames='n')",
        TypeError,
        r"Shapes must be 1D sequences of concrete values of integer type",
        why="Sizes cannot depend on values in a compiled function",
    ),
)
