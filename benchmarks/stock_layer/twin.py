"""The control: a stock checkpoint with its inserted layers zeroed, as a folder that every converter reads alike.

    python -m benchmarks.stock_layer.twin STOCK OUT

A converter that quantises chooses types by a layer's number, so a file of the deeper model compares to the twin's, not to the base's.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from exporter.digests import digest_of_file
from exporter.targets.base_weights import BaseWeights
from exporter.targets.stock.manifest import STOCK_JSON, read_manifest

WAYS_OUT = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def write_twin(stock: Path, out: Path) -> Path:
    """A copy of ``stock`` in which the inserted layers add nothing, with a stock.json of its own."""
    manifest = read_manifest(stock)
    shutil.copytree(stock, out)
    ends = tuple(f"layers.{layer}.{way}" for layer in manifest["layers"] for way in WAYS_OUT)
    found = 0
    for name, tensor in BaseWeights.read(out).tensors.items():
        if name.endswith(ends):
            with (out / tensor.shard).open("r+b") as handle:
                handle.seek(tensor.start)
                handle.write(bytes(tensor.stop - tensor.start))
            found += 1
    assert found == len(ends), f"{found} of {len(ends)} tensors"
    manifest["files"] = {name: digest_of_file(out / name) for name in manifest["files"]}
    (out / STOCK_JSON).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return out


if __name__ == "__main__":
    write_twin(Path(sys.argv[1]), Path(sys.argv[2]))
