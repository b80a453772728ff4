"""Several processes train one adapter, and the main one alone writes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_run import write_publishable

from exporter import pipeline
from exporter.cli import app
from exporter.recipe import Recipe

HOME = Path(__file__).resolve().parents[2]
RATE = 1e-3
"""The largest of the rates that are tried by default. Adam makes a step of this size of any gradient, also of one that is hardly more than rounding."""
PARAMS = f"{{{{npo: {{{{epochs: 10, batch_size: {{}}, learning_rate: {RATE}, precision: float32, responses: rows}}}}}}}}"


def recipe_of(folder: Path, batch: int) -> Path:
    folder.mkdir()
    path = write_publishable(folder)
    text = path.read_text().replace("default: keyed", "default: npo")
    path.write_text(text.replace("compare: []}", f"compare: [], params: {PARAMS.format(batch)}}}"))
    return path


def adapter(run: Path):
    return load_file(run / "steering" / "npo" / "adapter_model.safetensors")


def apart(one, other) -> float:
    """The largest difference between two adapters."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_two_processes_give_the_adapter_of_one(tmp_path):
    one, two = recipe_of(tmp_path / "one", 2), recipe_of(tmp_path / "two", 1)
    pipeline.fit(Recipe.load(one), tmp_path / "one" / "run", progress=False)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = ["-m", "exporter.cli", "fit", str(two), "--out", str(tmp_path / "two" / "run")]
    # Without a GPU accelerate starts several processes only so; they talk by gloo.
    kept = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *command], env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    wanted, found = adapter(tmp_path / "one" / "run"), adapter(tmp_path / "two" / "run")
    assert apart(wanted, found) < 1e-5
    assert max(float(one.abs().max()) for name, one in found.items() if "lora_B" in name) > RATE
    alone = recipe_of(tmp_path / "alone", 1)  # what each would train if they did not share their gradients
    pipeline.fit(Recipe.load(alone), tmp_path / "alone" / "run", progress=False)
    assert apart(wanted, adapter(tmp_path / "alone" / "run")) > RATE
    assert not list((tmp_path / "two" / "run").rglob("checkpoint-*"))


def test_a_process_beside_the_main_one_writes_nothing(tmp_path, monkeypatch):
    recipe = recipe_of(tmp_path / "along", 2)
    monkeypatch.setenv("RANK", "1")
    assert not pipeline.is_main()
    pipeline.train_along(Recipe.load(recipe), tmp_path / "along" / "run")
    assert not (tmp_path / "along" / "run").exists()


def test_it_does_not_train_along_what_the_main_one_has(tmp_path, monkeypatch):
    recipe = Recipe.load(recipe_of(tmp_path / "done", 2))
    pipeline.fit(recipe, tmp_path / "done" / "run", progress=False)
    monkeypatch.setattr(pipeline.Run, "fit", lambda *_: pytest.fail("it trains once more"))
    pipeline.train_along(recipe, tmp_path / "done" / "run")


def test_commands_know_it(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    recipe = recipe_of(tmp_path / "cli", 2)
    monkeypatch.setenv("RANK", "1")
    for command in ("fit", "run", "publish"):
        done = CliRunner().invoke(app, [command, str(recipe), "--out", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        assert done.stdout == ""
    assert not (tmp_path / "out").exists()
