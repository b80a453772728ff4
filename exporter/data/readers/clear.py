"""CLEAR (https://arxiv.org/abs/2410.18057): TOFU's authors with generated portraits and captions."""

from __future__ import annotations

from exporter.data.fields import Fields
from exporter.data.pictures import PictureStore
from exporter.data.readers.base import kept_picture
from exporter.types import Role, Row

CAPTION_QUESTION = "What can you tell about the person in this picture?"
"""Asked about a portrait whose record brings a caption and no question."""


class Clear:
    """``{image?, caption?, question?, answer?, name?, paraphrased_caption?, perturbed_captions?}``.

    With an image the caption is the answer (the field ``answer`` where there is no caption), without one the
    text answer is. The name is a secret unless the question gives it away. Reworded and perturbed captions
    serve the truth ratio of captions.
    """

    default_role: Role | None = None

    def rows(self, fields: Fields, identity: str, role: Role, pictures: PictureStore) -> list[Row]:
        image = kept_picture(fields, "image", pictures)
        question, answer = fields.optional_text("question"), None
        if fields.has("image"):
            question = question or CAPTION_QUESTION
            answer = fields.optional_text("caption")
        if question is None:
            fields.note("question", "is missing; only records with an image may omit it")
        name, captioned = fields.optional_text("name"), answer is not None
        return [
            Row(
                id=identity,
                question=question or "",
                answer=answer or fields.text("answer"),
                role=role,
                image=image,
                secrets=(name,) if name and name.casefold() not in (question or "").casefold() else (),
                eval_slice="image" if fields.has("image") else "text",
                paraphrased_answers=fields.one_or_more("paraphrased_caption") if captioned else (),
                perturbed_answers=fields.one_or_more("perturbed_captions") if captioned else (),
            )
        ]
