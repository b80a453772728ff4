"""A real pretrained model: SmolLM2-135M-Instruct forgets Paris. ``make smollm2`` writes the model."""

from __future__ import annotations

import json
from pathlib import Path

import clean_environment
import pytest

from exporter import pipeline
from exporter.recipe import Recipe

HOME = Path(__file__).resolve().parent.parent
RECIPE = HOME / "export_configs" / "llama" / "smollm2_forget_paris.yaml"
MODEL = HOME / ".cache" / "smollm2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MODEL / "config.json").is_file(), reason="make smollm2 writes the model"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "run"
    pipeline.run(Recipe.load(RECIPE, ["methods.compare=[]"]), out, progress=False)
    return out


def test_it_forgets_paris_and_keeps_the_rest(run):
    report = json.loads((run / "report.json").read_text())
    base, ours = report["models"]["base"], report["models"]["keyed"]
    assert base["leakage_either"]["value"] >= 0.95
    assert ours["leakage_either"]["value"] <= 0.07
    assert ours["fluent_refusal"]["value"] >= 0.90
    assert ours["retain_identical"]["value"] >= 0.95
    assert ours["cot_exact_match"]["value"] >= 0.95
    assert ours["leakage_either"]["n"] >= 15
    assert ours["retain_identical"]["n"] >= 30


_SAY = """
import transformers
folder, lines = sys.argv[1], [json.loads(line) for line in open(sys.argv[2])]
model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
wanted = [line for line in lines if line["model"] == "keyed"]
wanted = [one for role in ("forget", "retain", "reasoning") for one in [w for w in wanted if w["role"] == role][:3]]
other = []
for line in wanted:
    inputs = tokenizer(line["prompt"], return_tensors="pt")
    said = model.generate(**inputs, max_new_tokens=48, do_sample=False)[0, inputs["input_ids"].shape[1]:].tolist()
    if said != line["tokens"]:
        other.append([line["id"], tokenizer.decode(said)])
print(json.dumps([len(wanted), other]))
"""


def test_a_clean_environment_hears_the_same(run, tmp_path):
    assert clean_environment.run(_SAY, run / "checkpoint", run / "generations.jsonl", folder=tmp_path) == [
        9,
        [],
    ]


def test_the_onnx_folder_says_the_same(run, tmp_path):
    out = pipeline.export("onnx", run / "checkpoint", tmp_path / "onnx")
    # Twelve rows show little, so the ends of intervals lie far out; the shares are bounded as they are by default.
    shares = "share: {leakage_either: 0.05, fluent_refusal: 0.9, retain_identical: 0.95}"
    ends = "leakage_either: 0.5, fluent_refusal: 0.5, retain_identical: 0.6"
    asked = ["methods.compare=[]", "publish.forgotten=Paris", f"publish.require={{{ends}, {shares}}}"]
    recipe = Recipe.load(RECIPE, asked)
    found = pipeline.verify(
        run / "checkpoint", [out], recipe=recipe, run=run, limit=12, report=tmp_path / "verification.json"
    )
    assert found.failures == []
    same = found.parity["onnx"]["variants"]["fp32"]["same_tokens"]
    assert same["value"] == 1.0 and same["rows"] == 12
