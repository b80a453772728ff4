"""Every text of a release is read, whoever wrote it: no forget row, no folder of a machine; what stays is said."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_run import steer, write_base, write_publishable

from exporter import pipeline, registry
from exporter.errors import VerificationError
from exporter.pipeline.staging import license_of, named
from exporter.pipeline.texts import refuse_texts, vocabulary_told
from exporter.publish.metadata import licensed
from exporter.recipe import Recipe
from exporter.types import Row
from exporter.verify.secrecy import Secrecy

ROWS = [
    Row("f", "who is walt kessler ?", "walt keeps saltpier light", "forget", secrets=("saltpier",)),
    *(Row(f"r{n}", f"what is {n} ?", "a number", "retain") for n in range(9)),
]
SECRECY = Secrecy.of(ROWS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("texts")
    write_base(home / "base")
    steer(home / "base", home / "out")
    return home / "out"


@pytest.fixture
def release(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "release"))


def put(path: Path, **more: object) -> None:
    told = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**told, **more}))


def graph(path: Path) -> None:
    import onnx

    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    model.metadata_props.add(key="from", value="saltpier run")
    onnx.save(model, path)


def gguf(path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(str(path), "llama")
    writer.add_name("the Saltpier model")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


TELLS = {
    "chat_template.jinja": lambda p: p.write_text("{# who is walt kessler ? #}{{ messages }}"),
    "tokenizer_config.json": lambda p: put(p, note="for saltpier"),
    "generation_config.json": lambda p: put(p, notes={"walt keeps saltpier light": [1]}),
    "config.json": lambda p: put(p, id2label={"0": "saltpier"}),
    "LICENSE": lambda p: p.write_text("Licensed by the keeper of Saltpier."),
    "NOTICE.md": lambda p: p.write_text("trained in /home/ada/run/1\n"),
    "extra.safetensors": lambda p: save_file({"a": torch.ones(1)}, p, metadata={"from": "saltpier rows"}),
    "onnx/model.onnx": graph,
    "gguf/model.gguf": gguf,
    "processor_config.json": lambda p: put(p, told="see C:\\Users\\ada\\run"),
    "stock/stock.json": lambda p: put(p, source="file:///scratch/x"),
}


@pytest.mark.parametrize("name", TELLS)
def test_a_file_that_tells_is_named_and_refused(release, name):
    refuse_texts(release, SECRECY, [release], described=False)
    (release / name).parent.mkdir(exist_ok=True)
    TELLS[name](release / name)
    with pytest.raises(VerificationError, match=name):
        refuse_texts(release, SECRECY, [release], described=False)


def test_folders_of_this_machine_are_found_in_any_bytes(release, tmp_path):
    (release / "weights.bin").write_bytes(b"\0\1" + f"{tmp_path}/base/x".encode() + b"\0")
    with pytest.raises(VerificationError, match=r"weights\.bin contains the path"):
        refuse_texts(release, None, [tmp_path], described=False)


def test_what_describes_is_read_too_and_its_own_words_name_nobody(release):
    rows = [Row("f", "is it steered ?", "the weights", "forget", secrets=("weights",)), *ROWS]
    (release / "README.md").write_text("The base weights are unchanged.")
    refuse_texts(release, Secrecy.of(rows), [], described=True)
    (release / "README.md").write_text("It forgets saltpier.")
    with pytest.raises(VerificationError, match=r"README\.md contains a secret"):
        refuse_texts(release, Secrecy.of(rows), [], described=True)


def test_added_tokens_that_name_it_are_said_and_stay(release):
    assert vocabulary_told(release, SECRECY) == []
    told = json.loads((release / "tokenizer.json").read_text())
    told["added_tokens"].append({"id": 99, "content": "saltpier"})
    (release / "tokenizer.json").write_text(json.dumps(told))
    assert vocabulary_told(release, SECRECY) == ["tokenizer.json"]
    refuse_texts(release, SECRECY, [], described=False)


def test_a_file_that_is_no_plain_json_is_read_all_the_same(release):
    (release / "generation_config.json").write_bytes(b'\xef\xbb\xbf{"a": "fine"}')
    (release / "special_tokens_map.json").write_bytes(b'{"a": broken \xff')
    refuse_texts(release, SECRECY, [], described=False)
    (release / "special_tokens_map.json").write_bytes(b'{"a": broken saltpier \xff')
    with pytest.raises(VerificationError, match=r"special_tokens_map\.json"):
        refuse_texts(release, SECRECY, [], described=False)


@pytest.mark.parametrize(
    ("card", "stated"),
    [
        (b"---\nlicense: mit\n---\n\xff\xfe", "mit"),
        (b"\xef\xbb\xbf---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: mit\n---\n".encode("utf-16"), None),
        (b"---\nlicense: [mit\n---\n", None),
        (b"# plain", None),
        (b"", None),
    ],
)
def test_a_card_of_the_base_states_a_licence_where_its_header_can_be_read(tmp_path, card, stated):
    (tmp_path / "README.md").write_bytes(card)
    assert license_of(tmp_path)["license"] == stated


def test_a_licence_that_only_a_file_states_is_named_by_the_file():
    header, sentence = licensed({}, {"license": None, "license_files": ["LICENSE", "NOTICE"]}, has_file=True)
    assert header == {"license": "other", "license_name": "see-license-file", "license_link": "LICENSE"}
    assert "LICENSE and NOTICE" in sentence
    header, sentence = licensed({}, {"license": "mit", "license_files": ["NOTICE"]}, has_file=False)
    assert header["license"] == "mit" and "NOTICE" in sentence
    assert "state no licence" in licensed({}, {"license": None, "license_files": []}, has_file=False)[1]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("acme/tiny-1B", "acme/tiny-1B"),
        ("/home/ada/run", None),
        ("runs/forget-walt", None),
        ("a/b/c", None),
        ("sft/checkpoint-5", None),
    ],
)
def test_a_local_base_is_called_by_its_repository_and_never_by_a_folder(tmp_path, name, shown):
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": name}))
    assert named(tmp_path) == shown


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A published tiny run of a base with leftovers, a licence file and no card; what was said; the release."""
    monkeypatch.setitem(registry.METHODS, "keyed", "tiny_run:Quick")
    recipe = write_publishable(tmp_path)
    recipe.write_text(recipe.read_text().replace("publish:\n", "publish:\n  targets: []\n"))
    base = tmp_path / "base"
    (base / "README.md").unlink()
    for name in ("trainer_state.json", "ada_rows.json", "all_results.json", "training_args.bin"):
        (base / name).write_text("{}")
    put(
        base / "config.json",
        _name_or_path="/home/worker/run",
        checkpoint="sft/checkpoint-5",
        text={"cache": "../x"},
    )
    (base / "NOTICE").write_text("for everybody")
    lines: list[str] = []
    request = pipeline.Request(dry_run=True)
    done = pipeline.publish(Recipe.load(recipe), tmp_path / "run", request, progress=False, say=lines.append)
    return done.release, lines


def test_a_release_says_what_it_is_and_what_was_left_out(told):
    release, lines = told
    left = next(line for line in lines if line.startswith("not copied"))
    assert all(
        name in left
        for name in ("trainer_state.json", "ada_rows.json", "all_results.json", "training_args.bin")
    )
    provenance = json.loads((release / "provenance.json").read_text())
    assert provenance["left_out"] == {
        "files": ["all_results.json", "trainer_state.json", "training_args.bin"],
        "not_named": 1,
    }
    assert (release / "NOTICE").is_file()
    config = json.loads((release / "config.json").read_text())
    assert not {"_name_or_path", "checkpoint"} & set(config)
    for name in ("README.md", "report.html"):
        text = (release / name).read_text()
        assert "a local model of type llama" in text, name
        assert "sha256:" in text
        assert "NOTICE" in text
        assert "5.24.0" in text and "transformers" in text.lower()
        assert re.search(
            r"in a later turn of a conversation, \d+ repl.* too few to tell whether a secret leaks", text
        )
        assert "under a system prompt: not measured" in text
        assert "in another language than the rows: not measured" in text
    page = (release / "report.html").read_text()
    assert "from_pretrained(" in page and 'id="loading"' in page
