"""A small GPT that learns, character by character, to write like Python's documentation and licence.

    pip install "jaxnn-torch[examples]"
    python examples/gpt.py --seed 0 --out out/gpt

The text is on every machine: the docstrings of Python's standard library, and its licence. The run shows loss and
characters per second, ends with text of its own, and writes curves.png and checkpoint.pt (which PyTorch reads)
under --out. ``--resume`` goes on from the checkpoint and takes the same steps, bit for bit.
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys
import sysconfig
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import options as command_line

import jaxnn as nn
import jaxnn.functional as F


class Block(nn.Module):
    """Causal attention and an MLP, each beside the residual stream."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.p = heads, dropout
        self.ln_1 = nn.LayerNorm(width)
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def attention(self, x):
        batch, length, width = x.shape
        q, k, v = self.c_attn(x).reshape(batch, length, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0, is_causal=True)
        return self.c_proj(y.swapaxes(1, 2).reshape(batch, length, width))

    def forward(self, x):
        x = x + self.dropout(self.attention(self.ln_1(x)))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class GPT(nn.Module):
    """Character numbers (batch, length) to logits (batch, length, characters); `context` is the greatest length."""

    def __init__(self, characters: int, context: int, width: int, heads: int, layers: int, dropout: float, scan: bool):
        super().__init__()
        self.context, self.scan = context, scan
        self.wte = nn.Embedding(characters, width)
        self.wpe = nn.Embedding(context, width)
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters, bias=False)
        self.head.weight = self.wte.weight
        for name, parameter in self.named_parameters():
            if name.startswith(("wte", "wpe")):
                nn.init.normal_(parameter, std=0.1)  # as small as 0.02, the first hundreds of steps are lost
            elif parameter.ndim == 2:
                last = name.endswith(("c_proj.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5 if last else 0.02)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(jnp.arange(ids.shape[1]))
        if self.scan:  # one block is compiled, whatever their number
            x = nn.scan_layers(self.blocks, x)
        else:
            for block in self.blocks:
                x = block(x)
        return self.head(self.ln_f(x))


@functools.cache
def make_train_step(autocast: bool, max_norm: float = 1.0):
    """A compiled step: loss, gradients clipped to a norm, update. The old weights' memory is given up for the new."""

    @nn.jit(donate_argnums=(0, 1))
    def train_step(model, optimizer, x, y):
        def loss_fn(model):
            with nn.autocast(dtype=jnp.bfloat16, enabled=autocast):
                return F.cross_entropy(model(x).swapaxes(1, 2), y)

        loss, grads = nn.value_and_grad(loss_fn)(model)
        grads, _ = nn.utils.clip_grad_norm_(grads, max_norm)
        optimizer.step(model, grads)
        return loss

    return train_step


@nn.jit
def evaluate(model, x, y):
    """The mean loss on batches stacked along the first axis."""
    return jax.lax.map(lambda pair: F.cross_entropy(model(pair[0]).swapaxes(1, 2), pair[1]), (x, y)).mean()


@nn.jit
def next_logits(model, ids, position):
    """The logits after `position`; what stands behind it is hidden by causality."""
    return model(ids)[:, position]


def sample(model, characters: str, count: int, prompt: str = "\n", temperature: float = 0.8) -> str:
    """`count` characters drawn from the model, after `prompt`."""
    model.eval()
    ids = [characters.index(character) for character in prompt]
    for _ in range(count):
        window = ids[-model.context :]
        padded = np.zeros((1, model.context), np.int32)
        padded[0, : len(window)] = window
        logits = next_logits(model, padded, len(window) - 1) / temperature
        ids.append(int(jax.random.categorical(nn.next_key(), logits)[0]))
    return "".join(characters[i] for i in ids[len(prompt) :])


# -- the text ---------------------------------------------------------------------------------------------------------


def gather_text(limit: int = 1_000_000) -> str:
    """Python's licence and the docstrings of its standard library: the sources are read, nothing is imported."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(folder.rglob("*.py")) if not {"site-packages", "test"} & set(path.parts)]
    licence = folder / "LICENSE.txt"
    pieces = [licence.read_text(encoding="utf-8")] if licence.exists() else []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in paths:
        if sum(map(len, pieces)) > limit:
            break
        try:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        except (SyntaxError, ValueError):
            continue
        found = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]
        pieces += [text for text in found if len(text) > 40 and text.isascii()]
    np.random.RandomState(0).shuffle(pieces)  # or what is held out would be of other modules
    text = "\n\n".join(pieces)[:limit]
    return "".join(character for character in text if character == "\n" or character.isprintable())


def batches(ids: np.ndarray, seed: tuple[int, int], shape: tuple[int, ...], context: int):
    """Windows of the text at random places, and what follows each character: by `seed` alone, so runs can go on."""
    starts = np.random.RandomState(seed).randint(0, len(ids) - context, shape)
    windows = ids[starts[..., None] + np.arange(context + 1)]
    return windows[..., :-1], windows[..., 1:]


# -- the run ----------------------------------------------------------------------------------------------------------


@functools.cache  # code is compared by identity: the same schedule is compiled once
def cosine(steps: int, peak: float):
    """A learning rate that rises for a twentieth of the steps, then falls to a tenth."""
    warmup = min(max(1, steps // 20), steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps, peak / 10)


def build(settings: dict, characters: str):
    """The model and its optimizer."""
    nn.manual_seed(settings["seed"])
    sizes = {name: settings[name] for name in ("context", "width", "heads", "layers", "dropout", "scan")}
    model = GPT(len(characters), **sizes)
    schedule = cosine(settings["steps"], settings["lr"])
    return model, nn.optim.AdamW(model, lr=schedule, betas=(0.9, 0.99), weight_decay=0.1)


def train(model, optimizer, ids, settings: dict, history: dict, save):
    """Train to the last step from where `history` ends, with a progress bar; `save` is called at each evaluation."""
    from tqdm import tqdm

    seed, context = settings["seed"], settings["context"]
    held_out = len(ids) // 10
    evaluation = batches(ids[:held_out], (seed, 0), (8, settings["batch"]), context)
    train_step = make_train_step(settings["autocast"])
    start, first = time.perf_counter(), len(history["losses"])
    with tqdm(total=settings["steps"], initial=first, unit="step", disable=None) as bar:
        for step in range(first + 1, settings["steps"] + 1):
            x, y = batches(ids[held_out:], (seed, step), (settings["batch"],), context)
            history["losses"].append(train_step(model.train(), optimizer, x, y))
            bar.update()
            if step % 10 == 0 and not bar.disable:  # to look at a loss is to wait for it
                loss, rate = float(history["losses"][-1]), (step - first) * x.size / (time.perf_counter() - start)
                bar.set_postfix(loss=f"{loss:.3f}", characters=f"{rate:,.0f}/s")
            if step % settings["evaluate"] == 0 or step == settings["steps"]:
                history["losses"] = [float(loss) for loss in history["losses"]]
                history["held_out"].append((step, float(evaluate(model.eval(), *evaluation))))
                save()


def draw(path: Path, history: dict) -> None:
    """A picture of the losses."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(np.arange(1, len(history["losses"]) + 1), history["losses"], lw=0.6, label="training batch")
    axis.plot(*zip(*history["held_out"]), marker=".", label="held-out text")
    axis.set(xlabel="step", ylabel="loss, nats per character")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser, number = command_line.Parser(__doc__), command_line.number
    parser.add_argument("--seed", type=command_line.seed, default=0, help="of the weights, the batches and the dropout")
    parser.add_argument("--steps", type=number(int, 1), default=800, help="steps of training")
    parser.add_argument("--batch", type=number(int, 1), default=16, help="windows of text in one step")
    parser.add_argument("--context", type=number(int, 1, 10_000), default=64, help="characters that the model sees")
    parser.add_argument("--width", type=number(int, 1), default=128, help="of the residual stream")
    parser.add_argument("--heads", type=number(int, 1), default=4, help="of attention; they divide the width")
    parser.add_argument("--layers", type=number(int, 1), default=4, help="blocks")
    parser.add_argument("--dropout", type=number(float, 0, below=1), default=0.0, help="share of activations dropped")
    parser.add_argument("--lr", type=number(float, 0), default=3e-3, help="the highest learning rate")
    parser.add_argument(
        "--evaluate", type=number(int, 1), default=100, help="steps between evaluations, which save a checkpoint"
    )
    parser.add_argument("--scan", action="store_true", help="nn.scan_layers over the blocks: compiles one of them")
    parser.add_argument("--autocast", action="store_true", help="matrix products in bfloat16")
    parser.add_argument(
        "--sample", type=number(int, 0), default=600, metavar="N", help="characters to write at the end"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, with its settings")
    parser.add_argument("--device", default=None, help="cpu, gpu or tpu; jax's default otherwise")
    parser.add_argument("--out", type=Path, default=Path("out/gpt"), help="folder for checkpoint and picture")
    options = parser.parse_args(arguments)
    if options.width % options.heads:
        parser.error(f"argument --heads: {options.heads} heads do not divide a width of {options.width}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Train, or go on training; report, save, and let the model write."""
    options = parse(arguments)
    try:
        import matplotlib  # noqa: F401
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
    checkpoint, here = options.out / "checkpoint.pt", ("out", "device", "resume", "sample")
    if options.resume and not checkpoint.exists():
        print(f"--resume: there is no {checkpoint}", file=sys.stderr)
        return 2

    text = gather_text()
    settings = {name: value for name, value in vars(options).items() if name not in here}
    history, characters = {"losses": [], "held_out": []}, "".join(sorted(set(text)))
    saved = nn.load(checkpoint) if options.resume else None
    if saved:
        settings, history, characters = saved["settings"], saved["history"], saved["characters"]
    if not set(text) <= set(characters):
        print("--resume: the checkpoint is from another version of Python, whose texts differ", file=sys.stderr)
        return 2
    model, optimizer = build(settings, characters)
    if saved:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        nn.set_rng_state(saved["rng"])
    ids = np.array([characters.index(character) for character in text], np.int32)
    options.out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": nn.get_rng_state()}
        nn.save(state | {"settings": settings, "history": history, "characters": characters}, checkpoint)

    weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"{len(text):,} characters of {len(characters)} kinds; {weights:,} weights; {settings['steps']} steps")
    start = time.perf_counter()
    train(model, optimizer, ids, settings, history, save)
    seconds = time.perf_counter() - start
    draw(options.out / "curves.png", history)
    if options.sample:
        print(f"{'-' * 80}\n{sample(model, characters, options.sample)}\n{'-' * 80}")
    uniform, last = float(np.log(len(characters))), history["held_out"][-1][1]
    print(f"held-out loss {last:.3f} nats per character (a guess has {uniform:.2f}), {seconds:.0f} s")
    print(f"wrote {checkpoint} and {options.out / 'curves.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
