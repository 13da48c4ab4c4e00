"""Sums, means, extremes, orders: what takes one dimension or more away."""

from typing import Any

from jaxnn.port.rules.row import Row

_ANY: dict[str, Any] = {}
_ARRAY: dict[str, Any] = {"knows": "array"}
_DYNAMIC = "fails in a compiled function: its size depends on the numbers"


def _plain(name: str, method: str, example: str, **options: Any) -> Row:
    return Row(
        name,
        "x, dim=None, keepdim=False, *, dtype=None",
        f"{{x}}.{method}({{dim:axes?}}, dtype={{dtype?}}, keepdims={{keepdim?}})",
        example,
        **options,
    )


def _moment(name: str) -> tuple[Row, ...]:
    text = f"{{x}}.{name}({{dim:axes?}}, ddof={{ddof}}, keepdims={{keepdim?}})"
    return (
        Row(
            name,
            "x, unbiased",
            f"{{x}}.{name}(ddof=int({{unbiased}}))",
            f"x.{name}(False)",
            when="unbiased:bool",
            knows="array",
        ),
        Row(
            name,
            "x, dim=None, unbiased=True, keepdim=False",
            text.replace(", ddof={ddof}", ""),
            f"x.{name}(1, unbiased=False)",
            when="unbiased=False",
            knows="array",
        ),
        Row(
            name,
            "x, dim=None, unbiased=True, keepdim=False",
            text.replace("{ddof}", "1"),
            f"x.{name}(1)",
            when="unbiased=True",
            knows="array",
        ),
        Row(
            name,
            "x, dim=None, unbiased=True, keepdim=False",
            text.replace("{ddof}", "int({unbiased})"),
            f"x.{name}(1, unbiased=n > 1)",
            when="unbiased",
            knows="array",
        ),
        Row(
            name,
            "x, dim=None, *, correction=1, keepdim=False",
            text.replace("{ddof}", "1"),
            f"x.{name}(1, correction=None)",
            when="correction=None",
            knows="array",
        ),
        Row(
            name,
            "x, dim=None, *, correction=1, keepdim=False",
            text.replace("{ddof}", "{correction}"),
            f"x.{name}(1, correction=0)",
            knows="array",
        ),
    )


def _extreme(name: str) -> tuple[Row, ...]:
    most = {"max": "maximum", "min": "minimum"}[name]
    return (
        Row(name, "x", f"{{x}}.{name}()", f"x.{name}()", knows="array", result="array=0"),
        Row(
            name, "x, other", f"jnp.{most}({{x}}, {{other}})", f"torch.{name}(x, y)", when="other:array", knows="array"
        ),
        *(
            Row(
                f"{name}{piece}",
                "x, dim, keepdim=False",
                f"{{x}}.{method}({{dim}}, keepdims={{keepdim?}})",
                f"x.{name}(1){piece}",
                when="dim:int",
                knows="array",
            )
            for method, pieces in ((name, ("[0]", ".values")), (f"arg{name}", ("[1]", ".indices")))
            for piece in pieces
        ),
        Row(
            name,
            "x, dim=None, keepdim=False",
            f"T.{name}({{x}}, {{dim}}, {{keepdim?}})",
            f"tuple(x.{name}(1))",
            knows="array",
            result="arrays",
            when="dim:int",
            status="helper",
        ),
        Row(
            name,
            "x, dim",
            f"T.{name}({{x}}, {{dim}})",
            f"torch.{name}(x, y if n else 1)",
            form="function",
            result="unknown",
            status="helper",
        ),
    )


# fmt: off
ROWS = (
    _plain("sum", "sum", "x.sum(1, keepdim=True)", knows="array"),
    _plain("mean", "mean", "x.mean([1, 2])", knows="array"),
    _plain("prod", "prod", "x.prod(1)", knows="array"),
    Row("nansum", "x, dim=None, keepdim=False", "jnp.nansum({x}, axis={dim:axes?}, keepdims={keepdim?})", "x.nansum(1)"),
    Row("nanmean", "x, dim=None, keepdim=False", "jnp.nanmean({x}, axis={dim:axes?}, keepdims={keepdim?})", "x.nanmean(1)"),
    *(
        Row(name, "x, dim=None, keepdim=False", f"{{x}}.{ours}({{dim:axes?}}, keepdims={{keepdim?}})", f"x.{name}(1)", **knows)
        for name, ours, knows in (
            ("amax", "max", _ANY), ("amin", "min", _ANY), ("argmax", "argmax", _ARRAY), ("argmin", "argmin", _ARRAY),
        )
    ),
    *(
        Row(name, "x, dim=None, keepdim=False", f"{{x}}.{name}({{dim:axes?}}, keepdims={{keepdim?}})", f"m.{name}(1)", knows="array")
        for name in ("any", "all")
    ),
    *_moment("var"),
    *_moment("std"),
    *_extreme("max"),
    *_extreme("min"),
    Row("median", "x, dim=None, keepdim=False", "T.median({x}, {dim?}, {keepdim?})", "x.median(1)[0]", result="unknown", status="helper"),
    Row("logsumexp", "x, dim, keepdim=False", "jax.nn.logsumexp({x}, axis={dim:axes}, keepdims={keepdim?})", "x.logsumexp(1)"),
    Row("norm", "x, p='fro', dim=None, keepdim=False, dtype=None", "T.norm({x}, {p?}, dim={dim?}, keepdim={keepdim?}, dtype={dtype?})", "x.norm(2, dim=1)", knows="array", status="helper"),
    Row("linalg.vector_norm", "x, ord=2, dim=None, keepdim=False, *, dtype=None", "T.norm({x}, {ord}, dim={dim?}, keepdim={keepdim?}, dtype={dtype?})", "torch.linalg.vector_norm(x, dim=1)", form="function", status="helper"),
    Row("count_nonzero", "x, dim=None", "jnp.count_nonzero({x}, axis={dim:axes?})", "i.count_nonzero(1)"),
    Row("cumsum", "x, dim, *, dtype=None", "jnp.cumsum({x}, {dim}, dtype={dtype?})", "x.cumsum(1)"),
    Row("cumprod", "x, dim, *, dtype=None", "jnp.cumprod({x}, {dim}, dtype={dtype?})", "x.cumprod(1)"),
    Row("logcumsumexp", "x, dim", "jax.lax.cumlogsumexp({x}, {dim})", "x.logcumsumexp(1)", when="dim=0|1|2|3|4"),
    Row("logcumsumexp", "x, dim", "jax.lax.cumlogsumexp({x}, {dim} % {x}.ndim)", "x.logcumsumexp(-1)", when="x:simple"),
    Row("logcumsumexp", "x, dim", "(lambda _x: jax.lax.cumlogsumexp(_x, {dim} % _x.ndim))({x})", "(x * 2).logcumsumexp(-1)"),
    Row("var_mean", "x, dim=None, *, correction=1, keepdim=False", "(lambda _x: (_x.var({dim:axes?}, ddof=1, keepdims={keepdim?}), _x.mean({dim:axes?}, keepdims={keepdim?})))({x})", "torch.var_mean(x, dim=1, correction=None)[0]", when="correction=None", form="function", result="arrays"),
    Row("var_mean", "x, dim=None, *, correction=1, keepdim=False", "(lambda _x: (_x.var({dim:axes?}, ddof={correction}, keepdims={keepdim?}), _x.mean({dim:axes?}, keepdims={keepdim?})))({x})", "torch.var_mean(x, dim=-1)[0]", form="function", result="arrays"),
    Row("var_mean", "x, dim=None, unbiased=True, keepdim=False", "(lambda _x: (_x.var({dim:axes?}, ddof=int({unbiased}), keepdims={keepdim?}), _x.mean({dim:axes?}, keepdims={keepdim?})))({x})", "torch.var_mean(x, 1, unbiased=False)[1]", form="function", result="arrays"),
    Row("std_mean", "x, dim=None, *, correction=1, keepdim=False", "(lambda _x: (_x.std({dim:axes?}, ddof=1, keepdims={keepdim?}), _x.mean({dim:axes?}, keepdims={keepdim?})))({x})", "torch.std_mean(x, dim=1, correction=None)[0]", when="correction=None", form="function", result="arrays"),
    Row("std_mean", "x, dim=None, *, correction=1, keepdim=False", "(lambda _x: (_x.std({dim:axes?}, ddof={correction}, keepdims={keepdim?}), _x.mean({dim:axes?}, keepdims={keepdim?})))({x})", "torch.std_mean(x, 1)[0]", form="function", result="arrays"),
    Row("isin", "elements, test_elements", "jnp.isin({elements}, {test_elements})", "torch.isin(i, k)", form="function"),
    Row("quantile", "x, q, dim=None, keepdim=False", "jnp.quantile({x}, {q}, axis={dim?}, keepdims={keepdim?})", "x.quantile(0.5, 1)"),
    Row("bucketize", "x, boundaries, *, right=False", "jnp.searchsorted({boundaries}, {x})", "torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0]))", when="!right", form="function"),
    Row("bucketize", "x, boundaries, *, right=False", 'jnp.searchsorted({boundaries}, {x}, side="right")', "torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0]), right=True)", when="right=True", form="function"),
    Row("linalg.norm", "x, ord=None, dim=None, keepdim=False", "T.norm({x}, 2, dim={dim}, keepdim={keepdim?})", "torch.linalg.norm(x, dim=-1)", when="!ord, dim", form="function", status="helper", note="at 0 its gradient is torch's, not NaN"),
    Row("linalg.norm", "x, ord=None, dim=None, keepdim=False", "T.norm({x}, {ord}, dim={dim}, keepdim={keepdim?})", "torch.linalg.norm(x, 1, dim=-1)", when="ord, dim:int", form="function", status="helper"),
    Row("linalg.norm", "x, ord=None, dim=None, keepdim=False", "jnp.linalg.norm({x}, {ord?}, axis={dim:axes?}, keepdims={keepdim?})", "torch.linalg.norm(x, 'fro', dim=(1, 2))", when="dim", form="function"),
    Row("linalg.norm", "x, ord=None, dim=None, keepdim=False", "T.norm({x})", "torch.linalg.norm(x)", when="!dim, !ord, !keepdim", form="function", status="helper"),
    Row("linalg.inv", "x", "jnp.linalg.inv({x})", "torch.linalg.inv(torch.eye(3) + a[:, :3])", form="function", also="inverse"),
    Row("inverse", "x", "jnp.linalg.inv({x})", "(torch.eye(3) + a[:, :3]).inverse()", form="method"),
    Row("linalg.det", "x", "jnp.linalg.det({x})", "torch.linalg.det(a[:, :3])", form="function", also="det"),
    Row("linalg.solve", "A, B", "jnp.linalg.solve({A}, {B})", "torch.linalg.solve(torch.eye(3) + a[:, :3], a)", form="function"),
    Row("linalg.cholesky", "x", "jnp.linalg.cholesky({x})", "torch.linalg.cholesky(a @ a.T + torch.eye(3))", form="function", also="cholesky"),
    Row("linalg.matrix_power", "x, n", "jnp.linalg.matrix_power({x}, {n})", "torch.linalg.matrix_power(a[:, :3], 3)", form="function", also="matrix_power"),
    Row("cartesian_prod", "*tensors", 'jnp.stack([_t.reshape(-1) for _t in jnp.meshgrid({tensors}, indexing="ij")], axis=-1)', "torch.cartesian_prod(v, v.flip(0))", when="tensors>1", form="function"),
    Row("diff", "x, n=1, dim=-1", "jnp.diff({x}, {n?}, axis={dim?})", "x.diff(dim=1)"),
    Row("trapezoid", "y, x=None, *, dx=1.0, dim=-1", "jnp.trapezoid({y}, {x?}, dx={dx?}, axis={dim?})", "torch.trapezoid(x, dx=0.5, dim=1)", form="function", also="trapz"),
    Row("trace", "x", "jnp.trace({x})", "torch.trace(a)", result="array=0"),
    # Orders.
    Row("topk", "x, k, dim=-1, largest=True, sorted=True", "jax.lax.top_k({x}, {k})", "q, r = x.topk(2); q + r", when="dim=-1, largest=True, use:unpack", result="arrays"),
    *(
        Row(f"topk{piece}", "x, k, dim=-1, largest=True, sorted=True", f"jax.lax.top_k({{x}}, {{k}})[{at}]", f"x.topk(2){piece}", when="dim=-1, largest=True")
        for piece, at in (("[0]", 0), (".values", 0), ("[1]", 1), (".indices", 1))
    ),
    Row("topk", "x, k, dim=-1, largest=True, sorted=True", "jax.lax.top_k({x}, {k}, axis={dim})", "q, r = x.topk(2, dim=1); q + r", when="dim:literal, largest=True, use:unpack", result="arrays"),
    *(
        Row(f"topk{piece}", "x, k, dim=-1, largest=True, sorted=True", f"jax.lax.top_k({{x}}, {{k}}, axis={{dim}})[{at}]", f"x.topk(2, dim=1){piece}", when="dim:literal, largest=True")
        for piece, at in (("[0]", 0), (".values", 0), ("[1]", 1), (".indices", 1))
    ),
    Row("topk", "x, k, dim=-1, largest=True, sorted=True", "T.topk({x}, {k}, dim={dim?}, largest={largest?}, sorted={sorted?})", "x.topk(2, dim=1, largest=False)[0]", result="arrays", status="helper"),
    *(
        Row(f"sort{piece}", "x, dim=-1, descending=False", f"jnp.{ours}({{x}}, axis={{dim?}}, descending={{descending?}})", f"x.sort(1){piece}")
        for piece, ours in (("[0]", "sort"), (".values", "sort"), ("[1]", "argsort"), (".indices", "argsort"))
    ),
    Row("sort", "x, dim=-1, descending=False, stable=False", "T.sort({x}, {dim}, descending={descending?}, stable={stable?})", "tuple(x.sort(1))", knows="array", result="arrays", status="helper"),
    Row("argsort", "x, dim=-1, descending=False, stable=False", "jnp.argsort({x}, axis={dim?}, descending={descending?})", "x.argsort(1, descending=True)", knows="array"),
    Row("unique", "x, sorted=True", "jnp.unique({x})", "i.unique()", when="sorted=True", note=_DYNAMIC, status="changed", knows="array"),
    Row("nonzero", "x, *, as_tuple=False", "jnp.argwhere({x})", "m.nonzero()", when="as_tuple=False", note=_DYNAMIC, status="changed", knows="array"),
    Row("nonzero", "x, *, as_tuple=False", "jnp.nonzero({x})", "m.nonzero(as_tuple=True)[0]", when="as_tuple=True", note=_DYNAMIC, status="changed", result="arrays"),
    Row("bincount", "x, weights=None, minlength=0", "jnp.bincount({x}, minlength={minlength?})", "torch.bincount(k)", when="!weights", note=_DYNAMIC, status="changed"),
    Row("bincount", "x, weights=None, minlength=0", "jnp.bincount({x}, weights={weights} * 1.0, minlength={minlength?})", "torch.bincount(k, a[:, 0])", note=_DYNAMIC, status="changed"),
    Row("searchsorted", "sorted_sequence, input", "jnp.searchsorted({sorted_sequence}, {input})", "torch.searchsorted(torch.arange(3.0), v)", when="sorted_sequence.rank=1", form="function"),
    # Of rows of numbers, or of one for all; a single number that is looked up is refused when it runs.
    Row("searchsorted", "sorted_sequence, input, *, right=False", 'jnp.vectorize(jnp.searchsorted, signature="(n),(m)->(m)")({sorted_sequence}, {input})', "torch.searchsorted(x.sort()[0], y)", when="right=False", form="function"),
    Row("searchsorted", "sorted_sequence, input, *, right=False", 'jnp.vectorize(lambda _s, _v: jnp.searchsorted(_s, _v, side="right"), signature="(n),(m)->(m)")({sorted_sequence}, {input})', "torch.searchsorted(x.sort()[0], y, right=True)", when="right=True", form="function"),
    Row("allclose", "x, other, rtol=1e-05, atol=1e-08", "jnp.allclose({x}, {other}, rtol={rtol?}, atol={atol?})", "torch.allclose(x, y)", result="bool"),
    Row("isclose", "x, other, rtol=1e-05, atol=1e-08", "jnp.isclose({x}, {other}, rtol={rtol?}, atol={atol?})", "torch.isclose(x, y)"),
    Row("equal", "x, other", "jnp.array_equal({x}, {other})", "torch.equal(x, y)", form="both", result="bool"),
)
