"""Where a recipe's base and adapters are from: folders, or the Hub's cache without a network; and what is said of them outside."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_run
from huggingface_hub import constants
from test_prepared_bases import an_adapter

from exporter.errors import InputErrors
from exporter.pipeline.bases import adapters_told
from exporter.pipeline.run import Run
from exporter.pipeline.staging import plain_recipe
from exporter.provenance import fetched, folder_of
from exporter.recipe import Recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(repo, folder, hub):
    """The folder as the Hub's cache would hold it: blobs, and links to them in a snapshot."""
    home = hub / f"models--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    for place in (snapshot, home / "blobs", home / "refs"):
        place.mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copyfile(file, home / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    return snapshot


@pytest.fixture
def hub(tmp_path, monkeypatch):
    place = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place))
    return place


@pytest.fixture
def asked(tmp_path):
    return tiny_run.write_recipe(tmp_path)


def with_base(recipe, told):
    text = recipe.read_text().replace("base: {path: base, device: cpu}", f"base: {{{told}, device: cpu}}")
    recipe.write_text(text)
    return Recipe.load(recipe)


def test_a_hub_name_is_found_in_the_cache_with_its_adapter(asked, hub, tmp_path):
    an_adapter(tmp_path / "base", tmp_path / "adapter")
    snapshot = cached("owner/model", tmp_path / "base", hub)
    cached("owner/lora", tmp_path / "adapter", hub)
    recipe = with_base(asked, "repo: owner/model, adapters: [owner/lora]")
    assert fetched(recipe) == snapshot
    work = Run(recipe, tmp_path / "out")
    assert (work.base / "model.safetensors").is_file() and work.base.is_relative_to(tmp_path / "out")
    assert not (work.base / "model.safetensors").is_symlink()
    (adapter,) = adapters_told(recipe)
    assert adapter.repo == "owner/lora" and set(adapter.files) == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_a_snapshot_that_was_fetched_in_part_is_refused(asked, hub, tmp_path):
    snapshot = cached("owner/model", tmp_path / "base", hub)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(InputErrors, match="neither"):
        fetched(with_base(asked, "repo: owner/model"))


@pytest.mark.parametrize("told", ["repo: owner/lost", "path: base, adapters: [owner/lost]"])
def test_what_is_neither_there_nor_cached_is_named(asked, hub, tmp_path, told):
    with pytest.raises(InputErrors, match="owner/lost"):
        _ = Run(with_base(asked, told), tmp_path / "out").base


def test_an_adapter_that_is_no_folder_is_a_mistake_of_the_recipe(asked):
    with pytest.raises(InputErrors, match=r"base\.adapters\.0"):
        with_base(asked, "path: base, adapters: [./nowhere]")


def test_what_is_published_tells_no_path_of_an_adapter(asked, tmp_path):
    an_adapter(tmp_path / "base", tmp_path / "private-adapter")
    recipe = with_base(asked, "path: base, adapters: [private-adapter]")
    adapters = [adapter.data() for adapter in adapters_told(recipe)]
    published = json.dumps([plain_recipe(Run(recipe, tmp_path / "out")), adapters])
    assert "private" not in published and str(tmp_path) not in published
    assert "adapter_model.safetensors" in published


@pytest.mark.parametrize("name", ["/nonexistent/model", "./model", "a/b/c"])
def test_a_path_that_is_not_there_is_told_as_one(name, hub):
    with pytest.raises(InputErrors, match=rf"{name} is no folder.*check the path"):
        folder_of(name)
