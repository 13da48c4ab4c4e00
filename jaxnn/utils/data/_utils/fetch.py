"""One batch from a dataset, given what the sampler drew. An error says which item of which dataset it comes from."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reading:
    """How a loader reads its dataset.

    Args:
        dataset: the dataset.
        is_stream: whether it is iterated over, and not indexed.
        batches: whether the sampler gives lists of indices, and items are put together.
        collate_fn: what makes a batch of a list of items, or with `batches` off what is done to an item.
        drop_last: of a stream: leave out a last batch that is shorter.
    """

    dataset: Any
    is_stream: bool
    batches: bool
    collate_fn: Callable[[Any], Any]
    drop_last: bool

    def start(self) -> Callable[[Any], Any]:
        """What reads the batches of one epoch. A stream says by StopIteration that it has ended."""
        return _of_stream(self) if self.is_stream else _of_items(self)


_NOTE = "DataLoader: the error came "


def _describe(dataset: Any) -> str:
    name = type(dataset).__name__
    try:
        return f"{name} (of {len(dataset)} items)"
    except Exception:
        return name


def _short(indices: Any) -> str:
    text = repr(indices)
    return text if len(text) < 120 else f"{text[:100]} ... ({len(indices)} of them)"


@contextmanager
def _naming(what: str, dataset: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        note = said_where(error) or f"{_NOTE}{what} of {_describe(dataset)}."
        if isinstance(error, StopIteration):  # would end the epoch in silence
            trace = "".join(traceback.format_exception(error))
            named = RuntimeError(f"StopIteration from a dataset's item or from collate_fn:\n{trace}")
            named.add_note(note)
            raise named from None  # contextlib takes one that StopIteration caused for StopIteration itself
        if not said_where(error):
            error.add_note(note)
        raise


def said_where(error: BaseException) -> str:
    """The line that names the item, where the error has one."""
    return next((note for note in getattr(error, "__notes__", ()) if note.startswith(_NOTE)), "")


def _item(dataset: Any, index: Any) -> Any:
    try:
        return dataset[index]
    except Exception as error:
        with _naming(f"with item {index!r}", dataset):
            raise error


def _of_items(reading: Reading) -> Callable[[Any], Any]:
    dataset, collate_fn = reading.dataset, reading.collate_fn

    def fetch(index: Any) -> Any:
        if not reading.batches:
            item = _item(dataset, index)
            with _naming(f"while converting item {index!r}", dataset):
                return collate_fn(item)
        together = getattr(dataset, "__getitems__", None)
        if together:
            with _naming(f"with items {_short(index)}", dataset):
                items = together(index)
        else:
            items = [_item(dataset, i) for i in index]
        with _naming(f"while collating items {_short(index)}", dataset):
            return collate_fn(items)

    return fetch


def _of_stream(reading: Reading) -> Callable[[Any], Any]:
    dataset, ended = reading.dataset, False
    with _naming("when iteration began", dataset):
        stream = iter(dataset)
    count = 0

    def following() -> Any:
        nonlocal count
        try:
            item = next(stream)
        except StopIteration:
            raise
        except Exception as error:
            with _naming(f"after {count} items", dataset):
                raise error
        count += 1
        return item

    def fetch(index: Any) -> Any:
        nonlocal ended
        if ended:
            raise StopIteration
        if not reading.batches:
            items = following()
        else:
            items = []
            for _ in index:
                try:
                    items.append(following())
                except StopIteration:
                    ended = True
                    break
            if not items or (reading.drop_last and len(items) < len(index)):
                raise StopIteration
        with _naming(f"while collating, {count} items into the stream,", dataset):
            return reading.collate_fn(items)

    return fetch
