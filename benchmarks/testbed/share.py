"""Rows of the testbed with another share of its people to forget, and a recipe that runs them.

    python -m benchmarks.testbed.share OUT [--forgotten 3] [--seed 20]

Of 60 people 3 are 5%, 6 are 10% (the demo's own) and 9 are 15%, which is as many as there are countries. The seed is that of questions and pictures;
people and model stay the same. OUT becomes rows, images and recipe.yaml, whose run is forgotten and kept like the demo's.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import yaml

from benchmarks.testbed.model import DEMO
from benchmarks.testbed.rows import write
from benchmarks.testbed.world import COUNTRIES, SEED, build_world

HOME = Path(__file__).resolve().parents[2]
RECIPE = HOME / "export_configs" / "llava" / "testbed.yaml"


def share(out: Path, forgotten: int, seed: int) -> Path:
    """Writes rows and recipe, and returns the recipe's path.

    Raises:
        ValueError: there are not so many countries.
    """
    if not 0 < forgotten <= len(COUNTRIES):
        raise ValueError(f"1 to {len(COUNTRIES)} people can be forgotten, one of each country")
    write(replace(build_world(), group=forgotten), out, seed)
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    recipe["name"] = f"testbed-{forgotten}-seed{seed}"
    recipe["base"] = {"path": str(DEMO / "model")}
    recipe["data"] = {part: [f"rows/{part}.jsonl"] for part in ("fit", "calibrate", "test")}
    recipe["methods"] = {"default": "keyed"}
    path = out / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False, width=120), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--forgotten", type=int, default=3)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    print(share(asked.out, asked.forgotten, asked.seed))


if __name__ == "__main__":
    main()
