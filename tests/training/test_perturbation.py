"""PerMU: where subjects are named, what the teacher is, and what is learned of it."""

from __future__ import annotations

from dataclasses import replace

import planted
import pytest
import torch

from exporter.errors import DataError
from exporter.training.examples import Collator, examples
from exporter.training.lora import linear_layers, with_adapter
from exporter.training.losses import divergence, mean_nll
from exporter.training.objectives.perturbation import Perturbation, PerturbationParams, subject_columns
from exporter.training.step import Step
from exporter.training.subject_columns import columns_of, named_subjects


@pytest.fixture
def context(tmp_path):
    return planted.context(planted.host(), tmp_path, PerturbationParams(precision="float32"))


def test_a_subject_is_found_wherever_it_stands(context):
    row = replace(planted.row("ada"), answer="ada lives in oslo .")
    sequence = context.chat.encode(row)
    tokenizer, ids = context.host.tokenizer, (*sequence.prompt.ids, *sequence.response)
    wanted = [at for at, token in enumerate(ids) if token == planted.VOCABULARY["ada"]]
    assert len(wanted) == 2
    assert columns_of(tokenizer, sequence, "ada") == wanted
    assert columns_of(tokenizer, sequence, "where does ada") == list(range(wanted[0] - 2, wanted[0] + 1))
    assert columns_of(tokenizer, sequence, "ben") == []


def test_subjects_are_what_templates_leave_open(context):
    rows = context.rows("fit", "forget")
    assert named_subjects(context, rows) == list(planted.FORGET)
    again = [
        replace(row, id=f"{row.id}~1", question=f"home of {name} ?")
        for row, name in zip(rows, planted.FORGET, strict=True)
    ]
    assert named_subjects(context, again) == list(planted.FORGET)
    alone = replace(context, fit=tuple(replace(row, template_id=None) for row in rows))
    assert named_subjects(alone, alone.fit) == [row.question for row in rows]


def test_a_subject_without_words_is_refused(context, tmp_path):
    row = planted.row("ada", image=tmp_path / "face.png")
    with pytest.raises(DataError, match="image"):
        named_subjects(context, [row])


def test_a_question_that_cannot_be_read_back_is_refused(context):
    strange = tuple(
        replace(row, question=f"where does {row.question.split()[2]}  live ?", template_id=None)
        for row in context.rows("fit", "forget")
    )
    with pytest.raises(DataError, match="reads it back"):
        subject_columns(replace(context, fit=strange), context.params)


def teacher_and_loss(context, params, answer):
    """The loss of a step of one forget row with an adapter that does nothing, and the base's logits of every column, clean and perturbed."""
    row = replace(planted.row("ada"), answer=answer)
    context = replace(context, fit=(row, *planted.rows("fit", "retain")), params=params)
    objective = Perturbation()
    objective.columns = subject_columns(context, params)
    found = examples(context, responses="rows", epochs=1, sides=objective.sides)
    with with_adapter(context.host.model, linear_layers(context.host.model), rank=2, alpha=2) as tuned:
        step = Step(tuned, tuned, Collator(context.host)([found[0]]))
        torch.manual_seed(7)
        loss = objective.loss(step, params)
        torch.manual_seed(7)
        draw = torch.randn(*step.forget["input_ids"].shape, planted.WIDTH)
        named = (step.forget["input_ids"] == planted.VOCABULARY["ada"])[..., None]
        noise = params.noise * step.embeddings.std() * draw * named
        every = {key: value for key, value in step.forget.items() if key != "labels"}
        clean, perturbed = step.base(every).logits, step.perturbed(every, noise).logits
    return loss, clean, perturbed, step


@pytest.mark.parametrize("answer", ["lives in oslo .", "ada lives in oslo ."])
def test_the_teacher_is_the_formula(context, answer):
    params = PerturbationParams(contrast=0.3, retain_weight=0.0, responses="rows")
    loss, clean, perturbed, step = teacher_and_loss(context, params, answer)
    teacher = perturbed - 0.3 * clean
    start = int((step.forget["labels"] != -100).nonzero()[0, 1])
    if answer.startswith("ada"):
        teacher[0, start - 1] = clean[0, start - 1]
    assert (clean - perturbed)[0, start:].abs().max() > 0.5
    assert torch.allclose(loss, divergence(teacher, clean, step.forget["labels"]), rtol=1e-4)


def test_nothing_before_the_subject_is_perturbed(context):
    params = PerturbationParams(retain_weight=0.0, responses="rows")
    _, clean, perturbed, step = teacher_and_loss(context, params, "lives in oslo .")
    first = int((step.forget["input_ids"] == planted.VOCABULARY["ada"]).nonzero()[0, 1])
    assert torch.equal(clean[0, :first], perturbed[0, :first])
    assert not torch.allclose(clean[0, first:], perturbed[0, first:])


def test_the_perturbed_base_does_not_know_the_answer(context):
    """The control: it is the subject's tokens that the fact hangs on."""
    surprises = {}
    for noise in (1e-6, 30.0):
        params = PerturbationParams(noise=noise, retain_weight=0.0, responses="rows")
        _, _, perturbed, step = teacher_and_loss(context, params, "lives in oslo .")
        surprises[noise] = mean_nll(perturbed, step.forget["labels"]).item()
    assert surprises[30.0] > 10 * surprises[1e-6]
