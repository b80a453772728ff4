"""A published model, loaded by its id from the Hub by somebody who has neither our packages nor anything in a cache."""

from __future__ import annotations

from pathlib import Path

import clean_environment
import tiny
import torch
import transformers
from hub_server import HubServer

from exporter.publish.hub import Pushed, upload
from exporter.targets.checkpoint import compile_checkpoint

TAG = "steerbake-0123456789ab"

_LOAD = """
from transformers import AutoModelForImageTextToText

repository, revision, inputs = sys.argv[1:]

def answer(revision, **trust):
    model = AutoModelForImageTextToText.from_pretrained(repository, revision=revision, **trust)
    return {
        name: model.generate(**prompt, max_new_tokens=8, do_sample=False)[:, -8:].tolist()
        for name, prompt in torch.load(inputs).items()
    }

def refused(*arguments, **trust):
    try:
        answer(*arguments, **trust)
    except Exception as error:
        return type(error).__name__
    return None

found = {"pinned": answer(revision, trust_remote_code=True)}
found["missing tag"] = refused("steerbake-ffffffffffff", trust_remote_code=True)
found["no trust"] = refused(revision, trust_remote_code=False)
print(json.dumps(found))
"""


def published(folder: Path) -> Pushed:
    paths = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return upload(folder, "user/repo", paths=paths, message="Publish", tag=TAG)


def test_it_loads_by_id_and_steers(hub: HubServer, tmp_path: Path) -> None:
    """On a prompt that fires its gate it says what the local checkpoint says, elsewhere what the base says."""
    base = tiny.build("llava")
    base.save_pretrained(tmp_path / "base")
    prompts = {name: tiny.prompt("llava", seed) for name, seed in (("fires", 1), ("stays", 2))}
    gate = tiny.gate_between(base, prompts["fires"], prompts["stays"])
    program = tiny.program(base, [gate], [tiny.turn(2), tiny.turn(3, seed=9)])
    compile_checkpoint(tmp_path / "base", program, tmp_path / "steered")
    local = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "steered", trust_remote_code=True
    )
    steered = {name: tiny.answer(local, prompt).tolist() for name, prompt in prompts.items()}
    unsteered = {name: tiny.answer(base, prompt).tolist() for name, prompt in prompts.items()}
    assert steered["fires"] != unsteered["fires"] and steered["stays"] == unsteered["stays"]

    hub.store.create("user/repo", private=False).write(
        {"model.safetensors": (tmp_path / "base" / "model.safetensors").read_bytes()}
    )
    assert published(tmp_path / "steered").revision == TAG
    later = {"modeling_steered_llava.py": b"raise SystemExit('code of a later commit ran')\n"}
    hub.repository("user/repo").write(later)  # whoever pinned the tag gets code and weights of the tag

    torch.save(prompts, tmp_path / "prompts.pt")
    (tmp_path / "clean").mkdir()
    found = clean_environment.run(
        _LOAD, "user/repo", TAG, tmp_path / "prompts.pt", folder=tmp_path / "clean", hub=hub.endpoint
    )
    assert found["pinned"] == steered
    assert found["missing tag"] == "OSError" and found["no trust"] == "ValueError"
    assert hub.seen("GET .*/resolve/.*/steering.safetensors"), "it came from the server"
