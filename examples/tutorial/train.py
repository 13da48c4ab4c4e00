"""A classifier of handwritten digits with all that a training script has: groups, schedules, averages, checkpoints.

docs/training_script.md shows this script in PyTorch and in jaxnn, line by line.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from tensorboardX import SummaryWriter

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.optim import AdamW
from jaxnn.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from jaxnn.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from jaxnn.utils.data import DataLoader, Dataset, random_split

DEVICE = jax.default_backend()
ACCUMULATE = 2


class Digits(Dataset):
    """scikit-learn's 1,797 images of 8 x 8, in [0, 1]."""

    def __init__(self):
        digits = load_digits()
        self.images = (digits.images[:, None] / 16).astype(np.float32)
        self.labels = digits.target.astype(np.int64)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


class Block(nn.Module):
    """A convolution, its normalization and its activation."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Net(nn.Module):
    """Three blocks and a linear head."""

    def __init__(self, width=8, classes=10):
        super().__init__()
        self.stem = Block(1, width)
        self.body = nn.Sequential(
            Block(width, 2 * width), nn.AvgPool2d(2), Block(2 * width, 2 * width), nn.AvgPool2d(2)
        )
        self.head = nn.Linear(2 * width * 4, classes)
        self.apply(self._init)

    @staticmethod
    def _init(module):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def forward(self, x):
        x = self.body(self.stem(x))
        x = x.reshape(x.shape[0], -1)
        return self.head(x)


class EarlyStopping:
    """Says when an accuracy has not grown for `patience` epochs."""

    def __init__(self, patience):
        self.patience, self.best, self.bad = patience, 0.0, 0

    def __call__(self, accuracy):
        self.bad = 0 if accuracy > self.best else self.bad + 1
        self.best = max(self.best, accuracy)
        return self.bad >= self.patience


def groups(model, weight_decay):
    """Weights decay, biases and normalizations do not; what is frozen is left out."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = [p for p in trained if p.ndim > 1]
    rest = [p for p in trained if p.ndim <= 1]
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


@nn.jit
def train_step(model, optimizer, scheduler, scaler, ema, x, y):
    """One update from ACCUMULATE parts of a batch; returns the loss and the gradients' norm."""
    total, grads = 0.0, {}

    def loss_fn(model, part, target):
        with nn.amp.autocast(DEVICE, dtype=jnp.bfloat16, enabled=model.amp):
            loss = F.cross_entropy(model(part), target, label_smoothing=0.1) / ACCUMULATE
        return scaler.scale(loss), loss

    for part, target in zip(jnp.split(x, ACCUMULATE), jnp.split(y, ACCUMULATE)):
        (_, loss), new = nn.value_and_grad(loss_fn, has_aux=True)(model, part, target)
        grads = {name: grads.get(name, 0.0) + gradient for name, gradient in new.items()}
        total += loss
    grads = scaler.unscale_(optimizer, grads)
    grads, norm = nn.utils.clip_grad_norm_(grads, 1.0)
    scaler.step(optimizer, model, grads)
    scaler.update()
    scheduler.step()
    ema.update_parameters(model)
    return total, norm


@nn.no_grad()
def evaluate(model, loader):
    """The part of a loader's images that are recognised."""
    model.eval()
    right = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    return right / len(loader.dataset)


def main(arguments=None):
    """Train, and return the losses of all steps and the accuracies of all epochs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--patience", type=int, default=4)
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--freeze", action="store_true", help="the first block keeps its weights")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/tutorial"))
    args = parser.parse_args(arguments)

    nn.manual_seed(0)
    data = Digits()
    train_set, val_set = random_split(data, [len(data) - 261, 261])
    train_loader = DataLoader(train_set, batch_size=args.batch, shuffle=True, drop_last=True)
    val_loader = DataLoader(val_set, batch_size=args.batch)

    model = Net().to(DEVICE)
    model.amp = args.amp
    if args.freeze:
        for parameter in model.stem.parameters():
            parameter.requires_grad = False
    optimizer = AdamW(groups(model, args.weight_decay), lr=args.lr)
    steps = args.epochs * len(train_loader)
    warmup = LinearLR(optimizer, start_factor=0.1, total_iters=steps // 10)
    cosine = CosineAnnealingLR(optimizer, T_max=steps - steps // 10)
    scheduler = SequentialLR(optimizer, [warmup, cosine], milestones=[steps // 10])
    scaler = nn.amp.GradScaler(DEVICE, enabled=args.amp and DEVICE == "gpu")
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95)).eval()
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "ema": ema}
    stopping, first, losses, accuracies = EarlyStopping(args.patience), 0, [], []
    if args.resume:
        checkpoint = nn.load(args.resume)
        for name, part in parts.items():
            part.load_state_dict(checkpoint[name])
        first = checkpoint["epoch"] + 1

    with SummaryWriter(str(args.out)) as writer:
        for epoch in range(first, args.epochs):
            model.train()
            for x, y in train_loader:
                loss, norm = train_step(model, optimizer, scheduler, scaler, ema, x, y)
                losses.append(loss.item())
                writer.add_scalar("loss", losses[-1], len(losses))
                writer.add_scalar("norm", norm, len(losses))
            update_bn(train_loader, ema, device=DEVICE)
            accuracies.append(evaluate(ema, val_loader))
            writer.add_scalar("accuracy", accuracies[-1], epoch)
            writer.add_histogram("head", model.head.weight, epoch)
            state = {name: part.state_dict() for name, part in parts.items()}
            nn.save(state | {"epoch": epoch}, args.out / "checkpoint.pt")
            print(
                f"epoch {epoch}: loss {losses[-1]:.4f}, lr {scheduler.get_last_lr()[0]:.5f}, right {accuracies[-1]:.3f}"
            )
            if stopping(accuracies[-1]):
                break
    return losses, accuracies


if __name__ == "__main__":
    main()
