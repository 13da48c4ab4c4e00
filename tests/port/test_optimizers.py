"""A package's own optimizers: refused as a whole, with what there is instead."""

import pytest

from jaxnn.port import port_source
from jaxnn.port.optimizers import remedy

TEXT = '''
import math

import torch
from torch.optim import AdamW
from torch.optim.optimizer import Optimizer


def _moved(p, exp_avg, grad, lr, betas):
    p.add_(torch.sign(exp_avg.lerp(grad, 1 - betas[0])), alpha=-lr)
    torch._foreach_add_([exp_avg], [grad])


def lion(params, grads, **options):
    for p, grad in zip(params, grads):
        _moved(p, torch.zeros_like(p), grad, **options)


def cosine(step, total):
    return 0.5 * (1 + torch.cos(torch.tensor(math.pi * step / total)))


def schedule(total):
    return [cosine(step, total) for step in range(total)]


class Lion(Optimizer):
    """Lion."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99)):
        super().__init__(params, dict(lr=lr, betas=betas))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
                p.data.mul_(1 - group["lr"] * cosine(1, 2))
                lion([p], [p.grad], lr=group["lr"], betas=group["betas"])


class Careful(Lion):
    pass


class Named(AdamW):
    """One of torch's under another name."""


def make(model):
    return Named(model.parameters(), lr=1e-3)
'''


def test_one_place_says_what_there_is_instead():
    ported = port_source(TEXT, "lion.py")
    refused = [site for site in ported.sites if not site.decided]
    assert [site.name for site in refused] == ["class Lion", "class Careful"], refused
    assert "nn.optim.Optimizer(model, optax.lion(...))" in refused[0].why
    assert {site.status for site in ported.sites if site.name.startswith("torch.cos")} == {
        "exact"
    }  # used elsewhere too: listed


def test_the_file_imports_and_only_making_one_fails():
    import jaxnn as nn

    space: dict = {}
    exec(port_source(TEXT, "lion.py").text, space)
    model = nn.Linear(2, 1)
    for name in ("Lion", "Careful"):
        with pytest.raises(
            NotImplementedError, match=r"Lion .*lion.py:\d+\): use nn.optim.Optimizer\(model, optax.lion"
        ):
            space[name](model.parameters())
    assert isinstance(space["make"](model), nn.optim.AdamW)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("AdamWLegacy", "nn.optim.AdamW"), ("NAdam", "nn.optim.NAdam"), ("Lamb", "optax.lamb"), ("NvNovoGrad", "optax.novograd"),
        ("Prodigy", "optax.contrib.prodigy"), ("AdamWScheduleFree", "optax.contrib.schedule_free_adamw"),
        ("SGDW", "optax.sgd"), ("Kron", "as an optax transformation"), ("AdamP", "as an optax transformation"),
        ("Optimizers", "as an optax transformation"),
    ],
)  # fmt: skip
def test_what_is_named_exists(name, instead):
    import optax

    import jaxnn as nn

    said = remedy(name)
    assert instead in said
    if "(...)" in said:
        assert callable(eval(said.removeprefix("nn.optim.Optimizer(model, ").removesuffix("(...))"), {"optax": optax}))
    elif said.startswith("nn.optim.") and "," not in said:
        assert callable(eval(said, {"nn": nn}))
