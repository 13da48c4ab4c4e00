"""What holds what: the names that a container keeps, one array in several places, modules and functions that work in place."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jaxnn.port.facts import Fact
from jaxnn.port.source import walk

if TYPE_CHECKING:
    from jaxnn.port.program import Program

_CONTAINERS = {
    "dict",
    "list",
    "tuple",
    "set",
    "frozenset",
    "OrderedDict",
    "defaultdict",
    "deque",
    "namedtuple",
    "zip",
    "iter",
}
_ADDING = {"append", "appendleft", "insert", "add", "extend", "update", "setdefault", "put", "push"}
_OWNING = {"Parameter", "register_buffer", "register_parameter", "setattr"}

# Where `inplace` stands among the arguments, by position.
_MODULES = {
    **dict.fromkeys(("ReLU", "ReLU6", "SiLU", "Mish", "Hardswish", "Hardsigmoid", "SELU"), 0),
    **dict.fromkeys(("LeakyReLU", "ELU", "CELU", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout"), 1),
    **dict.fromkeys(("FeatureAlphaDropout",), 1),
    **dict.fromkeys(("Threshold", "Hardtanh", "RReLU"), 2),
}
_FUNCTIONS = {
    **dict.fromkeys(("relu", "relu6", "silu", "mish", "hardswish", "hardsigmoid", "selu"), 1),
    **dict.fromkeys(("leaky_relu", "elu", "celu"), 2),
    **dict.fromkeys(("threshold", "hardtanh", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"), 3),
    **dict.fromkeys(("feature_alpha_dropout",), 3),
    "rrelu": 4,
}


def last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def works_in_place(call: ast.expr) -> bool:
    """``nn.ReLU(inplace=True)``, ``nn.ReLU(True)``, ``F.relu(x, True)``, or a Sequential that begins with one."""
    if not isinstance(call, ast.Call):
        return False
    name = last_name(call.func)
    if name == "Sequential" and call.args:
        return works_in_place(call.args[0])
    at = _MODULES.get(name, _FUNCTIONS.get(name))
    given = [call.args[at]] if at is not None and at < len(call.args) else []
    given += [k.value for k in call.keywords if k.arg == "inplace"]
    return any(isinstance(one, ast.Constant) and one.value is True for one in given)


def wholly(call: ast.expr) -> bool:
    """Whether what a module that works in place gives is what it was called on; of a Sequential only its first does."""
    return not (isinstance(call, ast.Call) and last_name(call.func) == "Sequential")


def in_place_attributes(program: Program, tree: ast.AST) -> dict[str, bool]:
    """The attributes that a file or class gives a module that works in place; False where only its first part does."""
    found = program.works_in_place.get(id(tree))
    if found is None:
        found = program.works_in_place[id(tree)] = {}
        for node in walk(tree):
            if isinstance(node, ast.Assign) and works_in_place(node.value):
                found |= {t.attr: wholly(node.value) for t in node.targets if isinstance(t, ast.Attribute)}
    return found


_ACTIVATION = re.compile(r"act|relu|elu|drop|nonlin", re.IGNORECASE)


def may_work_in_place(func: ast.expr, fact: Fact) -> bool:
    """Whether what is called may be a module that works in place and that came from elsewhere: a factory, a list, an argument."""
    if fact.kind == "module" and isinstance(fact.of, str):
        return last_name(func) != "forward" and fact.of.rpartition(".")[2] in _MODULES
    if fact.kind not in ("module", "unknown", "sequential") or (fact.kind == "module" and fact.of is not None):
        return False
    if isinstance(func, ast.Subscript):
        return True
    if fact.kind == "module":
        return True
    return (of_self(func) or fact.kind != "unknown") and bool(_ACTIVATION.search(last_name(func)))


def held(value: ast.expr | None) -> list[ast.Name]:
    """The names whose objects stand in a container that is made here."""
    if isinstance(value, (ast.List, ast.Tuple, ast.Set)):
        return [name for one in value.elts for name in _items(one)]
    if isinstance(value, ast.Dict):
        return [name for one in value.values for name in _items(one)]
    if isinstance(value, ast.Call) and last_name(value.func) in _CONTAINERS:
        return [name for one in [*value.args, *(k.value for k in value.keywords)] for name in _items(one)]
    if isinstance(value, ast.BinOp):
        return [*held(value.left), *held(value.right)]
    if isinstance(value, ast.IfExp):
        return [*held(value.body), *held(value.orelse)]
    if isinstance(value, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
        own = {n.id for g in value.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)}
        element = value.value if isinstance(value, ast.DictComp) else value.elt
        return [name for name in _items(element) if name.id not in own]
    return []


def _items(one: ast.expr | None) -> list[ast.Name]:
    if isinstance(one, ast.Starred):
        one = one.value
    if isinstance(one, ast.IfExp):
        return [*_items(one.body), *_items(one.orelse)]
    return [one] if isinstance(one, ast.Name) else held(one)


def repeats(value: ast.expr | None) -> bool:
    """Whether a container that is made here may hold one object several times: ``[t] * 3``, ``(t, t)``, ``[t for _ in r]``."""
    if isinstance(value, ast.BinOp):
        display = (ast.List, ast.Tuple)
        several = isinstance(value.op, ast.Mult) and (
            isinstance(value.left, display) or isinstance(value.right, display)
        )
        return several or repeats(value.left) or repeats(value.right)
    if isinstance(value, (ast.ListComp, ast.DictComp)):
        return bool(held(value))
    if isinstance(value, ast.Call) and last_name(value.func) == "fromkeys":
        return len(value.args) > 1
    names = [name.id for name in held(value)]
    return len(names) > len(set(names))


def put_away(node: ast.AST) -> list[ast.Name]:
    """The names that a node puts into a list, dict, tuple, attribute or default that lives on."""
    if isinstance(node, ast.Assign):
        first, value = node.targets[0], node.value
        found = held(value) if not isinstance(first, ast.Tuple) else []
        if any(isinstance(part, (ast.Attribute, ast.Subscript)) for t in node.targets for part in parts(t)):
            values = value.elts if isinstance(value, ast.Tuple) and isinstance(first, ast.Tuple) else [value]
            found = [*found, *(one for each in values for one in _items(each))]
            found += [t for t in node.targets if isinstance(t, ast.Name)]
        return found
    if isinstance(node, ast.Call):
        given = [*node.args, *(k.value for k in node.keywords)]
        if isinstance(node.func, ast.Attribute) and node.func.attr in _ADDING:
            return [name for one in given for name in _items(one)]
        if last_name(node.func) in _OWNING:
            return [one for one in given if isinstance(one, ast.Name)]
    return []


def parts(target: ast.expr) -> list[ast.expr]:
    """The targets in a target."""
    return [p for e in target.elts for p in parts(e)] if isinstance(target, (ast.Tuple, ast.List)) else [target]


@dataclass
class Attributes:
    """What the attributes of a class share.

    Attributes:
        groups: of each attribute those that may hold its array too, with the line that made them do so.
        repeated: those that may hold one array several times.
        given: those that hold an argument, or a view of one: another object may hold it too.
        of_class: tensors that stand in the class itself, which all instances share.
    """

    groups: dict[str, dict[str, int]] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)
    of_class: set[str] = field(default_factory=set)

    def join(self, one: str, other: str, line: int) -> None:
        if one != other:
            self.groups.setdefault(one, {})[other] = line
            self.groups.setdefault(other, {})[one] = line


def attributes_of(
    classes: Iterable[ast.ClassDef],
    elsewhere: Iterable[ast.ClassDef],
    origins: Callable[[ast.expr], list[tuple[str, str]]],
    is_array: Callable[[ast.AST], bool],
) -> Attributes:
    """What the classes say whose methods one instance may run.

    Args:
        classes: those of the file at hand.
        elsewhere: those of other files: what they share has line 0.
        origins: where a value's numbers come from, as `Scopes._origins` says it.
        is_array: whether an expression is a tensor.
    """
    found = Attributes()
    owned: set[str] = set()  # parameters: jaxnn ties them
    for node, here in (*((node, True) for node in classes), *((node, False) for node in elsewhere)):
        for statement in node.body:
            if isinstance(statement, ast.Assign) and is_array(statement.value):
                found.of_class |= {t.id for t in statement.targets if isinstance(t, ast.Name)}
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                _of_method(statement, found, owned, origins, is_array, here)
    found.groups = {name: others for name, others in found.groups.items() if name not in owned}
    return found


def _of_method(
    method: ast.FunctionDef | ast.AsyncFunctionDef,
    found: Attributes,
    owned: set[str],
    origins: Callable[[ast.expr], list[tuple[str, str]]],
    is_array: Callable[[ast.AST], bool],
    here: bool,
) -> None:
    holders: dict[str, list[tuple[str, int]]] = {}  # a local name's attributes
    behind: dict[str, str] = {}  # a local name that is an attribute's
    arguments = {argument.arg for argument in method.args.args}
    for node in walk(method):
        for name, value, at in _attributes_set(node):
            line = at if here else 0
            if isinstance(value, ast.Call) and last_name(value.func) in ("Parameter", "register_parameter"):
                owned.add(name)
            if repeats(value):
                found.repeated.add(name)
            if not is_array(value):
                continue
            for how, of in origins(value):
                of = behind.get(of, of)
                if of.startswith("self.") and of.count(".") == 1:
                    found.join(name, of[5:], line)
                elif how in ("same", "view"):
                    if of in arguments:
                        found.given.add(name)
                    for other, _ in holders.get(of, ()):
                        found.join(name, other, line)
                    holders.setdefault(of, []).append((name, line))
        if isinstance(node, ast.Assign) and len(node.targets) > 1 and is_array(node.value):  # self.a = self.b = t
            several = [t.attr for t in node.targets if of_self(t)]  # type: ignore[attr-defined]
            for other in several[1:]:
                found.join(several[0], other, node.lineno if here else 0)
            for target in node.targets:
                if isinstance(target, ast.Name) and several:
                    holders[target.id] = [(several[0], node.lineno if here else 0)]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            holders.pop(name, None)
            if is_array(node.value):
                for how, of in origins(node.value):
                    if how == "attribute":
                        behind[name] = of


def _attributes_set(node: ast.AST) -> list[tuple[str, ast.expr, int]]:
    """The attributes of self that a node sets, and to what."""
    found: list[tuple[str, ast.expr, int]] = []
    if isinstance(node, ast.Assign):
        for target in node.targets:
            values: list[ast.expr] = [node.value] * len(parts(target))
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                values = node.value.elts if len(node.value.elts) == len(target.elts) else values
            found += [(p.attr, v, node.lineno) for p, v in zip(parts(target), values) if of_self(p)]  # type: ignore[union-attr]
    elif isinstance(node, ast.Call) and last_name(node.func) == "register_buffer" and len(node.args) > 1:
        if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            found.append((node.args[0].value, node.args[1], node.lineno))
    return found


def of_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
