"""From a recipe to a published folder: run, stage, export, verify, describe, seal, push."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.atomic import write_text
from exporter.digests import digest_of_file
from exporter.errors import InputErrors, PublishError, VerificationError
from exporter.evaluation.judges.endpoint import MODEL
from exporter.look_inside import section_of
from exporter.pipeline.preflight import preflight
from exporter.pipeline.push import Request, described_and_sealed, push
from exporter.pipeline.release_report import describe, refuse_telling, secrecy_of
from exporter.pipeline.run import Run
from exporter.pipeline.staging import license_of, made_from, plain_recipe, stage
from exporter.pipeline.texts import refuse_texts, vocabulary_told
from exporter.pipeline.verify import verify_within
from exporter.provenance import HOST, digest_of_code, target_code, versions
from exporter.publish.files import PROVENANCE, VERIFICATION
from exporter.publish.hub import Pushed
from exporter.publish.hub_errors import known_token
from exporter.publish.origin import LeftOut
from exporter.publish.verification import Verification
from exporter.recipe import Recipe
from exporter.recipe_publish import Publish
from exporter.splits import digest_of_rows
from exporter.targets.companions import left_out, licences
from exporter.verify.secrecy import Secrecy

VERIFYING = (
    "exporter/data",
    "exporter/earlier_code.json",
    "exporter/earlier_code.py",
    "exporter/estimate.py",
    "exporter/evaluation",
    "exporter/foreign_code.py",
    *HOST,
    "exporter/inspection.py",
    "exporter/model_folder.py",
    "exporter/pipeline",
    "exporter/publish",
    "exporter/reasoning_report.py",
    "exporter/verify",
    "exporter/wording",
    "steer_modules",
)
"""Code that decides what a verification finds, beside that of the targets."""


@dataclass(frozen=True)
class Published:
    """What came of it.

    Attributes:
        report: the content of report.json.
        release: the folder.
        pushed: None where it was not pushed.
    """

    report: dict[str, object]
    release: Path
    pushed: Pushed | None


def publish(
    recipe: Recipe,
    out: Path,
    request: Request,
    *,
    progress: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Published:
    """Everything that a recipe with a ``publish`` section asks for, up to the Hub; the same command resumes.

    Raises:
        InputErrors: the recipe does not say what is to be published where, its words tell what they must not, or its test rows are too
            few to show what it requires.
        VerificationError: the folder does not hold what it must; it lies there to be looked at, and nothing is pushed.
        PublishError: the Hub does not take it.
    """
    found = preflight(recipe, out, publishing=True, forced=request.force)
    try:
        asked = _asked(recipe, request)
    except InputErrors as error:
        raise InputErrors(error.source, [*error.problems, *found.problems]) from None
    found.refuse()
    repo_id = request.repo_id or asked.repo
    work = Run(recipe, out, progress)
    groups = {row.eval_slice for row in work.test if row.eval_slice is not None}
    words = (asked.model_dump(mode="json"), plain_recipe(work), recipe.name)
    refuse_telling(secrecy_of(work, whole=asked.show_forgotten), *words, groups)
    work.compiled()
    release = stage(work, asked)
    secrecy = secrecy_of(work, whole=asked.show_forgotten)
    places = (work.space.out, work.base, work.source, recipe.locate("."))
    left = left_out(work.base, code=work.trusted is not None)
    for note in _notes(work, release, left, secrecy):
        say(note)
    refuse_texts(release, secrecy, places, described=False)
    report = work.reported().data()
    verification = _verified(work, release)
    work.forget_steered()
    made = made_from(work, asked, section_of(release))
    origin = made.model_copy(update={"left_out": _shown_names(left, secrecy)})
    describe(work, release, origin, verification.data())
    assert work.staged is not None, "staged above"
    sealed = described_and_sealed(release, origin, verification, work.staged.files, repo_id)
    try:
        refuse_texts(release, secrecy, places, described=True)
    except VerificationError:
        (release / PROVENANCE).unlink()  # without its seal, it is not pushed either
        raise
    if repo_id is not None and not request.dry_run:
        return Published(report, release, push(release, repo_id, request, say=say, sealed=sealed))
    if problems := verification.problems(release, sealed.files):
        raise VerificationError(
            f"{release} is not published:\n" + "\n".join(f"  - {one}" for one in problems)
        )
    return Published(report, release, None)


def _notes(work: Run, release: Path, left: Sequence[str], secrecy: Secrecy | None) -> Iterator[str]:
    """What a publisher is to know of the base's files."""
    if left:
        yield f"not copied from the base: {', '.join(left)}"
    if told := vocabulary_told(release, secrecy):
        yield (
            f"added tokens in {', '.join(told)} contain names from the forget set; they are not removed, because that would change the "
            "tokenizer"
        )
    asked = work.recipe.publish
    if not (asked and asked.license) and not licences(work.base) and license_of(work.base)["license"] is None:
        yield (
            "the base has no known licence (no LICENSE file and none in its card), which the card states; set publish.license if you may "
            "choose it"
        )


def _shown_names(left: Sequence[str], secrecy: Secrecy | None) -> LeftOut:
    """Names of files that were left out, but for those that might tell what was forgotten."""
    shown = [name for name in left if secrecy is None or not secrecy.hints(re.sub(r"[-_.]", " ", name))]
    return LeftOut(files=shown, not_named=len(left) - len(shown))


def _asked(recipe: Recipe, request: Request) -> Publish:
    """The recipe's section, after everything that can be refused before hours of fitting."""
    if recipe.publish is None:
        raise InputErrors(
            recipe.name,
            [
                "publish: this section is required to publish; set at least publish.forgotten, your description of the forget set"
            ],
        )
    if not request.dry_run:
        if request.repo_id is None and recipe.publish.repo is None:
            raise InputErrors(
                recipe.name,
                ["publish.repo: give the repository, owner/name, here or with --repo; or use --dry-run"],
            )
        if known_token() is None:
            raise PublishError(
                "no Hub token: log in with `hf auth login`, or set HF_TOKEN to a token with write access"
            )
    return recipe.publish


def _verified(work: Run, release: Path) -> Verification:
    """The verification of a staged release; one that was made of the same files and rows stands, unless it failed."""
    path = work.space.work / VERIFICATION
    required = work.recipe.publish.require if work.recipe.publish else None
    assert work.staged is not None, "staged above"
    inputs = {
        "files": dict(work.staged.files),
        "rows": digest_of_rows(work.test),
        "base": digest_of_file(work.space.generations("base")),
        "bounds": None if required is None else required.model_dump(),
        "judge": os.environ.get(MODEL) if required is not None and required.judge else None,
        "report": work.recipe.report.model_dump(),
        "versions": versions(),
        "code": digest_of_code(*VERIFYING, *target_code()),
    }

    def look() -> None:
        verify_within(work, path)

    fresh = not work.space.ledger.run("verify", inputs, path, look)
    found = Verification.read(path)
    if fresh and found.failures:
        path.unlink()
        work.space.ledger.run("verify", inputs, path, look)
        found = Verification.read(path)
    write_text(release / VERIFICATION, path.read_text(encoding="utf-8"))
    return found
