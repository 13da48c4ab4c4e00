"""A small ResNet trained as CIFAR scripts do it, on scikit-learn's handwritten digits (1,797 real images of 8 x 8).

    pip install "jaxnn-torch[examples]"
    python examples/cifar_style.py --out out/cifar_style

A loader whose workers shift and erase, OneCycleLR over AdamW in two groups, bfloat16 autocast, clipping, an average of
the weights, and TensorBoard's curves (`tensorboard --logdir out/cifar_style`). Ends at 98 % or more on the held-out fifth,
by the averaged weights. Each epoch writes checkpoint.pt, which PyTorch reads; ``--resume`` goes on from it and takes the
same steps. curves.png is the picture of the run.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import options as command_line

import jaxnn as nn
import jaxnn.functional as F
from jaxnn.optim.lr_scheduler import OneCycleLR
from jaxnn.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from jaxnn.utils.data import DataLoader, Dataset, get_worker_info

GOAL = 0.98


class Digits(Dataset):
    """The images, which a training set shifts by up to a pixel and erases a square of, anew each time."""

    def __init__(self, images, labels, augment=False, seed=0):
        self.images, self.labels, self.augment = images, labels, augment
        self.rng = np.random.default_rng(seed)  # of a loader without workers

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image, label = self.images[index], self.labels[index]
        if self.augment:
            worker = get_worker_info()
            image = shift_and_erase(image, self.rng if worker is None else worker.rng.numpy_generator)
        return image, label


def shift_and_erase(image, rng):
    """A copy, shifted by -1, 0 or 1 pixels each way; in half of the cases with a square of 2 x 2 erased."""
    down, right = rng.integers(0, 3, 2)
    image = np.pad(image, ((0, 0), (1, 1), (1, 1)))[:, down : down + 8, right : right + 8].copy()
    if rng.random() < 0.5:
        top, left = rng.integers(0, 7, 2)
        image[:, top : top + 2, left : left + 2] = 0
    return image


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, three stages, the mean over the image, and a linear head."""

    def __init__(self, width=16, classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(
            Residual(width, width), Residual(width, 2 * width, 2), Residual(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x):
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


@nn.jit(static_argnames="autocast")
def train_step(model, optimizer, scheduler, ema, x, y, autocast):
    """One step; returns the loss and the number of right answers."""

    def loss_fn(model):
        with nn.amp.autocast(dtype=jnp.bfloat16, enabled=autocast):
            logits = model(x)
        return F.cross_entropy(logits.astype(jnp.float32), y, label_smoothing=0.1), (logits.argmax(1) == y).sum()

    (loss, right), grads = nn.value_and_grad(loss_fn, has_aux=True)(model)
    grads, _ = nn.utils.clip_grad_norm_(grads, 1.0)
    optimizer.step(model, grads)
    scheduler.step()
    ema.update_parameters(model)
    return loss, right


@nn.jit
def predict(model, x):
    """The probability of each digit, for each image."""
    return F.softmax(model(x), dim=1)


def load_data(seed):
    """Two datasets, one to train on and one that is held out: images in [0, 1] as float32 NCHW, split four to one."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    order = np.random.RandomState(seed).permutation(len(images))
    images, labels = images[order], digits.target[order].astype(np.int32)
    held_out = len(images) // 5
    return Digits(images[held_out:], labels[held_out:], True, seed), Digits(images[:held_out], labels[:held_out])


def build(options, steps):
    """All that a run changes, by name: it is what a checkpoint holds."""
    nn.manual_seed(options.seed)
    model = ResNet()
    decay = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = nn.optim.AdamW(groups, lr=options.lr)
    scheduler = OneCycleLR(optimizer, max_lr=options.lr, total_steps=steps)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.97)).eval()
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "ema": ema}


def train(parts, data, options, history, writer):
    """Train from the epoch that `history` has got to; a checkpoint after each."""
    from tqdm import tqdm

    training, held_out = data
    for epoch in range(len(history["held_out"]), options.epochs):
        seed = options.seed + 1000 * epoch  # the same batches and the same augmentation after a stop
        training.rng, generator = np.random.default_rng(seed), nn.Generator().manual_seed(seed)
        common = {"batch_size": options.batch, "num_workers": options.workers, "generator": generator}
        loader = DataLoader(training, shuffle=True, drop_last=True, **common)
        parts["model"].train()
        for x, y in tqdm(loader, desc=f"epoch {epoch + 1}", unit="step", disable=None):
            history["rates"].append(float(parts["scheduler"].get_last_lr()[0]))
            loss, right = train_step(*parts.values(), x, y, autocast=options.autocast)
            history["losses"].append(float(loss))
            step = len(history["losses"])
            writer.add_scalar("train/loss", history["losses"][-1], step)
            writer.add_scalar("train/accuracy", int(right) / options.batch, step)
            writer.add_scalar("train/lr", history["rates"][-1], step)
        update_bn(DataLoader(training, **common), parts["ema"])
        parts["model"].eval()
        for name, past in (("model", history["plain"]), ("ema", history["held_out"])):
            past.append(float((predict(parts[name], held_out.images).argmax(1) == held_out.labels).mean()))
            writer.add_scalar(f"held out/{name}", past[-1], step)
        state = {name: part.state_dict() for name, part in parts.items()}
        nn.save(state | {"history": history}, options.out / "checkpoint.pt")


def draw(path, history, training, held_out, probabilities):
    """A picture of the curves, of what augmentation makes of one image, and of the least certain held-out images."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure = plt.figure(figsize=(10, 6), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(2.6, 1, 1))
    left, right = top.subplots(1, 2)
    left.plot(history["losses"], lw=0.8)
    left.set(xlabel="step", ylabel="training loss")
    rates = left.twinx()
    rates.plot(history["rates"], color="0.6", lw=0.8)
    rates.set_ylabel("learning rate", color="0.4")
    epochs = np.arange(1, len(history["held_out"]) + 1)
    right.plot(epochs, 100 * np.asarray(history["plain"]), color="0.6", label="last weights")
    right.plot(epochs, 100 * np.asarray(history["held_out"]), marker=".", label="averaged weights")
    right.set(xlabel="epoch", ylabel="held-out accuracy, %", ylim=(80, 100.5))
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(loc="lower right")
    rng, predicted = np.random.default_rng(0), probabilities.argmax(1)
    unsure = np.argsort(probabilities[np.arange(len(held_out)), held_out.labels])[:8]
    first = training.images[0]
    shown = [("as it is", first)] + [("augmented", shift_and_erase(first, rng)) for _ in range(7)]
    said = [f"{held_out.labels[i]}, said {predicted[i]} at {100 * probabilities[i].max():.0f} %" for i in unsure]
    hardest = list(zip(said, held_out.images[unsure]))
    middle.suptitle("an image as the network sees it", fontsize=10)
    wrong = (predicted != held_out.labels).sum()
    bottom.suptitle(f"{wrong} of {len(held_out)} held-out images wrong; the hardest", fontsize=10)
    for row, images in ((middle, shown), (bottom, hardest)):
        axes = row.subplots(1, 8)
        for axis, (title, image) in zip(axes, images):
            axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.set_title(title, fontsize=8)
    figure.savefig(path, dpi=120)


def parse(arguments):
    """The command line, and its parser."""
    parser = command_line.Parser(__doc__)
    number = command_line.number
    parser.add_argument("--seed", type=command_line.seed, default=0, help="of the weights, the split and the batches")
    parser.add_argument("--epochs", type=number(int, 1), default=20, help="times that every training image is seen")
    parser.add_argument("--batch", type=number(int, 2), default=64, help="images in one step")
    parser.add_argument("--lr", type=number(float, 0), default=1e-2, help="the largest learning rate of the cycle")
    parser.add_argument("--workers", type=number(int, 0), default=2, help="threads that fetch and augment")
    parser.add_argument("--no-autocast", dest="autocast", action="store_false", help="compute in float32 throughout")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, with the same options")
    parser.add_argument("--out", type=Path, default=Path("out/cifar_style"), help="folder for all that is written")
    return parser.parse_args(arguments), parser


def main(arguments=None):
    """Train, report, save; exit status 1 when the held-out accuracy is under 98 %."""
    options, parser = parse(arguments)
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
        import tqdm  # noqa: F401
        from tensorboardX import SummaryWriter
    except ImportError as error:
        print(f'{error.name} is missing; this example needs: pip install "jaxnn-torch[examples]"', file=sys.stderr)
        return 2
    checkpoint = options.out / "checkpoint.pt"
    if options.resume and not checkpoint.exists():
        parser.error(f"argument --resume: there is no {checkpoint}")
    data = load_data(options.seed)
    if options.batch > len(data[0]):
        parser.error(f"argument --batch: there are {len(data[0])} training images, fewer than {options.batch}")

    parts = build(options, options.epochs * (len(data[0]) // options.batch))
    history = {"losses": [], "rates": [], "plain": [], "held_out": []}
    if options.resume:
        saved = nn.load(checkpoint)
        history = saved["history"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with SummaryWriter(str(options.out)) as writer:
        train(parts, data, options, history, writer)
    seconds = time.perf_counter() - start

    probabilities = np.asarray(predict(parts["ema"], data[1].images))
    accuracy = float((probabilities.argmax(1) == data[1].labels).mean())
    draw(options.out / "curves.png", history, *data, probabilities)
    print(f"held-out accuracy {100 * accuracy:.2f} % after {options.epochs} epochs in {seconds:.0f} s")
    print(f"wrote {checkpoint} and {options.out / 'curves.png'}")
    return 0 if accuracy >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
