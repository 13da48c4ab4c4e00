"""Writes tests/io/recorded with PyTorch: files, and what they hold. Run it again when a format is added.

python -m tests.io.record
"""

import json
from pathlib import Path

from tests.io.test_torch_files import DTYPES, RECORDED, STRIDED


def main() -> None:
    import torch

    RECORDED.mkdir(exist_ok=True)
    expected = {}
    for new in (True, False):
        for name, cut in STRIDED.items():
            tensors = {}
            for dtype in DTYPES:
                if not new and (dtype.startswith("float8") or dtype in ("uint16", "uint32", "uint64")):
                    continue  # the legacy format has no storage of these
                kind = getattr(torch, dtype)
                bits = torch.arange(24 * kind.itemsize, dtype=torch.uint8)
                tensors[dtype] = cut((bits % 2 if dtype == "bool" else bits).view(kind).reshape(2, 3, 4))
            file = f"{name}.{'zip' if new else 'legacy'}.pt"
            torch.save(tensors, RECORDED / file, _use_new_zipfile_serialization=new)
            expected[file] = {
                key: (key, list(t.shape), t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes().hex())
                for key, t in tensors.items()
            }
    Path(RECORDED / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
