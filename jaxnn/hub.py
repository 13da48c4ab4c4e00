"""Published weights: files of PyTorch's by their addresses, kept where torch.hub keeps them.

Follows ``torch.hub`` and ``torch.utils.model_zoo``, so a file that PyTorch has fetched is not fetched again. No code of a file
is run (`nn.load`), and torch.hub's ``load`` of whole repositories, which runs theirs, has no counterpart.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from jaxnn import io
from jaxnn.io.files import write_atomically

_CHUNK = 1 << 17
_NAMED_HASH = re.compile(r"-([a-f0-9]*)\.")

_folder: str | None = None


__all__ = ["download_url_to_file", "get_dir", "load_state_dict_from_url", "set_dir"]


def __dir__() -> list[str]:
    return __all__


def get_dir() -> str:
    """The folder of what is fetched: that of `set_dir`; by default ``$TORCH_HOME/hub``, or ``~/.cache/torch/hub``.

    Example:
        >>> from jaxnn import hub
        >>> hub.set_dir("/models")
        >>> hub.get_dir()
        '/models'
        >>> hub.set_dir(None)

    Follows ``torch.hub.get_dir``.
    """
    if _folder is not None:
        return _folder
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return os.path.join(os.path.expanduser(home), "hub")


def set_dir(d: str | os.PathLike[str] | None) -> None:
    """Keep what is fetched in this folder; None: in the default one.

    Follows ``torch.hub.set_dir``.
    """
    global _folder
    _folder = None if d is None else os.path.expanduser(d)


def load_state_dict_from_url(
    url: str,
    model_dir: str | os.PathLike[str] | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
    weights_only: bool | None = None,
) -> Any:
    """Read a checkpoint by its address, fetching it where it is not kept yet.

    Args:
        url: the address; the last part of its path is the file's name.
        model_dir: the folder in which the file is kept. Default: ``checkpoints`` in `get_dir`.
        map_location, weights_only: torch's, without effect: arrays come on the host, and no code is run in any case.
        progress: show how much has come, where tqdm is installed.
        check_hash: hold what comes to the name, ``name-<the first digits of its SHA-256>.ext``.
        file_name: the file's name, if not the address's.

    Returns:
        What was saved, as `nn.load` gives it. A zip of one file, which PyTorch wrote before 1.6, is unpacked beside it.

    Raises:
        OSError: (urllib.error.URLError) the address cannot be read.
        RuntimeError: what came has another hash. It is not kept.
        CheckpointError: (a ValueError) the file is broken, or holds what is no array; `nn.load` says more.

    Example:
        >>> import jaxnn as nn, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> nn.save(nn.Linear(2, 3).state_dict(), folder / "linear.pth")  # as if it had been fetched before
        >>> sorted(nn.hub.load_state_dict_from_url("https://example.org/models/linear.pth", folder))
        ['bias', 'weight']

    Follows ``torch.hub.load_state_dict_from_url``, which ``torch.utils.model_zoo.load_url`` is too.
    """
    folder = Path(get_dir()) / "checkpoints" if model_dir is None else Path(model_dir).expanduser()
    name = os.path.basename(urlparse(url).path) if file_name is None else file_name
    if not name:
        raise ValueError(
            f"load_state_dict_from_url: url: expected an address that ends in a file's name, got {url!r}; give file_name"
        )
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / name
    if not kept.exists():
        sys.stdout.write(f'Downloading: "{url}" to {kept}\n')
        named = _NAMED_HASH.search(name) if check_hash else None
        download_url_to_file(url, kept, named[1] if named else None, progress)
    return io.load(_unpacked(kept))


def download_url_to_file(
    url: str, dst: str | os.PathLike[str], hash_prefix: str | None = None, progress: bool = True
) -> None:
    """Fetch a file; it is there whole, or not at all.

    Args:
        url: the address.
        dst: the file.
        hash_prefix: what its SHA-256 begins with, in hexadecimal digits. None: not looked at.
        progress: show how much has come, where tqdm is installed.

    Raises:
        OSError: (urllib.error.URLError) the address cannot be read, or the file cannot be written.
        RuntimeError: what came has another hash, or is shorter than was announced.

    Follows ``torch.hub.download_url_to_file``.
    """

    def write(file: BinaryIO) -> None:
        with urlopen(Request(url, headers={"User-Agent": "jaxnn.hub"})) as response:
            announced = response.headers.get("Content-Length")
            digest, come = hashlib.sha256(), 0
            with _bar(int(announced) if announced else None, progress) as bar:
                while piece := response.read(_CHUNK):
                    file.write(piece)
                    digest.update(piece)
                    come += len(piece)
                    bar.update(len(piece))
        if announced and come != int(announced):
            raise RuntimeError(f"{url}: {come} of {announced} bytes came; nothing was kept. Try again")
        found = digest.hexdigest()
        if hash_prefix is not None and not found.startswith(hash_prefix):
            wrong = f'invalid hash value (expected "{hash_prefix}", got "{found}")'
            raise RuntimeError(f"{wrong}: {url} holds another file than was meant; nothing was kept")

    write_atomically(Path(os.path.expanduser(dst)), write)


def _unpacked(path: Path) -> Path:
    """The file that a zip of one file holds, as PyTorch published weights before 1.6; any other file is itself."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        inside = archive.infolist()
        if len(inside) != 1 or inside[0].is_dir():
            return path
        # Under a name of ours: the one in the archive may lead anywhere, or be another archive's too.
        target = path.with_name(f"{path.name}.unpacked")
        if not target.exists() or target.stat().st_mtime < path.stat().st_mtime:
            with archive.open(inside[0]) as packed:
                write_atomically(target, lambda file: shutil.copyfileobj(packed, file))
    return target


class _NoBar:
    """A bar that shows nothing."""

    def update(self, n: int) -> None: ...

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *error: object) -> None: ...


def _bar(total: int | None, progress: bool) -> Any:
    """tqdm's bar where it is installed and asked for."""
    if progress:
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            return tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024)
    return _NoBar()
