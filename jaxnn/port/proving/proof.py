"""What a proof found: one line for each part of the contract, and the rewritten places that it executed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# In the order of the report. A proof holds when the first four and the outputs hold, and none of the others differs or fails.
CONTRACT = {
    "reference": "the original runs under PyTorch",
    "import": "the port imports without torch",
    "build": "it builds",
    "keys": "state_dict keys, shapes, dtypes, requires_grad",
    "options": "the options of every layer",
    "weights": "the weights that a seed gives",
    "forward": "outputs",
    "gradients": "gradients of parameters and inputs",
    "jit": "outputs under nn.jit",
    "training": "outputs in training mode, without dropout",
    "training gradients": "gradients in training mode",
    "training jit": "training mode under nn.jit",
    "state": "buffers after a step in training mode",
    "jit state": "the same under nn.jit",
}
_NEEDED = ("reference", "import", "build", "keys")
_RANDOM = "the original gives other numbers at each call"


@dataclass
class Check:
    """One part of the contract."""

    status: Literal["held", "differs", "failed", "skipped"]
    text: str = ""
    error: float | None = None


@dataclass
class Proof:
    """What `prove` found.

    Attributes:
        checks: by the names of `CONTRACT`.
        executed: the rewritten places that ran, "file:line".
        unexecuted: those that did not.
        notes: what the proof could not look at.
    """

    checks: dict[str, Check] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    unexecuted: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether the port is what the original is, as far as it was run."""
        needed = all(name in self.checks and self.checks[name].status == "held" for name in _NEEDED)
        forward = self.checks.get("forward")
        ran = forward is not None and (forward.status == "held" or forward.text == _RANDOM)
        return needed and ran and all(check.status in ("held", "skipped") for check in self.checks.values())

    def text(self) -> str:
        """The report."""
        lines = []
        for name, meaning in CONTRACT.items():
            if name in self.checks:
                check = self.checks[name]
                worst = f", largest error {check.error:.1e}" if check.error is not None else ""
                lines.append(f"{check.status:8} {meaning}{worst}" + (f": {check.text}" if check.text else ""))
        total = len(self.executed) + len(self.unexecuted)
        if total:
            lines.append(f"{len(self.executed)} of {total} rewritten places were executed")
            lines += [f"  not executed: {place}" for place in self.unexecuted]
        return "\n".join([*lines, *self.notes, "The proof holds." if self.held else "The proof FAILS."])

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self) | {"held": self.held}
