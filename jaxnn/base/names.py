"""What ``dir`` shows of a package: its public names, without those of the files that they come from."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def public_names(namespace: dict[str, Any], *modules: str) -> list[str]:
    """The public names in a package's `namespace` that are the package's own, sorted.

    Args:
        namespace: the package's ``globals()``.
        modules: the modules in it that are public too.
    """

    def is_ours(value: Any) -> bool:
        home = getattr(value, "__module__", None) or type(value).__module__
        return not isinstance(value, ModuleType) and home.partition(".")[0] == "jaxnn"

    own = (name for name, value in namespace.items() if not name.startswith("_") and is_ours(value))
    return sorted({*own, *modules})
