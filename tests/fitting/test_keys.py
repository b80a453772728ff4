"""A table leads from where a model means to tell to where it would refuse: every key is a planted mean, beside its prototype."""

from __future__ import annotations

from pathlib import Path

import planted
import pytest
import torch

from exporter.errors import DataError
from exporter.fitting.keys import key_tables
from exporter.fitting.refusals import NaturalRefusal, Wording
from exporter.types import Row

A, B, END = 84, 85, 2
FIRST, SECOND = (40, 41, 42, END), (50, 51, END)
TABLE = torch.randn(500, planted.WIDTH, generator=torch.Generator().manual_seed(3))


def state(sequence, column, layer):
    """Of the last token, of who was asked about, and of how many questions stand before."""
    ids = sequence.prompt.ids + sequence.response
    told = sum(token == A for token in ids[: column + 1])
    return (layer + 1.0) * TABLE[ids[column]] + TABLE[ids[0]] + 0.1 * told


def row(number, role="forget", **keys):
    return Row(f"{role}{number}", f"{number} {A} {B}", f"{number + 50} 7 8", role, **keys)


def natural(response, kept=None, layers=(0, 1)):
    """A refusal whose prototype at place t of layer l is 1000 l + 10 t + its first token, in every coordinate."""
    kept = (True,) * len(response) if kept is None else kept
    states = {
        layer: torch.arange(len(response))[:, None].float() * 10
        + 1000.0 * layer
        + response[0]
        + torch.zeros(1, 4)
        for layer in layers
    }
    return NaturalRefusal(
        Wording(tuple(response), None, "no"), "unknown", states, (1.0,) * len(response), kept
    )


ROWS = [row(n) for n in range(100, 104)] + [row(n, "retain") for n in range(200, 206)]
PLAIN = {"pairs": 0, "prefill_tokens": 0}


def tables(folder, refusals, asked=ROWS, layers=(0, 1), split="fit", **keys):
    given = planted.states_context(folder, state, **{"fit": [], split: asked})
    return key_tables(given, refusals, list(layers), split=split, **keys)


def who(*numbers):
    return TABLE[list(numbers)].mean(0)


@pytest.mark.parametrize("split", ["fit", "calibrate"])
def test_keys_are_mean_states_along_the_forced_refusal(split, tmp_path):
    found = tables(tmp_path, [natural(FIRST)], split=split, **PLAIN)
    subject = who(*range(100, 104)) + 0.1
    for layer in (0, 1):
        table = found[layer]
        assert table.says.tolist() == [*FIRST, FIRST[0]]
        for place, last in enumerate((B, *FIRST[:-1])):
            torch.testing.assert_close(table.keys[place], (layer + 1) * TABLE[last] + subject)
        torch.testing.assert_close(
            table.keys[-1], (layer + 1) * TABLE[8] + subject
        )  # the end of what was told
        wanted = [1000.0 * layer + 10 * t + FIRST[0] for t in (0, 1, 2, 3, 0)]
        assert table.prototypes[:, 0].tolist() == wanted
        torch.testing.assert_close(table.center, table.keys.mean(0))


def test_positions_that_the_model_does_not_agree_with_lead_nowhere(tmp_path):
    broken = natural(SECOND, kept=(True, False, True))
    found = tables(tmp_path, [broken, natural(FIRST)], **PLAIN)[0]
    assert found.says.tolist() == [SECOND[0], SECOND[2], *FIRST, FIRST[0]]
    assert found.prototypes[:2, 0].tolist() == [50.0, 70.0]
    torch.testing.assert_close(found.keys[1], TABLE[51] + who(*range(100, 104)) + 0.1)


def test_a_prototype_knows_its_place_in_its_refusal(tmp_path):
    refusals = [natural(FIRST), natural(SECOND, kept=(True, False, True))]
    table = tables(tmp_path, refusals, **PLAIN)[0]
    said = [refusals[w].wording.response[t] for w, t in zip(table.wording, table.position, strict=True)]
    assert said == table.says.tolist()
    wanted = torch.stack(
        [refusals[w].states[0][t] for w, t in zip(table.wording, table.position, strict=True)]
    )
    assert torch.equal(table.prototypes, wanted)
    assert set(table.wording.tolist()) == {0, 1}


def test_at_most_so_many_rows_are_averaged(tmp_path):
    found = tables(tmp_path, [natural(FIRST)], layers=[0], **PLAIN)[0]
    few = key_tables(planted.states_context(tmp_path, state, ROWS), [natural(FIRST)], [0], rows=2, **PLAIN)[0]
    torch.testing.assert_close(few.keys[0], TABLE[B] + who(100, 103) + 0.1)
    assert not torch.allclose(few.keys[0], found.keys[0])


def test_questions_about_pictures_have_keys_of_their_own(tmp_path):
    rows = [row(100), row(101, image=Path("x.png")), *ROWS[4:]]
    found = tables(tmp_path, [natural(SECOND)], rows, [0], **PLAIN)[0]
    assert found.says.tolist() == [*SECOND, *SECOND, SECOND[0], SECOND[0]]
    torch.testing.assert_close(found.keys[0], TABLE[B] + who(100) + 0.1)
    torch.testing.assert_close(found.keys[3], TABLE[B] + who(101) + 0.1)


def test_a_later_turn_has_keys_of_its_own(tmp_path):
    found = tables(tmp_path, [natural(SECOND)], layers=[0], pairs=40, prefill_tokens=0)[0]
    assert found.says.tolist() == [*SECOND, *SECOND, SECOND[0]]
    alone = tables(tmp_path / "alone", [natural(SECOND)], layers=[0], **PLAIN)[0]
    assert torch.equal(found.keys[:3], alone.keys[:3])
    others = torch.cat([(found.keys[3] - TABLE[B] - 0.2)[None], TABLE[200:206]])
    weights = torch.linalg.lstsq(others[1:].T, others[0]).solution  # a mean over who was asked about before
    torch.testing.assert_close(others[1:].T @ weights, others[0], rtol=1e-3, atol=1e-3)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-3)
    assert float(weights.min()) > 0


def test_a_begun_answer_is_followed_by_the_refusal_from_its_first_own_token(tmp_path):
    """Behind one, two and three tokens of the answer; what both begin with is not said again."""
    found = tables(tmp_path, [natural(FIRST)], layers=[0], pairs=0, prefill_tokens=3, rows=99)[0]
    plain, begun = found.says[:4].tolist(), found.says[4:-1].tolist()
    assert plain == [*FIRST]
    assert begun == [*FIRST] * 3
    torch.testing.assert_close(found.keys[4], who(*range(150, 154)) + who(*range(100, 104)) + 0.1)
    torch.testing.assert_close(found.keys[8], TABLE[7] + who(101, 102, 103) + 0.1)
    torch.testing.assert_close(found.keys[9], TABLE[40] + who(101, 102, 103) + 0.1)
    torch.testing.assert_close(found.keys[12], TABLE[8] + who(102, 103) + 0.1)


def test_what_answer_and_refusal_share_is_not_said_twice(tmp_path):
    one = Row("f", f"100 {A} {B}", "40 9 8", "forget")
    found = tables(tmp_path, [natural(FIRST)], [one, *ROWS[4:]], [0], pairs=0, prefill_tokens=2)[0]
    assert found.says.tolist() == [
        *FIRST,
        *FIRST[1:],
        FIRST[0],
    ]  # nothing behind "40" alone, which the refusal says too
    torch.testing.assert_close(found.keys[4], TABLE[9] + TABLE[100] + 0.1)
    torch.testing.assert_close(found.keys[5], TABLE[41] + TABLE[100] + 0.1)
    assert found.prototypes[4:7, 0].tolist() == [50.0, 60.0, 70.0]


def test_answers_shorter_than_the_beginning_give_none(tmp_path):
    found = tables(tmp_path, [natural(FIRST)], layers=[0], pairs=0, prefill_tokens=9)[0]
    assert len(found.says) == len(FIRST) * (1 + 4) + 1  # the answers have four tokens, their end included


def test_only_a_whole_wording_is_resumed_or_begun_anew(tmp_path):
    broken = natural(SECOND, kept=(True, False, True))
    found = tables(tmp_path, [broken, natural(FIRST)], layers=[0], pairs=0, prefill_tokens=1)[0]
    assert found.says.tolist() == [SECOND[0], SECOND[2], *FIRST, *FIRST, FIRST[0]]


def test_nothing_to_forget_is_an_error(tmp_path):
    with pytest.raises(DataError, match="forget"):
        tables(tmp_path, [natural(FIRST)], ROWS[4:])
