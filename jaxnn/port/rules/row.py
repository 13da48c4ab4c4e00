"""The format of a row: one torch operation and the text that stands for it in JAX."""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass
from typing import Literal

Status = Literal["exact", "helper", "changed", "cannot"]
Form = Literal["function", "method", "both", "attribute"]

_PLACE = re.compile(r"\{(\w+)(?::(\w+))?(\??)\}")


@dataclass(frozen=True)
class Row:
    """One form of one torch operation. Rows of an operation are tried in order; the first whose `when` is proved is used.

    Attributes:
        torch: the name below ``torch.``, as ``"cat"`` or ``"linalg.norm"``; for a method or attribute the name after the
            dot. ``"max[0]"`` and ``"max.values"`` are a piece of the result, where the site takes just that piece.
        signature: torch's parameters with their defaults. The first parameter of what is also a method is `x` (it
            answers to ``input=`` as well). ``*sizes`` takes numbers one by one, or one tuple.
        to: the text. ``{name}`` is an argument, its default where it was not given. ``{name?}`` stands in an argument of a
            call, which is left out where torch's call leaves it out (or passes the default). ``{name:axes}``: a list of
            dimensions as a tuple; ``{name:tuple}``: numbers one by one as a tuple. ``{name:index}``: a
            list of arrays as an index. ``{name:ends}``: sizes as the places where one ends. ``{name:kept}``: sizes of which -1 is
            that of `x`. ``T.`` is ``jaxnn.tensor``;
            ``jnp.``, ``jax.``, ``np.``, ``nn.``, ``F.`` are imported where used.
        example: torch's call, on the names of `rules.EXAMPLES` (statements before it end with a semicolon): executed by the
            tests against its port.
        when: conditions, with commas between them; all must be *proved*. ``dim``: it was given (not just as its
            default). ``!dim``: it was not. ``dim=-1``: it is this literal. ``dim:int``, ``other:array``, ``shape:ints``,
            ``dtype:dtype``, ``other:number``: what it is. ``sizes:sizes``: a list or tuple of numbers. ``data:items``: a list, a tuple or an array. ``size:counts``: what torch's old constructors take for sizes. ``size:whole``: an integer whose text may stand twice. ``x:shaped``: the shape is that of a plain name. ``x:fresh``: computed here, no other name can reach it. ``x:simple``: a plain name, which may be written twice.
            ``x.rank=2``, ``x.floating=True``: what is known of it. ``value:infinite``: a number for floating arrays alone. ``use:unpack``: the result is assigned to several names. ``use:statement``: it is not used.
            ``use:pieces``: its items alone are used. ``use:positional``: it is called at once, without keywords. ``size:kept``, ``name:sections``: for the formats above.
        form: where torch has it: ``torch.NAME(x)``, ``x.NAME()``, both, or ``x.NAME``.
        result: what the result is: ``array``, ``x`` (as `x`), ``int``, ``float``, ``bool``, ``shape``, ``arrays`` (a tuple
            of arrays), ``dtype``, ``str``, ``list``, ``none``, ``number``, ``unknown``. ``array+1``, ``array-1``, ``array=2``: its rank beside that of
            `x`, or as such. ``array@view``: it may share memory with `x` in torch.
        knows: what must be known of `x` for the method to be torch's: ``name`` (nothing: no other common type has a method
            of this name), ``array`` (str, dict, ndarray, Module... have one too) or ``any`` (whatever it is, the text is right).
        status: ``exact``; ``helper``: the text calls `jaxnn.tensor`; ``changed``: numbers or types may differ as `note` says;
            ``cannot``: there is no counterpart, `note` says what to do.
        note: one sentence for the report and for docs/porting.md.
        drops: parameters that have no meaning in JAX and are left out (device=, requires_grad= ... always are).
        also: other names of the same operation in torch.
    """

    torch: str
    signature: str
    to: str
    example: str
    when: str = ""
    form: Form = "both"
    result: str = "array"
    knows: Literal["name", "array", "any"] = "name"
    status: Status = "exact"
    note: str = ""
    drops: str = ""
    also: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.torch, *self.also.split())

    @functools.cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        return _parameters(self.signature)

    @functools.cached_property
    def conditions(self) -> tuple[str, ...]:
        return tuple(condition.strip() for condition in self.when.split(",") if condition.strip())

    @functools.cached_property
    def template(self) -> Template:
        return Template(self.to)


@dataclass(frozen=True)
class Parameter:
    """One of a row's parameters; `default` is the text of its default, None where it must be given."""

    name: str
    default: str | None
    kind: Literal["positional", "varargs", "keyword"]


def _parameters(signature: str) -> tuple[Parameter, ...]:
    arguments = ast.parse(f"def f({signature}): ...").body[0].args  # type: ignore[attr-defined]
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + [ast.unparse(d) for d in arguments.defaults]
    found = [Parameter(a.arg, default, "positional") for a, default in zip(positional, defaults)]
    if arguments.vararg:
        found.append(Parameter(arguments.vararg.arg, None, "varargs"))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        found.append(Parameter(argument.arg, None if default is None else ast.unparse(default), "keyword"))
    return tuple(found)


@dataclass(frozen=True)
class Place:
    """A placeholder of a template."""

    name: str
    format: str | None
    optional: bool


class Template:
    """A row's text, parsed: an expression in which placeholders are names."""

    def __init__(self, text: str) -> None:
        self.places: dict[str, Place] = {}
        self.text = _PLACE.sub(self._placed, text)
        self.node = ast.parse(self.text, mode="eval").body

    def _placed(self, match: re.Match[str]) -> str:
        name = f"_p{len(self.places)}_"
        self.places[name] = Place(match[1], match[2], bool(match[3]))
        return name
