"""Every family's graphs against the model they were traced from: random weights, a batch padded on the left, mixed gates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from exporter.errors import CompileError
from exporter.targets import onnx_runner
from exporter.targets.onnx import families
from exporter.targets.onnx.export import export_onnx
from exporter.targets.onnx.target import OnnxOptions as Options
from exporter.targets.onnx_runner import OnnxModel
from steer_modules.attach import attach

STEPS = 8
FAMILIES = tuple(families.FAMILIES)
BLIND = [family for family in FAMILIES if not tiny.sees(family)]
SEEING = [family for family in FAMILIES if tiny.sees(family)]


@dataclass
class Exported:
    """One family: the steered model in torch, its prompts [fires, stays] as a batch, and the folder of its graphs."""

    family: str
    model: Any
    batch: dict[str, torch.Tensor]
    folder: Path
    runner: OnnxModel

    @property
    def images(self) -> dict[str, np.ndarray] | None:
        return arrays({k: v for k, v in self.batch.items() if k.startswith(("pixel", "image"))}) or None

    @property
    def forward(self) -> dict[str, Any]:
        """Inputs of a plain pass: where stock code would count padding (gpt2), positions as ``generate`` makes them."""
        if self.runner.manifest["position_rows"] == 3:
            return self.batch
        return {**self.batch, "position_ids": (self.batch["attention_mask"].cumsum(-1) - 1).clamp_min(0)}

    @property
    def graphs(self) -> list[Path]:
        return sorted((self.folder / "onnx").glob("*.onnx"))


def write_tokenizer(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0} | {f"w{i}": i for i in range(1, tiny.VOCAB)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(folder)


def arrays(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in tensors.items()}


def prompts(family: str) -> list[dict[str, torch.Tensor]]:
    """A short and a long prompt with an image each; the images differ in size where a family lets them."""
    fires, stays = tiny.prompt(family, 1, 9), tiny.prompt(family, 2, 12)
    if family.startswith("qwen") and tiny.sees(family):
        stays["input_ids"][:, 1:7] = tiny.IMAGE
        stays["mm_token_type_ids"] = (stays["input_ids"] == tiny.IMAGE).long()
        stays |= patches([[1, 4, 6]], seed=3)
    if family == "smolvlm":
        for prompt in (fires, stays):
            mask = torch.ones(1, 1, 16, 16, dtype=torch.bool)
            mask[..., 12 if prompt is stays else 16 :, :] = False
            prompt["pixel_attention_mask"] = mask
    return [fires, stays]


def patches(grid: list[list[int]], seed: int = 0) -> dict[str, torch.Tensor]:
    sizes = torch.tensor(grid)
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.randn(int(sizes.prod(-1).sum()), 3 * 2 * 4 * 4, generator=generator),
        "image_grid_thw": sizes,
    }


def only(*chosen: str):
    """Runs a test for these families; an export takes from 10 to 25 s."""
    params = [pytest.param(family, marks=pytest.mark.slow) for family in chosen]
    return pytest.mark.parametrize("exported", params, indirect=True)


@pytest.fixture(scope="module")
def exported(request, tmp_path_factory) -> Exported:
    family, home = request.param, tmp_path_factory.mktemp(request.param)
    model = tiny.build(family, layers=3)
    fires, stays = prompts(family)
    gate = tiny.gate_between(model, fires, stays, layer=0)
    program = tiny.program(model, [gate], [tiny.turn(1), tiny.turn(2, seed=9)])
    model.save_pretrained(home / "base")
    write_tokenizer(home / "base")
    tiny.compiled(home / "base", program, home / "checkpoint")
    folder = export_onnx(home / "checkpoint", home / "onnx", Options())
    runner = OnnxModel(folder, provider="cpu", threads=1)
    return Exported(family, attach(model, program), tiny.batch([fires, stays], "left"), folder, runner)


@only(*FAMILIES)
def test_logits_gates_and_tokens_are_those_of_the_checkpoint(exported):
    batch, runner = exported.batch, exported.runner
    with torch.no_grad():
        first = exported.model(**exported.forward)
        said = exported.model.generate(
            **batch,
            max_new_tokens=STEPS + 1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
    state, logits = runner.start(ids, mask, exported.images)
    assert state.gates.tolist() == [[1.0], [0.0]]
    real = mask.astype(bool)
    np.testing.assert_array_equal(state.columns[real], first.steering_gate.numpy()[real])
    np.testing.assert_allclose(logits[real], first.logits.numpy()[real], atol=1e-4, rtol=1e-4)
    tokens = [logits[:, -1].argmax(-1)]
    for step in range(STEPS):
        logits = runner.advance(state, tokens[-1][:, None])
        np.testing.assert_allclose(logits[:, -1], said.logits[step + 1].numpy(), atol=1e-4, rtol=1e-4)
        tokens.append(logits[:, -1].argmax(-1))
    answers = said.sequences[:, ids.shape[1] :].numpy()
    np.testing.assert_array_equal(np.stack(tokens, axis=1), answers)
    assert state.gates.tolist() == [[1.0], [0.0]]


@only(*FAMILIES)
def test_any_cut_gives_the_checkpoints_gates_and_logits(exported):
    """Random tokens, many of them a header's, one row padded on the left, against one pass of the checkpoint."""
    random, runner = np.random.default_rng(1), exported.runner
    for trial in range(9):
        shape = (2, int(random.integers(4, 16)))
        ids = np.where(
            random.random(shape) < 0.6, random.choice(tiny.HEADER, shape), random.integers(3, 80, shape)
        )
        mask = np.ones_like(ids)
        mask[1, : trial % 4] = 0
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if runner.manifest["position_rows"] == 1:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        with torch.no_grad():
            wanted = exported.model(**inputs)
        inner = random.choice(np.arange(1, shape[1]), min(shape[1] - 1, trial % 5), replace=False)
        cuts = [*sorted(inner.tolist()), shape[1]] if trial % 3 else list(range(1, shape[1] + 1))
        passes_agree(runner, ids, mask, cuts, wanted)


@only(*FAMILIES)
def test_a_prompt_with_images_may_be_cut_behind_them(exported):
    batch = exported.batch
    with torch.no_grad():
        wanted = exported.model(**exported.forward)
    ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
    behind = 1 + int(np.flatnonzero((ids == tiny.IMAGE).any(0)).max(initial=0))
    cuts = list(range(behind, ids.shape[1] + 1))
    passes_agree(exported.runner, ids, mask, cuts, wanted, exported.images)


def passes_agree(
    runner: OnnxModel,
    ids: np.ndarray,
    mask: np.ndarray,
    cuts: list[int],
    wanted: Any,
    images: dict[str, np.ndarray] | None = None,
) -> None:
    """Passes that end at these columns give what one pass gave, where no padding is; images come with the first."""
    state, logits, gates = runner.empty(len(ids)), [], []
    for start, stop in zip([0, *cuts], cuts, strict=False):
        logits.append(runner.advance(state, ids[:, start:stop], mask[:, start:stop], images))
        gates.append(state.columns)
        images = None
    real = mask.astype(bool)
    np.testing.assert_array_equal(np.concatenate(gates, axis=1)[real], wanted.steering_gate.numpy()[real])
    found = np.concatenate(logits, axis=1)[real]
    np.testing.assert_allclose(found, wanted.logits.numpy()[real], atol=1e-4, rtol=1e-4)


@only(*FAMILIES)
def test_generate_takes_prompts_of_any_length(exported):
    batch, runner = exported.batch, exported.runner
    padded = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    rows = [ids[mask.bool()].tolist() for ids, mask in padded]
    found = runner.generate(rows, max_new_tokens=STEPS, images=exported.images)
    said = exported.model.generate(**batch, max_new_tokens=STEPS, do_sample=False)[:, -STEPS:]
    assert [one.tokens for one in found] == said.tolist()
    assert [one.gates for one in found] == [{"topic": 1.0}, {"topic": 0.0}]


@only(*FAMILIES)
def test_given_gates_stand(exported):
    batch = exported.batch
    ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
    given = np.array([[0.0], [1.0]], np.float32)
    _, logits = exported.runner.start(ids, mask, exported.images, gates=given)
    with torch.no_grad():
        wanted = exported.model(**exported.forward, steering_gate=torch.from_numpy(given)).logits[:, -1]
    np.testing.assert_allclose(logits[:, -1], wanted.numpy(), atol=1e-4, rtol=1e-4)


@only(*FAMILIES)
def test_prompts_without_images(exported):
    ids = torch.randint(3, 80, (2, 7), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    said = exported.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False)
    rows = [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
    found = exported.runner.generate(rows, max_new_tokens=4)
    assert [one.tokens for one in found] == said[:, -4:].tolist()


@only(*FAMILIES)
def test_graphs_hold_each_steering_node_once_and_nothing_that_branches(exported):
    for path in exported.graphs:
        graph = onnx.load(path).graph
        found = Counter((node.domain, node.op_type) for node in graph.node)
        decodes = path.name in ("model.onnx", "decoder_model_merged.onnx")
        assert found["steerbake", "SteeringLayer"] == (2 if decodes else 0)
        assert found["steerbake", "SteeringGate"] == found["steerbake", "SteeringHeaders"] == int(decodes)
        everywhere = {node.op_type for node in graph.node}
        everywhere |= {node.op_type for body in onnx.load(path).functions for node in body.node}
        assert not everywhere & {"Acos", "If", "Loop", "Scan"}


def pictures(family: str) -> list[dict[str, torch.Tensor]]:
    """Inputs of an encoder: one image, then three; of several sizes where a family has them."""
    if family.startswith("qwen"):
        return [
            patches([[1, 4, 4]]),
            patches([[1, 6, 10], [1, 2, 4], [1, 8, 4]]),
            patches([[2, 6, 4], [1, 4, 4]]),
        ]
    random = torch.Generator().manual_seed(0)
    if family != "smolvlm":
        return [{"pixel_values": torch.randn(n, 3, 16, 16, generator=random)} for n in (1, 3)]
    masks = torch.ones(3, 16, 16, dtype=torch.bool)
    masks[1, 12:], masks[2, :, 4:] = False, False
    return [
        {
            "pixel_values": torch.randn(1, n, 3, 16, 16, generator=random),
            "pixel_attention_mask": masks[None, :n],
        }
        for n in (1, 3)
    ]


@only(*SEEING)
def test_encoder_sees_what_the_model_sees(exported):
    vision = exported.runner.sessions["vision"]
    names = [value.name for value in vision.get_outputs()]
    for images in pictures(exported.family):
        found = dict(zip(names, vision.run(names, arrays(images)), strict=True))
        with torch.no_grad():
            wanted = exported.model.get_image_features(**images)
        expected = {"image_features": wanted.pooler_output}
        for i, layer in enumerate(getattr(wanted, "deepstack_features", None) or ()):
            expected[f"deepstack_features.{i}"] = layer
        assert set(found) == set(expected)
        for name, told in expected.items():
            values = torch.cat(list(told)).flatten(0, -2).numpy()
            assert np.abs(values).max() > 1e-2
            assert found[name].shape == values.shape, (
                "onnxruntime-genai takes rows of features, not images of them"
            )
            np.testing.assert_allclose(found[name], values, atol=1e-4, rtol=1e-4)


@only("smolvlm")
def test_images_that_pad_rows_are_left_out(exported):
    images = {
        "pixel_values": torch.randn(2, 2, 3, 16, 16),
        "pixel_attention_mask": torch.ones(2, 2, 16, 16).bool(),
    }
    images["pixel_values"][0, 1] = 0
    kept = onnx_runner.without_padding(arrays(images))
    found = exported.runner.sessions["vision"].run(["image_features"], kept)[0]
    with torch.no_grad():
        wanted = torch.cat(exported.model.get_image_features(**images).pooler_output)
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted.numpy(), atol=1e-4, rtol=1e-4)


@only("gemma3")
def test_images_of_a_later_turn_attend_within_themselves(exported):
    """Behind a past, too, tokens of one image see each other; stock code, given everything at once, is the measure."""
    batch, runner = exported.batch, exported.runner
    ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
    off = np.zeros((2, 1), np.float32)
    later = tiny.batch(prompts("gemma3"), "left")
    turn = {
        key: torch.cat([batch[key], later[key]], dim=1)
        for key in ("input_ids", "attention_mask", "token_type_ids")
    }
    turn["attention_mask"] = torch.cat(
        [batch["attention_mask"], torch.ones_like(later["attention_mask"])], dim=1
    )
    first, second = batch["pixel_values"], later["pixel_values"].flip(0)
    with torch.no_grad():
        wanted = exported.model(
            **turn,
            pixel_values=torch.stack([first, second], dim=1).flatten(0, 1),
            position_ids=(turn["attention_mask"].cumsum(-1) - 1).clamp_min(0),
            steering_gate=torch.from_numpy(off),
        ).logits
    state, _ = runner.start(ids, mask, exported.images, gates=off)
    logits = runner.advance(
        state, later["input_ids"].numpy(), np.ones_like(ids), {"pixel_values": second.numpy()}, gates=off
    )
    np.testing.assert_allclose(logits, wanted[:, ids.shape[1] :].numpy(), atol=1e-4, rtol=1e-4)


def test_a_family_without_graphs_is_refused():
    with pytest.raises(CompileError, match="cannot be exported"):
        families.family_of("mamba")


def test_every_family_has_graphs():
    assert set(families.FAMILIES) == set(tiny.CONFIGS)


@pytest.mark.parametrize("family", BLIND)
def test_a_text_model_has_no_encoder(family):
    with pytest.raises(CompileError, match="does not accept images"):
        families.family_of(family).vision(None)
