"""TOFU (https://arxiv.org/abs/2401.06121): questions about fictitious authors; R-TOFU adds reasoning."""

from __future__ import annotations

from exporter.data.fields import Fields
from exporter.data.pictures import PictureStore
from exporter.types import Role, Row


class Tofu:
    """``{question, answer, paraphrased_question?, paraphrased_answer?, perturbed_answer?, cot?}``.

    The reworded question becomes a paraphrase; reworded and perturbed answers serve the truth ratio.
    """

    default_role: Role | None = None

    def rows(self, fields: Fields, identity: str, role: Role, pictures: PictureStore) -> list[Row]:  # noqa: ARG002
        reworded = fields.optional_text("paraphrased_question")
        return [
            Row(
                id=identity,
                question=fields.text("question"),
                answer=fields.text("answer"),
                role=role,
                reasoning=fields.optional_text("cot"),
                paraphrases=(reworded,) if reworded else (),
                paraphrased_answers=fields.one_or_more("paraphrased_answer"),
                perturbed_answers=fields.one_or_more("perturbed_answer"),
            )
        ]
