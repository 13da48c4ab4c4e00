"""A small CNN on scikit-learn's handwritten digits (1,797 real images of 8 x 8), from images to a picture of mistakes.

    pip install "jaxnn-torch[examples]"
    python examples/digits.py --seed 0 --out out/digits

Trains on four fifths, shows loss and accuracy as it goes, ends at 98 % or more on the held-out fifth, and writes
a checkpoint (model.safetensors, in PyTorch's names) and curves.png under --out.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import options as command_line

import jaxnn as nn
import jaxnn.functional as F


class DigitsNet(nn.Module):
    """Two convolutions with BatchNorm, pooling, dropout, and a linear head: torch's own lines, torch's own names.

    SiLU and average pooling have no kinks: a rounding error stays one, so that the curve of a run can be laid over
    PyTorch's (with ReLU and max pooling, PyTorch's own float32 leaves its own float64 after some thirty steps).
    """

    def __init__(self, dropout: float = 0.25):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(64)
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(64 * 2 * 2, 10)

    def forward(self, x):
        x = self.pool(F.silu(self.bn1(self.conv1(x))))
        x = self.pool(F.silu(self.bn2(self.conv2(x))))
        return self.fc(self.dropout(x.reshape(x.shape[0], -1)))


@nn.jit
def train_step(model, optimizer, x, y):
    """One step; returns the loss and the number of right answers."""

    def loss_fn(model):
        logits = model(x)
        return F.cross_entropy(logits, y), (logits.argmax(1) == y).sum()

    (loss, right), grads = nn.value_and_grad(loss_fn, has_aux=True)(model)
    optimizer.step(model, grads)
    return loss, right


@nn.jit
def predict(model, x):
    """The digit of each image."""
    return model(x).argmax(1)


def load_data(seed: int):
    """The images in [0, 1] as float32 NCHW, shuffled and split four to one."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    labels = digits.target.astype(np.int32)
    order = np.random.RandomState(seed).permutation(len(labels))
    images, labels = images[order], labels[order]
    held_out = len(labels) // 5
    return (images[held_out:], labels[held_out:]), (images[:held_out], labels[:held_out])


def train(model, optimizer, data, test, epochs: int, batch: int, seed: int):
    """Train with a progress bar; returns the loss and accuracy of every step and the test accuracy of every epoch."""
    from tqdm import tqdm

    images, labels = data
    rng = np.random.RandomState(seed)
    steps = len(labels) // batch
    losses, accuracies, tested = [], [], []
    bar = tqdm(total=epochs * steps, unit="step", disable=None)
    for _ in range(epochs):
        model.train()
        order = rng.permutation(len(labels))
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            loss, right = train_step(model, optimizer, images[chosen], labels[chosen])
            losses.append(float(loss))
            accuracies.append(int(right) / batch)
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}", accuracy=f"{np.mean(accuracies[-steps:]):.3f}")
        model.eval()
        tested.append(float((np.asarray(predict(model, test[0])) == test[1]).mean()))
    bar.close()
    return losses, accuracies, tested


def confusion_table(predicted, labels) -> str:
    """Rows are true digits, columns the answers."""
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, predicted), 1)
    lines = ["true\\said " + " ".join(f"{digit:4d}" for digit in range(10))]
    lines += [f"{digit:9d} " + " ".join(f"{n:4d}" if n else "   ." for n in row) for digit, row in enumerate(counts)]
    return "\n".join(lines)


def draw(path: Path, losses, tested, images, labels, predicted) -> None:
    """A picture of the curves, and of some of the mistakes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    wrong = np.flatnonzero(predicted != labels)[:8]
    figure = plt.figure(figsize=(10, 5.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(2, 1))
    left, right = top.subplots(1, 2)
    left.semilogy(losses, lw=0.8)
    left.set(xlabel="step", ylabel="training loss")
    right.plot(np.arange(1, len(tested) + 1), 100 * np.asarray(tested), marker=".")
    right.set(xlabel="epoch", ylabel="held-out accuracy, %")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.axhline(98, color="0.7", lw=0.8)
    bottom.suptitle(f"{(predicted != labels).sum()} of {len(labels)} held-out images wrong", fontsize=10)
    axes = bottom.subplots(1, 8)
    for axis in axes:
        axis.axis("off")
    for axis, index in zip(axes, wrong):
        axis.imshow(images[index, 0], cmap="gray_r")
        axis.set_title(f"{labels[index]}, said {predicted[index]}", fontsize=8)
    figure.savefig(path, dpi=120)


def parse(arguments: list[str] | None):
    """The command line, and its parser."""
    parser = command_line.Parser(__doc__)
    number = command_line.number
    parser.add_argument("--seed", type=command_line.seed, default=0, help="of the weights, the split and the batches")
    parser.add_argument("--epochs", type=number(int, 1), default=20, help="times that every training image is seen")
    parser.add_argument("--batch", type=number(int, 2), default=64, help="images in one step")
    parser.add_argument("--device", default=None, help="cpu, gpu or tpu; jax's default otherwise")
    parser.add_argument("--out", type=Path, default=Path("out/digits"), help="folder for checkpoint and picture")
    return parser.parse_args(arguments), parser


def main(arguments: list[str] | None = None) -> int:
    """Train, report, save; exit status 1 when the held-out accuracy is under 98 %."""
    options, parser = parse(arguments)
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
        import tqdm  # noqa: F401
    except ImportError as error:
        print(f'{error.name} is missing; this example needs: pip install "jaxnn-torch[examples]"', file=sys.stderr)
        return 2
    if options.device:
        try:
            jax.config.update("jax_default_device", jax.devices(options.device)[0])
        except RuntimeError:
            known = sorted({device.platform for device in jax.devices()})
            print(f"--device {options.device}: not here; jax finds {', '.join(known)}", file=sys.stderr)
            return 2

    data, test = load_data(options.seed)
    if options.batch > len(data[1]):
        parser.error(f"argument --batch: there are {len(data[1])} training images, fewer than {options.batch}")
    nn.manual_seed(options.seed)
    model = DigitsNet()
    optimizer = nn.optim.Adam(model, lr=2e-3)
    start = time.perf_counter()
    losses, _, tested = train(model, optimizer, data, test, options.epochs, options.batch, options.seed)
    seconds = time.perf_counter() - start

    predicted = np.asarray(predict(model.eval(), jnp.asarray(test[0])))
    accuracy = float((predicted == test[1]).mean())
    print(confusion_table(predicted, test[1]))
    options.out.mkdir(parents=True, exist_ok=True)
    nn.save(model.state_dict(), options.out / "model.safetensors")
    draw(options.out / "curves.png", losses, tested, test[0], test[1], predicted)
    print(f"held-out accuracy {100 * accuracy:.2f} % after {options.epochs} epochs in {seconds:.0f} s")
    print(f"wrote {options.out / 'model.safetensors'} and {options.out / 'curves.png'}")
    return 0 if accuracy >= 0.98 else 1


if __name__ == "__main__":
    sys.exit(main())
