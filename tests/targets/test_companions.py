"""What goes along with a model: what it needs, by name; nothing else that lies in its folder, nothing behind a link, no place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_run

from exporter.errors import CompileError
from exporter.targets.companions import copy_companions, left_out, needed_files, without_places

SECRET = "walt lives in oslo"
NEEDED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "vocab.txt", "tokenizer.model", "spiece.model", "THIRD_PARTY_NOTICES.txt", "LICENSE-CC-BY-4.0.txt", "LLAMA_LICENSE", "sentencepiece.bpe.model", "qwen.tiktoken", "tekken.json",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.jinja",
    "chat_template.json", "generation_config.json", "LICENSE", "LICENSE.txt", "NOTICE", "LICENSE-MIT", "Notice.md",
    "tokenizer.4.0.0.json", "USE_POLICY.md",
)  # fmt: skip
NOT_NEEDED = (
    "trainer_state.json", "train_samples.json", "all_results.json", "forget_rows.json", "vocab_notes.json", "notes.txt",
    "requirements.txt", "generated_predictions.txt", "merges.json", "LICENSE_forget_rows.json", "README.md", "own.py",
    "training_args.bin", "optimizer.pt", "tokenizer.json.bak", "data.model", "rows.tiktoken", "x.jinja", "adapter_config.json",
    "tokenizer.forget.json", "NOTICE.forget.txt", "steering.json", "verification.json",
)  # fmt: skip


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def copied(source: Path, **more) -> dict[str, str]:
    out = source.parent / "out"
    out.mkdir()
    copy_companions(source, out, **more)
    return {p.relative_to(out).as_posix(): p.read_text() for p in sorted(out.rglob("*")) if p.is_file()}


def test_what_a_model_needs_goes_along_and_nothing_else(source):
    for name in (*NEEDED, *NOT_NEEDED):
        (source / name).write_text("{}")
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_text("")
    (source / ".hidden.json").write_text("{}")
    (source / "checkpoint-500").mkdir()
    (source / "checkpoint-500" / "tokenizer.json").write_text("{}")
    (source / "additional_chat_templates").mkdir()
    for name in ("tool.jinja", "notes.txt"):
        (source / "additional_chat_templates" / name).write_text("x")
    assert set(copied(source)) == {*NEEDED, "additional_chat_templates/tool.jinja"}
    assert left_out(source) == sorted((*NOT_NEEDED, "checkpoint-500"))


def test_trusted_code_goes_along(source):
    (source / "own.py").write_text("1")
    (source / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": "own.T"}}')
    assert copied(source, code=True) == {
        "own.py": "1",
        "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": "own.T"}}',
    }


def test_links_out_of_the_folder_are_not_followed(source, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "it").write_text(SECRET)
    (secret / "x.jinja").write_text(SECRET)
    for name in ("vocab.json", "LICENSE", "tokenizer.model"):
        (source / name).symlink_to(secret / "it")
    (source / "additional_chat_templates").symlink_to(secret)
    (source / "real").write_text("fine")
    (source / "merges.txt").symlink_to("real")
    (source / "tokenizer.json").symlink_to("nowhere")
    assert copied(source) == {"merges.txt": "fine"}
    assert {"vocab.json", "LICENSE", "tokenizer.model", "additional_chat_templates"} < set(left_out(source))


def test_one_linked_template_is_not_followed_either(source, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "a.jinja").symlink_to(tmp_path / "secret")
    assert copied(source) == {}


def test_links_of_the_hubs_cache_are_its_files(tmp_path):
    repo = tmp_path / "models--o--n"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs" / "abc").write_text("fine")
    (tmp_path / "other").write_text(SECRET)
    (snapshot / "merges.txt").symlink_to("../../blobs/abc")
    (snapshot / "vocab.txt").symlink_to("../../../other")
    assert needed_files(snapshot) == ["merges.txt"]


PLACES = {
    "_name_or_path": "org/name",
    "name_or_path": "anything",
    "tokenizer_file": "/home/ada/run/tokenizer.json",
    "cache": "~/models",
    "output_dir": "C:\\Users\\ada\\run",
    "share": "\\\\server\\run",
    "url": "file:///data/run",
    "told": "made from /home/ada/run, on monday",
    "data": "/data/rows/forget.jsonl",
    "above": "../rows/forget.jsonl",
    "relative": "runs/forget-walt/final",
    "root": "/mnt",
    "bucket": "copied from s3://lab/walt",
    "variable": "$HOME/run",
    "forward": "C:/Users/ada/run",
    "base_model_name_or_path": "org/name",
    "vocab_file": "vocab.txt",
    "special_tokens_map_file": "special_tokens_map.json",
    "checkpoint": "sft",
    "cache_dir": "anything",
    "run_name": "forget-walt",
    "hf_token": "hidden",
    "note": "by hf_abcdefghijklmnopqrstuvwxyz",
    "/home/ada/run": 1,
}
KEPT = {
    "eos_token": "/s/x/",
    "extra_special_tokens": ["/home/ada/", "<x>"],
    "added_tokens_decoder": {"1": {"content": "/home/ada/"}},
    "chat_template": "/home/{{ x }}/",
    "page": "https://example.org/home/page",
    "ratio": "1/2",
    "slash": "/",
    "size": 1e30,
}


def test_settings_lose_places_and_keep_words(source):
    told = {**PLACES, **KEPT, "inner": {**PLACES, "list": ["/home/ada/x", "y", {**PLACES, "z": 1}], "k": 2}}
    (source / "tokenizer_config.json").write_text(json.dumps(told))
    (source / "tokenizer.json").write_text(json.dumps({"vocab": {"/home/ada/": 1}, "name_or_path": "x"}))
    found = copied(source)
    assert json.loads(found["tokenizer_config.json"]) == {**KEPT, "inner": {"list": ["y", {"z": 1}], "k": 2}}
    assert "/home/ada" in found["tokenizer.json"]


def test_code_is_dropped_wherever_it_is_asked_for():
    assert without_places({"auto_map": {"A": "b.C"}, "x": {"auto_map": "b.C", "y": 1}}) == {"x": {"y": 1}}


def test_settings_without_places_keep_their_bytes(source):
    text = '{ "a":1.50,\n\n"b": "\\u00e4" }'
    (source / "processor_config.json").write_text(text)
    assert copied(source) == {"processor_config.json": text}


def test_settings_that_are_no_object_are_refused(source):
    (source / "processor_config.json").write_text("[]")
    with pytest.raises(CompileError, match=r"processor_config\.json"):
        copied(source)


def test_a_checkpoint_bears_nothing_of_what_lay_beside_its_base(tmp_path):
    base, out = tmp_path / "base", tmp_path / "out"
    tiny_run.write_base(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps({**config, "_name_or_path": "/home/walt", "x": {"y": "/home/walt/z"}})
    )
    (base / "samples.json").write_text(json.dumps([SECRET]))
    tiny_run.steer(base, out)
    told = [path for path in out.rglob("*") if path.is_file() and b"walt" in path.read_bytes()]
    assert told == []


def test_a_config_behind_a_link_is_refused(tmp_path):
    base = tmp_path / "base"
    tiny_run.write_base(base)
    (base / "config.json").rename(tmp_path / "elsewhere.json")
    (base / "config.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(CompileError, match="is a link"):
        tiny_run.steer(base, tmp_path / "out")
