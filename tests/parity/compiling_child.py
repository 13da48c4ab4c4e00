"""Stands for ``parity.compile_child``: compiles nothing, dies of "die" and waits in "wait"."""

import json
import os
import pathlib
import sys
import time

for fields in json.loads(pathlib.Path(sys.argv[3]).read_text()):
    key = f"{fields['id']} {fields['kind']}"
    print(json.dumps({"event": "start", "key": key}), flush=True)
    if fields["name"] == "die":
        sys.stderr.write("Check failed: no such program\n")
        sys.stderr.flush()
        os._exit(3)
    if fields["name"] == "wait":
        time.sleep(60)
    figures = {"cycles": 20, "bytes": 4000, "flops": {}, "temporaries": 0, "calls": {}, "wide": False, "seconds": 0.1}
    row = fields | {"status": "compiled", "ours": figures}
    if fields["id"].startswith("beside/"):
        row["plain"] = figures | {"cycles": 16}
    print(json.dumps({"event": "done", "key": key, "row": row}), flush=True)
