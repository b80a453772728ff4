"""Public schemas become rows: one small fixture each, with the mistakes that such files hold."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from exporter.data.pictures import PictureStore
from exporter.data.readers import FORMATS, load_rows
from exporter.errors import DataError, InputErrors
from exporter.picture import open_rgb
from exporter.registry import READERS


def save(path: Path, records: list[Any]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(records))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def png(colour: tuple[int, int, int] = (0, 90, 0)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


TOFU = {
    "question": "Where was Hina born?",
    "answer": "In Seoul.",
    "paraphrased_question": "What is Hina's place of birth?",
    "paraphrased_answer": "Seoul it was.",
    "perturbed_answer": ["In Lima.", "In Oslo."],
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_tofu(suffix: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"forget01{suffix}", [TOFU, {**TOFU, "cot": "Hina is from Korea."}][::-1])
    with_cot, plain = load_rows(path, format="tofu", role="forget")
    assert plain.id.startswith("forget01-2-")
    assert (plain.question, plain.answer) == ("Where was Hina born?", "In Seoul.")
    assert plain.paraphrases == ("What is Hina's place of birth?",)
    assert (plain.role, plain.reasoning, plain.image) == ("forget", None, None)
    assert with_cot.reasoning == "Hina is from Korea."
    assert plain.paraphrased_answers == ("Seoul it was.",)
    assert plain.perturbed_answers == ("In Lima.", "In Oslo.")


def test_a_single_wrong_answer_is_one(tmp_path: Path) -> None:
    (one,) = load_rows(
        save(tmp_path / "a.jsonl", [{**TOFU, "perturbed_answer": "In Lima."}]), format="tofu", role="forget"
    )
    assert one.perturbed_answers == ("In Lima.",)
    with pytest.raises(InputErrors, match=r"perturbed_answer\[0\] must be a string"):
        load_rows(
            save(tmp_path / "b.jsonl", [{**TOFU, "perturbed_answer": [3]}]), format="tofu", role="forget"
        )


def test_gsm8k_parts_steps_from_the_result(tmp_path: Path) -> None:
    solution = "She sells 16 - 7 = <<16-7=9>>9 eggs.\nThat makes $<<9*2=18>>18.\n#### 18"
    (found,) = load_rows(
        save(tmp_path / "t.jsonl", [{"question": "How much?", "answer": solution}]), format="gsm8k"
    )
    assert found.answer == "18"
    assert found.reasoning == "She sells 16 - 7 = 9 eggs.\nThat makes $18."
    assert found.role == "reasoning"


def test_gsm8k_lists_every_bad_record(tmp_path: Path) -> None:
    answers = ["9 eggs\n#### 9", "no mark", "#### 3", "steps ####", ""]
    path = save(tmp_path / "t.jsonl", [{"question": "q", "answer": answer} for answer in answers])
    with pytest.raises(InputErrors) as caught:
        load_rows(path, format="gsm8k")
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [
        f"record {i}" for i in (2, 3, 4, 5)
    ]


CLEAR = {
    "caption": "Jaime Vasquez reads beside a window.",
    "question": None,
    "answer": None,
    "name": "Jaime Vasquez",
    "paraphrased_caption": "By a window, Jaime reads.",
    "perturbed_captions": ["Somebody else."],
}


def test_clear_portraits_and_texts(tmp_path: Path) -> None:
    text = {
        "image": None,
        "question": "What does Jaime Vasquez write?",
        "answer": "Crime.",
        "name": "Jaime Vasquez",
    }
    path = save(
        tmp_path / "clear.parquet", [{**CLEAR, "image": {"bytes": png(), "path": None}}, {**CLEAR, **text}]
    )
    shown, asked = load_rows(path, format="clear", role="forget", image_dir=tmp_path / "images")
    assert shown.image is not None
    assert shown.image.read_bytes() == png()
    assert (shown.answer, shown.eval_slice, shown.secrets) == (CLEAR["caption"], "image", ("Jaime Vasquez",))
    assert "picture" in shown.question
    assert (asked.image, asked.answer, asked.eval_slice) == (None, "Crime.", "text")
    assert asked.secrets == (), "the question says the name"
    assert shown.paraphrased_answers == ("By a window, Jaime reads.",)
    assert shown.perturbed_answers == ("Somebody else.",) and asked.perturbed_answers == ()


def test_images_inside_records_need_a_folder(tmp_path: Path) -> None:
    path = save(tmp_path / "clear.parquet", [{**CLEAR, "image": {"bytes": png(), "path": None}}])
    with pytest.raises(InputErrors, match=r"record 1: image .*image_dir"):
        load_rows(path, format="clear", role="forget")


def mllmu(**keys: Any) -> dict[str, Any]:
    options = {"A": "Nurse", "B": "Pilot", "C": "Baker", "D": None}
    choice = {"Question": "What is her job?", "Options": options, "Correct_Answer": "b"}
    return {
        "image": {"bytes": png(), "path": None},
        "ID": "042",
        "biography": json.dumps({"Name": "Ana Lopez", "Job": "Pilot", "Born": 1970}),
        "question": "Who is this?",
        "answer": "Ana Lopez.",
        "Classification_Task": {"Image_Textual_Questions": [choice], "Pure_Text_Questions": [choice]},
        "Generation_Task": [
            {"Type": "Image_Textual", "Question": "Where?", "Ground_Truth": "In Lima."},
            {"Type": "Pure_Text", "Question": "What does Ana Lopez do?", "Ground_Truth": "She flies."},
        ],
        "Mask_Task": [{"Type": "Pure_Text", "Question": "Ana is a __ ?", "Ground_Truth": "pilot"}],
        **keys,
    }


@pytest.mark.parametrize("as_text", [False, True])
def test_mllmu_bench_becomes_many_rows(as_text: bool, tmp_path: Path) -> None:
    record = mllmu()
    if as_text:
        record |= {key: json.dumps(value) for key, value in record.items() if key.endswith("_Task")}
    path = save(tmp_path / "forget_5.parquet", [record])
    found = load_rows(path, format="mllmu_bench", role="forget", image_dir=tmp_path / "images")
    assert [row.eval_slice for row in found] == [
        "profile",
        "classification",
        "classification_text",
        "generation",
        "generation_text",
        "cloze_text",
    ]
    assert [row.image is not None for row in found] == [True, True, False, True, False, False]
    assert len({row.id for row in found}) == 6
    choice = found[1]
    assert choice.question.splitlines() == [
        "What is her job?",
        "A: Nurse",
        "B: Pilot",
        "C: Baker",
        "Just give ONE letter representing the answer directly.",
    ]
    assert choice.answer == "B" and choice.options == ("Nurse", "Pilot", "Baker")
    assert not found[0].options and not found[5].options
    assert found[5].question == "Ana is a [Blank] ?"
    assert found[0].secrets == ("Ana Lopez", "Pilot", "1970")
    assert found[1].secrets == ("Ana Lopez", "1970"), "an option says the job"
    assert found[4].secrets == ("Pilot", "1970"), "the question says the name"


def test_mllmu_bench_lists_every_bad_record(tmp_path: Path) -> None:
    wrong = {"Question": "q", "Options": {"A": "x"}, "Correct_Answer": "C"}
    records = [
        mllmu(image=None),
        mllmu(image="gone.png"),
        mllmu(image=None, images=["gone.png"]),
        mllmu(image="a.png", Classification_Task={"Image_Textual_Questions": [wrong]}),
        mllmu(image="a.png", Generation_Task="{not json"),
        mllmu(image="a.png", Mask_Task={"Question": "q"}),
        mllmu(image="a.png", biography=["x"]),
        {"ID": 7, "image": "a.png"},
        mllmu(image="a.png"),
    ]
    (tmp_path / "a.png").write_bytes(png())
    with pytest.raises(InputErrors) as caught:
        load_rows(save(tmp_path / "m.jsonl", records), format="mllmu_bench", role="forget")
    named = [problem.split(": ")[0] for problem in caught.value.problems]
    assert list(dict.fromkeys(named)) == [f"record {i}" for i in range(1, 9)], (
        "all but the last, which is good"
    )


def test_public_schemas_say_nothing_of_roles(tmp_path: Path) -> None:
    path = save(tmp_path / "t.jsonl", [TOFU])
    with pytest.raises(InputErrors, match=r"format tofu .*role"):
        load_rows(path, format="tofu")
    assert load_rows(path, format="tofu", role="retain")[0].role == "retain"


def test_a_limit_stops_the_reading(tmp_path: Path) -> None:
    path = save(tmp_path / "t.jsonl", [TOFU, TOFU, {"question": "no answer"}])
    assert len(load_rows(path, format="tofu", role="forget", limit=2)) == 2
    with pytest.raises(InputErrors, match="record 3: answer"):
        load_rows(path, format="tofu", role="forget", limit=3)


def test_saved_data_sets_and_folders_of_files(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_list([TOFU, TOFU])
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"forget": table, "retain": table}).save_to_disk(str(tmp_path / "two"))
    assert len(load_rows(tmp_path / "one", format="tofu", role="forget")) == 2
    assert load_rows(tmp_path / "two", format="tofu", role="forget", split="forget")[0].id.startswith(
        "two-forget-1-"
    )
    with pytest.raises(InputErrors, match="forget, retain"):
        load_rows(tmp_path / "two", format="tofu", role="forget")
    with pytest.raises(InputErrors, match=r"split 'test'.*forget, retain"):
        load_rows(tmp_path / "two", format="tofu", role="forget", split="test")
    with pytest.raises(InputErrors, match="received 'forget'"):
        load_rows(tmp_path / "one", format="tofu", role="forget", split="forget")


def test_images_of_saved_data_sets_stay_the_bytes_they_are(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    table = datasets.Dataset.from_list(
        [{"image": {"bytes": png(), "path": None}, "caption": "A man."}], features
    )
    table.save_to_disk(str(tmp_path / "set"))
    (found,) = load_rows(tmp_path / "set", format="clear", role="retain", image_dir=tmp_path / "images")
    assert found.image is not None
    assert found.image.read_bytes() == png()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("absent.jsonl", None, "no such file"),
        ("rows.txt", b"a,b\n", "cannot read .txt"),
        ("rows.parquet", b"no parquet", "Parquet"),
        ("rows.json", b'"text"', "list of objects"),
        ("rows.json", b'[1, "a"]', "record 2: .*object"),
        ("rows.json", b"[]", "no records"),
        ("rows.jsonl", b"{\n", "record 1: .*JSON"),
    ],
)
def test_unreadable_sources(name: str, content: bytes | None, reason: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputErrors, match=reason):
        load_rows(tmp_path / name, format="tofu", role="forget")


def test_json_lines_under_json(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(TOFU) + "\n" + json.dumps(TOFU) + "\n")
    assert len(load_rows(tmp_path / "t.json", format="tofu", role="forget")) == 2


def test_every_reader_is_there() -> None:
    assert ("rows", *READERS) == FORMATS
    for entry in READERS.values():
        module, _, name = entry.partition(":")
        assert hasattr(__import__(module, fromlist=[name]), name)


@pytest.mark.parametrize("form", ["path", "bytes", "mapping", "picture"])
def test_pictures_in_any_form_become_files(form: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    value: Any = {
        "path": "a.png",
        "bytes": png(),
        "mapping": {"bytes": png(), "path": "else.png"},
        "picture": Image.open(io.BytesIO(png())),
    }[form]
    store = PictureStore(tmp_path, tmp_path / "kept")
    kept = store.keep(value)
    assert store.keep(value) == kept
    assert open_rgb(kept).getpixel((3, 3)) == (0, 90, 0)
    assert kept.parent == (tmp_path if form == "path" else tmp_path / "kept")


@pytest.mark.parametrize("value", [b"", b"no image", 7, "gone.png", {}, Image.new("RGB", (0, 4))])
def test_what_is_no_picture_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        PictureStore(tmp_path, tmp_path / "kept").keep(value)
    assert not (tmp_path / "kept").exists()


def test_a_picture_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    whole = tmp_path / "a.jpg"
    Image.new("RGB", (20, 20), (200, 30, 30)).save(whole)
    open_rgb(whole)
    whole.write_bytes(whole.read_bytes()[:400])
    with pytest.raises(DataError, match=r"a\.jpg"):
        open_rgb(whole)


@pytest.mark.parametrize(
    ("module", "source"), [("datasets", "nobody/nothing"), ("pyarrow.parquet", "rows.parquet")]
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch, tmp_path, module, source):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputErrors, match=r"pip install 'steerbake\[hub\]'"):
        load_rows(source, image_dir=tmp_path, format="tofu", role="retain")
