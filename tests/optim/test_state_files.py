"""Every optimizer's state through files, ours into torch and torch's into ours, and on from there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnn as nn

torch = pytest.importorskip("torch")

RNG = np.random.RandomState(4)
W, X = RNG.randn(3, 5).astype(np.float32), RNG.randn(7, 5).astype(np.float32)
# without SparseAdam: torch's takes sparse gradients only
KINDS = {
    "SGD": dict(lr=0.1, momentum=0.9, dampening=0.2),
    "Adam": dict(amsgrad=True),
    "AdamW": dict(betas=(0.8, 0.99)),
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
    "Adadelta": {},
    "Adagrad": dict(lr_decay=0.1),
    "ASGD": dict(t0=2),
    "Rprop": {},
    "RMSprop": dict(centered=True, momentum=0.5),
    "Adafactor": {},
    "Muon": {},
    "LBFGS": dict(max_iter=3, history_size=4, lr=0.3),
}


class Model(nn.Module):
    def __init__(self, weight=W):
        super().__init__()
        self.w = nn.Parameter(weight)

    def forward(self, x):
        return ((x @ self.w.T) ** 2).mean()


def their_steps(kind, weight, optimizer, count):
    x = torch.tensor(X)

    def closure():
        optimizer.zero_grad()
        loss = ((x @ weight.T) ** 2).mean()
        loss.backward()
        return loss.detach()

    for _ in range(count):
        optimizer.step(closure)


def our_steps(model, optimizer, count):
    for _ in range(count):
        optimizer.step(model, lambda m: m(X))


def close(ours, theirs, kind):
    # Muon computes in bfloat16, whose products the two libraries round each in its own order
    rtol = 2e-3 if kind == "Muon" else 2e-5
    np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), rtol=rtol, atol=rtol / 10)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("kind", KINDS)
def test_through_files_both_ways(kind, tmp_path):
    options = KINDS[kind]
    model, weight = Model(), torch.nn.Parameter(torch.tensor(W))
    ours = getattr(nn.optim, kind)(model, **options)
    theirs = getattr(torch.optim, kind)([weight], **options)
    our_steps(model, ours, 3)
    their_steps(kind, weight, theirs, 3)
    nn.save({"w": model.w, "optimizer": ours.state_dict()}, tmp_path / "ours.pt")
    torch.save({"w": weight.detach(), "optimizer": theirs.state_dict()}, tmp_path / "theirs.pt")

    read = torch.load(tmp_path / "ours.pt", weights_only=True)
    new_weight = torch.nn.Parameter(read["w"])
    new_theirs = getattr(torch.optim, kind)([new_weight])
    new_theirs.load_state_dict(read["optimizer"])
    read = nn.load(tmp_path / "theirs.pt")
    new_model = Model(jnp.asarray(read["w"]))
    new_ours = getattr(nn.optim, kind)(new_model)
    new_ours.load_state_dict(read["optimizer"])
    new_model.w = jnp.asarray(read["w"])

    our_steps(model, ours, 3)
    our_steps(new_model, new_ours, 3)
    their_steps(kind, weight, theirs, 3)
    their_steps(kind, new_weight, new_theirs, 3)
    for found in (model.w, new_model.w):
        close(found, weight, kind)
    close(model.w, new_weight, kind)
    for name in options:
        assert new_ours.param_groups[0][name] == pytest.approx(theirs.param_groups[0][name])
    assert all(isinstance(leaf, (jax.Array, int, float)) for leaf in jax.tree.leaves(ours.state_dict()["state"]))
