"""What a model is fed by follows its config, and every id it is fed is one that it has."""

import json
import shutil

import numerals
import pytest
import tiny
import tiny_run
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SiglipVisionConfig,
)

from exporter.data.chat import Chat
from exporter.errors import DataError, InputErrors
from exporter.host import ModelHost
from exporter.reader import open_reader
from exporter.types import Encoded, Row


def tokens(generated):
    return [one.tokens for one in generated]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ids") / "base"
    tiny_run.write_base(folder)
    return folder


def changed(base, folder, name="config.json", **told):
    shutil.copytree(base, folder, dirs_exist_ok=True)
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **told}))
    return folder


@pytest.mark.parametrize("end", ["</s>", "[END]"])
def test_a_pad_token_beyond_the_embedding_is_not_used(end, base, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(base)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "eos_token": end})
    shutil.copytree(base, tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    host, plain = ModelHost.load(tmp_path / "base"), ModelHost.load(base)
    assert host.tokenizer.pad_token_id >= size == host.num_embeddings
    assert host.pad_id == (2 if end == "</s>" else 0)
    asked = [Chat(plain.processor).prompt(Row("r", q, "-", "retain")) for q in ("where ?", "home of ada ?")]
    assert tokens(host.generate(asked, max_new_tokens=5)) == tokens(plain.generate(asked, max_new_tokens=5))
    assert host.batch([Encoded(one) for one in asked], "left")["input_ids"].max() < size


def test_a_negative_pad_token_is_not_used():
    host = numerals.host()
    host.processor.pad_token_id, host.processor.eos_token_id = -1, None
    assert host.pad_id == 0


def test_a_tokenizer_of_another_model_is_refused(base, tmp_path):
    model = tiny.build("llama", text={"vocab_size": 20})
    model.save_pretrained(tmp_path / "model")
    for file in base.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "model")
    with pytest.raises(InputErrors, match=r"entries beyond the 20 embeddings"):
        ModelHost.load(tmp_path / "model")


def test_a_token_that_the_model_has_not_is_named(base, tmp_path):
    host = ModelHost.load(base)
    host.tokenizer.add_tokens(["<odd>"])
    one = Chat(host.processor).prompt(Row("r", "where <odd> ?", "-", "retain"))
    with pytest.raises(DataError, match=r"id 32 .*<odd>.* only 32 ids"):
        host.generate([one], max_new_tokens=1)
    with pytest.raises(DataError, match="only 32 ids"):
        host.batch([Encoded(numerals.prompt("5 6"), (7, 99))], "right")


@pytest.mark.parametrize("pad", [32, 10**6])
def test_a_config_whose_pad_token_the_model_has_not_is_refused(pad, base, tmp_path):
    with pytest.raises(InputErrors, match=rf"pad_token_id {pad}, .* 32 ids"):
        ModelHost.load(changed(base, tmp_path / "base", pad_token_id=pad))


@pytest.mark.parametrize(
    "name", ["Gemma3Processor", "LlavaProcessor", "Qwen2_5_VLProcessor", "NoSuchProcessor"]
)
def test_a_text_model_is_read_by_its_tokenizer_whatever_processor_is_named(name, base, tmp_path):
    folder = changed(base, tmp_path / "base", "tokenizer_config.json", processor_class=name)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}')
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": name}))
    for reader in (open_reader(folder), ModelHost.load(folder).processor):
        assert (
            reader("ada lives")["input_ids"] == AutoTokenizer.from_pretrained(base)("ada lives")["input_ids"]
        )


def test_what_cannot_be_read_is_named(base, tmp_path):
    with pytest.raises(InputErrors, match="tokenizer cannot"):
        open_reader(tmp_path / "absent")
    shutil.copy(base / "config.json", tmp_path)
    with pytest.raises(InputErrors, match="tokenizer cannot"):
        open_reader(tmp_path)


def test_a_sentencepiece_file_alone_names_the_package_that_reads_it(base, tmp_path, monkeypatch):
    shutil.copy(base / "config.json", tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    monkeypatch.setattr("exporter.reader.find_spec", lambda _: None)
    with pytest.raises(InputErrors, match="pip install sentencepiece"):
        open_reader(tmp_path)


OLD = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")


@pytest.mark.parametrize("missing", [(), OLD, OLD[:1], OLD[1:2]])
@pytest.mark.parametrize(("tower", "strategy"), [("clip", "default"), ("clip", "full"), ("siglip", "full")])
def test_image_tokens_are_counted_where_an_old_processor_file_does_not_say_how(
    missing, tower, strategy, base, tmp_path
):
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    kind = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}[tower]
    config = LlavaConfig(
        vision_config=kind(**vision, image_size=16, patch_size=8),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-1,
    )
    size = {"height": 16, "width": 16}
    LlavaProcessor(
        CLIPImageProcessor(size=size, crop_size=size),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=int(tower == "clip"),
    ).save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in told.items() if key not in missing}))
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    host = ModelHost.load(tmp_path)
    asked = host.processor(
        text=["<image> ?"], images=[Image.new("RGB", (20, 30), (9, 99, 200))], return_tensors="pt"
    )
    assert (asked["input_ids"] == config.image_token_id).sum() == 5 - (strategy == "default") - (
        tower == "siglip"
    )
    host.model(**asked)
