"""Training steps in bfloat16, by autocast and by hand in plain JAX, by the compilers of TPUs and GPUs that are not here.

    python -m benchmarks.half [--target v5e] [--only NAME] [--whole] [--text FOLDER] [--check]

The steps are those of ResNet-50 and a U-Net (SGD with momentum), ViT-B/16, GPT-2 (124M), a block of Llama 3 8B and an
LSTM (AdamW), at their own widths and usual batches, with fewer layers unless --whole is given. Both give their old
weights' memory up for the new. By hand, attention is JAX's splash kernel on a TPU; on a GPU it is jaxnn's in both, since
JAX's own call of cuDNN asks for a GPU when it is traced. Of such kernels the compilers count neither cycles nor products.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnn as nn
import jaxnn.functional as F
from benchmarks import by_hand_half as hand
from jaxnn import targets
from jaxnn.targets import Compiled

ROOT = pathlib.Path(__file__).parents[1]


class Step(NamedTuple):
    """A model by its maker, the same by hand, and what both are given.

    Attributes:
        make: the model.
        written: the network by hand.
        x, y: types of the input and the targets.
        optimizer: "sgd" or "adamw".
        logits: of the model's output, the rows that `y` is the classes of; without `y`, the loss is the output's mean square.
    """

    make: Callable[[], Any]
    written: Callable[..., Any]
    x: Any
    y: Any
    optimizer: str
    logits: Callable[[Any], Any] = lambda output: output.reshape(-1, output.shape[-1])


def _models(name: str) -> Any:
    folder = str(ROOT / "examples")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(f"models.{name}")


def _type(*shape: int, dtype: Any = jnp.float32) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)


def _ids(*shape: int) -> Any:
    return _type(*shape, dtype=jnp.int32)


def _resnet(blocks: tuple[int, ...], batch: int = 64, size: int = 224) -> Step:
    def make() -> Any:
        file = _models("resnet")
        return file.ResNet(file.Bottleneck, blocks)

    written = hand.named(hand.resnet, blocks=blocks)
    return Step(make, written, _type(batch, 3, size, size), _ids(batch), "sgd")


def _unet(width: int, batch: int = 8, size: int = 256) -> Step:
    def logits(output: Any) -> Any:
        return jnp.moveaxis(output, 1, -1).reshape(-1, output.shape[1])

    x, y = _type(batch, 3, size, size), _ids(batch * size * size)
    return Step(lambda: _models("unet").UNet(3, 2, width=width), hand.named(hand.unet), x, y, "sgd", logits)


def _vit(layers: int, heads: int = 12, width: int = 768, batch: int = 64, size: int = 224, patch: int = 16) -> Step:
    def make() -> Any:
        return _models("vit").VisionTransformer(size, patch, layers, heads, width, 4 * width)

    written = hand.named(hand.vit, layers=layers, heads=heads, patch=patch)
    return Step(make, written, _type(batch, 3, size, size), _ids(batch), "adamw")


def _gpt2(layers: int, heads: int = 12, width: int = 768, batch: int = 8, time: int = 1024, words: int = 50257) -> Step:
    def make() -> Any:
        file = _models("gpt2")
        off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        sizes = dict(vocab_size=words, n_positions=time, n_embd=width, n_layer=layers, n_head=heads)
        return file.GPT2LMHeadModel(file.GPT2Config(**sizes, **off))

    written = hand.named(hand.gpt2, layers=layers, heads=heads)
    return Step(make, written, _ids(batch, time), _ids(batch * time), "adamw")


class _Llama(nn.Module):
    """The blocks of a Llama and its last norm, of hidden states (batch, time, width)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        file, rope = _models("llama"), _models("rope")
        self.layers = nn.ModuleList([file.LlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = rope.LlamaRotaryEmbedding(config)

    def forward(self, x: Any) -> Any:
        turned = self.rotary_emb(jnp.arange(x.shape[1])[None], x.dtype)
        for layer in self.layers:
            x = layer(x, turned, None)
        return self.norm(x)


def _llama(
    layers: int, heads: int = 32, groups: int = 8, width: int = 4096, inner: int = 14336, time: int = 2048
) -> Step:
    def make() -> Any:
        config = _models("llama_config").LlamaConfig.from_dict(
            dict(
                hidden_size=width,
                intermediate_size=inner,
                num_hidden_layers=layers,
                num_attention_heads=heads,
                num_key_value_heads=groups,
                rms_norm_eps=1e-5,
                rope_theta=500000.0,
            )
        )
        return _Llama(config)

    written = hand.named(hand.llama, layers=layers, heads=heads, theta=500000.0)
    return Step(make, written, _type(1, time, width), None, "adamw")


class _Tagger(nn.Module):
    def __init__(self, words: int, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, inputs)
        self.rnn = nn.LSTM(inputs, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, words)

    def forward(self, tokens: Any) -> Any:
        return self.head(self.rnn(self.embedding(tokens))[0])


def _lstm(layers: int, hidden: int = 1024, batch: int = 64, time: int = 256, words: int = 10000) -> Step:
    written = hand.named(hand.lstm, layers=layers)
    return Step(lambda: _Tagger(words, hidden, hidden, layers), written, _ids(batch, time), _ids(batch * time), "adamw")


STEPS: dict[str, tuple[Callable[[], Step], Callable[[], Step]]] = {
    "ResNet-50": (lambda: _resnet((1, 1, 1, 1)), lambda: _resnet((3, 4, 6, 3))),
    "ViT-B/16": (lambda: _vit(2), lambda: _vit(12)),
    "GPT-2 124M": (lambda: _gpt2(2), lambda: _gpt2(12)),
    "Llama 3 8B, one block": (lambda: _llama(1), lambda: _llama(1)),
    "LSTM": (lambda: _lstm(2), lambda: _lstm(2)),
    "U-Net": (lambda: _unet(64), lambda: _unet(64)),
}
TINY: dict[str, Callable[[], Step]] = {
    "ResNet-50": lambda: _resnet((1, 1, 1, 1), 2, 32),
    "ViT-B/16": lambda: _vit(1, 2, 32, 2, 16, 8),
    "GPT-2 124M": lambda: _gpt2(1, 2, 32, 2, 16, 64),
    "Llama 3 8B, one block": lambda: _llama(1, 4, 2, 64, 96, 16),
    "LSTM": lambda: _lstm(2, 16, 2, 8, 32),
    "U-Net": lambda: _unet(4, 2, 32),
}
OPTIMIZERS: dict[str, tuple[Callable[[Any], Any], tuple[Any, Any]]] = {
    "sgd": (lambda model: nn.optim.SGD(model, lr=0.01, momentum=0.9), hand.sgd(0.01, 0.9)),
    "adamw": (lambda model: nn.optim.AdamW(model, lr=1e-3, weight_decay=0.01), hand.adamw(1e-3, 0.01)),
}


def attention_of(platform: str) -> hand.Attention:
    """That of the steps by hand; see the head of this file."""
    if platform == "tpu":
        return hand.splash
    return lambda q, k, v, causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def ours(step: Step, model: Any, optimizer: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """jaxnn's step, compiled as users do, and its arguments."""

    @nn.jit(donate_argnums=(0, 1))
    def run(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        def loss_of(model: Any) -> Any:
            with nn.autocast(dtype=hand.HALF, enabled=hand.HALF != jnp.float32):
                output = model(x)
                return jnp.square(output).mean() if y is None else F.cross_entropy(step.logits(output), y)

        loss, grads = nn.value_and_grad(loss_of)(model)
        optimizer.step(model, grads)
        return loss

    return run, (model, optimizer)


def written(step: Step, state: dict[str, Any], platform: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The step by hand, and what it trains; `state` is the model's state_dict."""
    start, update = OPTIMIZERS[step.optimizer][1]
    weights = {name: value for name, value in state.items() if not hand.is_tracked(name) and name != "lm_head.weight"}
    tracked = {name: value for name, value in state.items() if hand.is_tracked(name)}

    def network(arrays: Any, moved: Any, x: Any) -> Any:
        return step.written(arrays, moved, x, attend=attention_of(platform))

    def loss(output: Any, y: Any) -> Any:
        return jnp.square(output).mean() if y is None else hand.cross_entropy(output, y)

    run = jax.jit(hand.step_of(network, update, loss), donate_argnums=0)
    return run, ((weights, tracked, jax.eval_shape(start, weights)),)


def compare(step: Step, target: str) -> tuple[Compiled, Compiled]:
    """The programs of jaxnn's step and of the one by hand. No array is made."""
    model = jax.eval_shape(step.make)
    optimizer = jax.eval_shape(lambda model: OPTIMIZERS[step.optimizer][0](model), model)
    run, arguments = ours(step, model, optimizer)
    by_hand, others = written(step, dict(model.state_dict()), targets.get(target).platform)
    return (
        targets.compile(run, *arguments, step.x, step.y, target=target),
        targets.compile(by_hand, *others, step.x, step.y, target=target),
    )


def losses(name: str, steps: int = 3) -> tuple[list[float], list[float]]:
    """Of a tiny network on the machine at hand, all in float32: jaxnn's and those by hand, from the same weights."""
    step, rng = TINY[name](), np.random.default_rng(0)

    def draw(kind: Any) -> Any:
        whole = kind is not None and kind.dtype == jnp.int32
        made = None if kind is None else rng.integers(0, 2, kind.shape) if whole else rng.standard_normal(kind.shape)
        return None if made is None else jnp.asarray(made, kind.dtype)

    nn.manual_seed(0)
    model, x, y = step.make(), draw(step.x), draw(step.y)
    optimizer = OPTIMIZERS[step.optimizer][0](model)
    kept, hand.HALF = hand.HALF, jnp.float32
    try:
        with jax.default_matmul_precision("highest"):
            by_hand, (trained,) = written(step, jax.tree.map(jnp.array, dict(model.state_dict())), "cpu")
            trained = (*trained[:2], jax.tree.map(lambda kind: jnp.zeros(kind.shape, kind.dtype), trained[2]))
            run, arguments = ours(step, model, optimizer)
            mine, other = [], []
            for _ in range(steps):
                mine.append(float(run(*arguments, x, y)))
                trained, loss = by_hand(trained, x, y)
                other.append(float(loss))
    finally:
        hand.HALF = kept
    return mine, other


def share(found: Compiled) -> float:
    """Of the flops of products and convolutions, those in 16 bits."""
    narrow = sum(count for name, count in found.flops.items() if name in ("bf16", "f16"))
    return narrow / max(sum(found.flops.values()), 1)


def _ratio(ours: int | None, theirs: int | None) -> str:
    return f"{ours / theirs:.2f}" if ours is not None and theirs else ""


def row(name: str, mine: Compiled, other: Compiled) -> str:
    """A line of the table."""
    figures = [
        _ratio(mine.cycles, other.cycles),
        _ratio(mine.bytes_accessed, other.bytes_accessed),
        _ratio(mine.temporary_bytes, other.temporary_bytes),
        f"{mine.temporary_bytes / 2**20:,.0f}",
        f"{100 * share(mine):.1f} / {100 * share(other):.1f}",
    ]
    return f"| {name} | {' | '.join(figures)} |"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--target", action="append", help="default: those whose compilers are installed, of v5e and h100"
    )
    parser.add_argument("--only", default="")
    parser.add_argument("--whole", action="store_true", help="all layers")
    parser.add_argument("--text", type=pathlib.Path, help="a folder for the optimised programs")
    parser.add_argument("--check", action="store_true", help="compute tiny ones here, and print the losses of both")
    arguments = parser.parse_args(argv)
    if arguments.check:
        for name in TINY:
            if arguments.only.lower() in name.lower():
                print(name, *losses(name), flush=True)
        return
    known = [name for name in ("v5e", "h100") if targets.is_installed(targets.get(name).platform)]
    for target in arguments.target or known:
        print(
            f"| bfloat16 step on {target}, to by hand | cycles | bytes | temporaries | MiB of them | products in 16 bits, % |"
        )
        print("|---|---|---|---|---|---|")
        for name, sizes in STEPS.items():
            if arguments.only.lower() not in name.lower():
                continue
            found = compare(sizes[arguments.whole](), target)
            print(row(name, *found), flush=True)
            if arguments.text:
                arguments.text.mkdir(parents=True, exist_ok=True)
                for whose, program in zip(("ours", "hand"), found):
                    stem = f"{name.partition(' ')[0].replace('/', '-')}-{target}-{whose}"
                    (arguments.text / f"{stem}.txt").write_text(program.text, encoding="utf-8")
    if not (arguments.target or known):
        print('No compiler is installed: pip install "jaxnn-torch[compile-tpu]"')


if __name__ == "__main__":
    main()
