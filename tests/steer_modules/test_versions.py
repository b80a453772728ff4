"""Under an old Transformers a checkpoint says so in one sentence, and its loaders find every file that they ask for."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import clean_environment
import pytest
import tiny
import transformers

from exporter.targets.checkpoint import compile_checkpoint
from steer_modules import versions
from steer_modules.files import TRAVELLING


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("versions")
    model = tiny.build("llama")
    model.save_pretrained(home / "base")
    program = tiny.program(model, [tiny.fixed_gate(True)], [tiny.turn(2)])
    return compile_checkpoint(home / "base", program, home / "steered")


def relative_imports(path: Path) -> set[str]:
    """The files that a module asks for, as every loader of Transformers finds them."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"^\s*import\s+\.(\S+)\s*$", text, flags=re.MULTILINE)
    found += re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE)
    return {f"{name}.py" for name in found}


def test_a_loader_that_copies_direct_imports_alone_has_every_file(folder, tmp_path):
    """Transformers 4 and 5.0 to 5.8 copy these out of a local folder, then read what those import in turn."""
    (modeling,) = folder.glob("modeling_*.py")
    copied = relative_imports(modeling)
    for name in copied:
        shutil.copyfile(folder / name, tmp_path / name)
    needed = {one for name in copied for one in relative_imports(tmp_path / name)}
    assert needed <= copied
    assert copied == set(TRAVELLING)


OLD = """
import sys
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
transformers.__version__ = sys.argv[2]
said = []
for load in (AutoModelForCausalLM, AutoConfig):
    try:
        load.from_pretrained(sys.argv[1], trust_remote_code=True)
        said.append("loaded")
    except ImportError as error:
        said.append(str(error))
print(json.dumps(said))
"""


@pytest.mark.parametrize("version", ["4.57.6", "5.0.0", "5.8.0"])
def test_an_old_version_says_one_sentence_and_loads_nothing(folder, tmp_path, version):
    for text in clean_environment.run(OLD, folder, version, folder=tmp_path):
        assert f">= {versions.FLOOR}" in text
        assert f"transformers {version}" in text
        assert "pip install -U transformers" in text
        assert "\n" not in text


@pytest.mark.parametrize("version", [versions.FLOOR, "5.16.0.dev0", "6.0", transformers.__version__])
def test_a_version_from_the_floor_on_is_left_to_the_proof(version, monkeypatch):
    monkeypatch.setattr(transformers, "__version__", version)
    versions.check_version()


def test_a_family_that_transformers_lacks_is_said_in_one_sentence(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (modeling,) = broken.glob("modeling_*.py")
    modeling.write_text(
        modeling.read_text().replace("import LlamaConfig,", "import NobodysConfig as LlamaConfig,")
    )
    with pytest.raises(ImportError, match=r"NobodysConfig.*pip install -U transformers"):
        transformers.AutoConfig.from_pretrained(broken, trust_remote_code=True)


def test_the_config_says_the_versions_and_keeps_saying_them(folder, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    model.save_pretrained(tmp_path / "again")
    for place in (folder, tmp_path / "again"):
        told = json.loads((place / "config.json").read_text())["steering_requires"]
        assert told == {"transformers": f">={versions.FLOOR}", "tried": list(versions.TRIED)}
    assert versions.numbers(versions.TRIED[0])[:2] == versions.numbers(versions.FLOOR)[:2]
    assert list(versions.TRIED) == sorted(versions.TRIED, key=versions.numbers)
