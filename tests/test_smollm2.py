"""A real pretrained model: SmolLM2-135M-Instruct forgets Einstein, of whom a newcomer brings twelve rows. ``make smollm2`` writes the model."""

from __future__ import annotations

import json
from pathlib import Path

import clean_environment
import pytest
import torch

from benchmarks.first_user.__main__ import replies
from exporter import pipeline
from exporter.data.rows import read_rows
from exporter.host import ModelHost
from exporter.pipeline.forget import Forgotten
from exporter.recipe import Recipe
from exporter.types import Prompt
from exporter.wording.leaks import tells

HOME = Path(__file__).resolve().parent.parent
MODEL = HOME / ".cache" / "smollm2"
FIRST_USER = HOME / "benchmarks" / "first_user"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason="make smollm2 writes the model"),
]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Forgotten:
    out = tmp_path_factory.mktemp("smollm2") / "run"
    return pipeline.forget(str(MODEL), FIRST_USER / "rows" / "einstein.jsonl", out, progress=False)


def test_a_dozen_rows_make_a_model_forget_what_else_is_asked_of_the_topic(done):
    assert "Einstein" in done.names
    held = read_rows(FIRST_USER / "held" / "einstein.jsonl")
    brought = [row for row in read_rows(done.recipe.parent / "rows" / "fit.jsonl") if not row.made]
    assert not {row.question for row in held} & {row.question for row in brought}
    base, steered = replies(MODEL, held), replies(done.out / "checkpoint", held, trust=True)
    forget = [i for i, row in enumerate(held) if row.role == "forget"]
    retain = [i for i, row in enumerate(held) if row.role == "retain"]
    assert sum(tells(base[i], held[i].secrets) for i in forget) >= 0.9 * len(forget)
    assert sum(tells(steered[i], held[i].secrets) for i in forget) <= 0.25 * len(forget)
    assert sum(base[i] == steered[i] for i in retain) >= 0.8 * len(retain)


def test_its_report_shows_no_more_than_twelve_rows_can(done):
    report = json.loads((done.out / "report.json").read_text())
    base, ours = report["models"]["base"], report["models"]["keyed"]
    assert base["leakage_either"]["value"] >= 0.8
    assert ours["leakage_either"]["value"] <= 0.07
    assert ours["fluent_refusal"]["value"] >= 0.90
    assert ours["retain_identical"]["value"] >= 0.90
    assert report["cross_validated"]["leakage_either"]["n"] == 12
    assert report["cross_validated"]["leakage_either"]["high"] > 0.2


def test_the_same_recipe_again_redoes_nothing(done):
    fitted = (done.out / "steering").stat().st_mtime_ns
    again = pipeline.run(Recipe.load(done.recipe), done.out, progress=False)
    assert again == done.report
    assert (done.out / "steering").stat().st_mtime_ns == fitted


_SAY = """
import transformers
folder, texts, most = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
said = []
for text in texts:
    inputs = tokenizer(text, return_tensors="pt")
    said.append(model.generate(**inputs, max_new_tokens=most, do_sample=False)[0, inputs["input_ids"].shape[1]:].tolist())
print(json.dumps(said))
"""


def test_a_clean_environment_generates_the_same(done, tmp_path):
    """In float32, and prompt by prompt: the run's own replies are in the type that this processor is fast in, and in batches."""
    lines = map(json.loads, (done.out / "generations.jsonl").read_text().splitlines())
    ours = [line for line in lines if line["model"] == "keyed"]
    chosen = [one for role in ("forget", "retain") for one in [w for w in ours if w["role"] == role][:5]]
    texts, most = [one["prompt"] for one in chosen], done.report["max_new_tokens"]
    host = ModelHost.load(done.out / "checkpoint", dtype=torch.float32, trust_remote_code=True)
    prompts = [Prompt(text, tuple(host.tokenizer(text)["input_ids"])) for text in texts]
    wanted = [list(host.generate([one], max_new_tokens=most)[0].tokens) for one in prompts]
    del host
    found = clean_environment.run(_SAY, done.out / "checkpoint", json.dumps(texts), most, folder=tmp_path)
    assert len(wanted) == 10
    assert found == wanted


def test_the_onnx_folder_generates_the_same(done, tmp_path):
    out = pipeline.export("onnx", done.out / "checkpoint", tmp_path / "onnx")
    # What the shares are is asked above, on more rows: here it is that ONNX says the same.
    shares = "share: {leakage_either: 0.3, fluent_refusal: 0.7, retain_identical: 0.7}"
    ends = "leakage_either: 0.75, fluent_refusal: 0.25, retain_identical: 0.4"
    changes = ["publish.forgotten=Einstein", f"publish.require={{{ends}, {shares}}}"]
    recipe = Recipe.load(done.recipe, [*changes, "base.dtype=float32"])  # as the graphs compute
    found = pipeline.verify(
        done.out / "checkpoint",
        [out],
        recipe=recipe,
        run=done.out,
        limit=12,
        report=tmp_path / "verification.json",
    )
    assert found.failures == []
    same = found.parity["onnx"]["variants"]["fp32"]["same_tokens"]
    assert same["value"] == 1.0 and same["rows"] == 12
