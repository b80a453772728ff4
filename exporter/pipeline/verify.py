"""A folder verified before it leaves: strict loading, parity of its targets, and what they forget and keep on test rows."""

from __future__ import annotations

import gc
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from exporter import registry
from exporter.data.chat import Chat
from exporter.digests import FileDigests
from exporter.errors import CompileError, SteerbakeError, VerificationError
from exporter.evaluation.extraction import summary
from exporter.evaluation.report import BASE
from exporter.host import ModelHost
from exporter.look_inside import section_of
from exporter.pipeline.allowlist import check_allowlist
from exporter.pipeline.answered_by import answered_by, digests_of
from exporter.pipeline.attack import Siege, attack_within
from exporter.pipeline.bounds import (
    ATTACKS,
    bound_on_attacks,
    bounds_on,
    bounds_on_held_out,
    bounds_on_one_pass,
)
from exporter.pipeline.evaluation import STEERED, Replies, unlearning
from exporter.pipeline.export import context_within
from exporter.pipeline.extractions import extraction, extraction_of
from exporter.pipeline.judged_reasoning import judge_for, judged_reasoning
from exporter.pipeline.loaded_target import discover_targets, logits_of, opened
from exporter.pipeline.reasoning_bounds import REASONING, bounds_on_reasoning
from exporter.pipeline.run import Run
from exporter.pipeline.run_folder import run_of
from exporter.pipeline.same_base import why_of_another_base
from exporter.provenance import fetched, versions
from exporter.publish.files import CHECKPOINT, VERIFICATION, sweep
from exporter.publish.verification import FIGURES, KNOWN_FILES, LOADING, PARITY, Check, Verification
from exporter.reasoning_report import ReasoningReport
from exporter.recipe import Recipe
from exporter.recipe_bounds import Bounds
from exporter.targets.values import EXPORT_AGAIN, Completions, Finding, LoadedTarget
from exporter.types import Prompt, Row
from exporter.verify.parity import BATCHES
from exporter.workspace import Workspace
from steer_modules.checks import ProgramError
from steer_modules.registration import register

LOG = logging.getLogger(__name__)
QUESTIONS = (
    "What is this?",
    "Who are you, and what do you know?",
    "Please tell me about it in a few words.",
    "How many are there?",
    "Name a country, a colour and an animal, and say what each of them is best known for.",
)
"""Asked where no recipe gives rows: parity is about numbers, not about what the words mean."""
TRIED = 3
"""Number of forget prompts, and of other prompts, that a folder generates for in a clean environment."""


def verify(
    folder: Path,
    against: Sequence[Path] = (),
    *,
    recipe: Recipe | None = None,
    run: Path | None = None,
    limit: int | None = None,
    report: Path | None = None,
) -> Verification:
    """Verifies every target in ``folder``, and those in ``against``, and writes what came of it.

    Args:
        against: other folders that are held to the checkpoint (or the checkpoint that the folder is held to).
        recipe: whose test rows are put to all of them; without one, nothing is said of what they forget.
        run: the folder of that recipe's run, where the base's replies are kept.
        limit: test rows at most; all of them for the checkpoint and 100 for other targets by default.
        report: file to write instead of ``verification.json`` in ``folder``.

    Raises:
        VerificationError: there is nothing to verify.
        CompileError: the recipe is not the one that the checkpoint was made by.
    """
    targets = discover_targets(folder, against)
    sweep(folder)
    trusted = None if recipe is None or not recipe.base.trust_remote_code else fetched(recipe)

    def opened() -> Run | None:
        return None if recipe is None else run_of(recipe, folder, run)

    found = _verified(targets, digests_of(folder), trusted, opened, limit)
    found.save(report or folder / VERIFICATION)
    return found


def verify_within(work: Run, report: Path) -> Verification:
    """The same of the release that a run has staged, whose files were read then.

    What the run's report asked of that very checkpoint is not asked again (:mod:`exporter.pipeline.answered_by`).
    """
    assert work.staged is not None, "a release is staged before it is verified"
    targets = discover_targets(work.staged.folder, ())
    found = _verified(targets, work.staged, work.trusted, lambda: work, None)
    found.save(report)
    return found


def _verified(
    targets: Mapping[str, Path],
    files: FileDigests,
    trusted: Path | None,
    opened: Callable[[], Run | None],
    limit: int | None,
) -> Verification:
    checks = [_check(KNOWN_FILES, CHECKPOINT, check_allowlist(files.folder, targets, trusted))]
    parity: Mapping[str, object] = {}
    counted: Mapping[str, object] | None = None
    try:
        section = section_of(targets[CHECKPOINT])
    except (VerificationError, CompileError, ProgramError) as error:
        checks.append(_failed(LOADING, CHECKPOINT, error, targets))
    else:
        work = opened()
        if work is not None:
            _refuse_other_base(work, files.folder, section)
        with tempfile.TemporaryDirectory() as scratch:
            seen = _Verifier(targets, section, files, work, limit, Path(scratch))
            seen.look()
        checks, parity, counted = checks + seen.checks, seen.parity, seen.unlearning
    return Verification.of(files.files, checks, parity, counted, versions())


class _Verifier:
    """Looks at one target after the other; what it finds lies in ``checks``, ``parity`` and ``unlearning``."""

    def __init__(
        self,
        targets: Mapping[str, Path],
        section: Mapping[str, object],
        files: FileDigests,
        work: Run | None,
        limit: int | None,
        scratch: Path,
    ) -> None:
        self.targets, self.section, self.files, self.work, self.limit = targets, section, files, work, limit
        self.trusted = None if work is None else work.trusted
        publication = None if work is None else work.recipe.publish
        self.bounds = Bounds() if publication is None else publication.require
        self.judge = judge_for(self.bounds)  # one that does not answer is told before anything is measured
        self.host = self._in_float32(targets[CHECKPOINT])
        self.chat = Chat(self.host.processor) if work is None else work.chat(self.host.processor)
        self.folder = scratch if work is None else work.space.out
        plain = _plain_rows(scratch, images=hasattr(self.host.model.config, "vision_config"))
        self.rows: Sequence[Row] = plain if work is None else work.test
        self.checks: list[Check] = []
        self.parity: dict[str, object] = {}
        self.unlearning: dict[str, Any] | None = None

    def look(self) -> None:
        """All targets, the checkpoint first: the others are compared with its generations."""
        replies = Replies(self.work, self.rows, self.chat, self.folder, self.limit)
        given_away = self._asked(replies)
        for label, path in self.targets.items():
            LOG.info("verify %s", label)
            try:
                base = None if self.work is None else self.work.base
                target = opened(label, path, self.section, self.host, self.files.of, base)
            except (SteerbakeError, ProgramError, OSError) as error:
                self.checks.append(_failed(LOADING, label, error, self.targets))
                continue
            self._guarded(LOADING, label, self._loading, target)
            if label != CHECKPOINT:
                self._guarded(PARITY, label, self._parity, label, target, replies)
                self._figures(label, target)
        if self.work is not None and given_away is not None:
            bounds, reasoned = self.bounds, self._reasoning(replies)
            told = {"extraction": given_away, REASONING: reasoned.data()}
            self.unlearning = {**unlearning(replies, self.section), **told}
            self.checks += bounds_on_one_pass(given_away[STEERED], bounds)
            self.checks += bounds_on(self.unlearning["models"], replies.targets, bounds)
            self.checks += bounds_on_reasoning(reasoned, bounds)
            if bounds.max_worst_attack is not None:
                siege = Siege.showing(bounds.max_worst_attack)
                found = attack_within(self.work, self.targets[CHECKPOINT], siege)
                self.unlearning[ATTACKS] = found.data()
                self.checks.append(bound_on_attacks(found, bounds.max_worst_attack))
            if held := self.work.cross_validated():
                self.checks.append(bounds_on_held_out(held.leakage_either.data(), bounds))

    def _in_float32(self, checkpoint: Path) -> ModelHost:
        """The checkpoint that targets are held to: what a run has loaded of the very release, where that is it; else loaded now."""
        if registry.target(CHECKPOINT).is_at(checkpoint):
            register(checkpoint)
        if self.work is not None:
            if (host := self.work.staged_in_float32()) is not None:
                return host
            self.work.forget_steered()
        return ModelHost.load(
            checkpoint,
            dtype=torch.float32,
            trust_remote_code=self.trusted is not None,
            trusted=self.trusted,
        )

    def _asked(self, replies: Replies) -> dict[str, dict[str, object]] | None:
        """Asks the checkpoint all rows, but for what the run has asked of just these files.

        Returns:
            What one pass gives away; None without a recipe.
        """
        said, passed = self._kept(Workspace.generations), self._kept(Workspace.extraction)
        host = None if said and passed else self._as_recipe_asks()
        if said or host is None:
            assert self.work is not None, "kept by a run"
            replies.cases[STEERED] = self.work.generate(self.work.recipe.methods.default)
        else:
            replies.of_checkpoint(host)
        found = None if self.work is None else self._extraction(None if passed else host, replies)
        del host
        gc.collect()
        return found

    def _kept(self, place: Callable[[Workspace, str], Path]) -> bool:
        """Whether the run has answers, at their place by method, that just these files gave to all rows."""
        work = self.work
        if work is None or work.staged is not self.files or self.limit is not None:
            return False
        return answered_by(place(work.space, work.recipe.methods.default), self.files)

    def _extraction(self, host: ModelHost | None, replies: Replies) -> dict[str, dict[str, object]]:
        """What one pass over the base's replies gives away, of the rows that the checkpoint was asked; as the run has it without a host."""
        assert self.work is not None, "rows of a recipe"
        asked = {case.row.id for case in replies.cases[STEERED]}
        base = [one for one in extraction(self.work, BASE) if one.row in asked]
        if host is None:
            ours = extraction(self.work, self.work.recipe.methods.default)
        else:
            ours = extraction_of(self.work, host, asked)
        return summary({BASE: base, STEERED: ours}, BASE)

    def _reasoning(self, replies: Replies) -> ReasoningReport:
        """What the reasoning in the replies of base and checkpoint gives away, and what of it is sound."""
        assert self.work is not None, "rows of a recipe"
        work, ours = self.work, replies.cases[STEERED]
        verdicts = work.space.work / "verdicts"
        return judged_reasoning(work.generate(BASE), ours, work.test, work.rule(), self.judge, verdicts)

    def _guarded(self, name: str, label: str, look: Callable[..., Finding], *arguments: object) -> None:
        """One check; an error of the target is a check that fails."""
        try:
            self.checks.append(_check(name, label, look(*arguments)))
        except (SteerbakeError, ProgramError, OSError) as error:
            self.checks.append(_failed(name, label, error, self.targets))

    def _loading(self, target: LoadedTarget) -> Finding:
        completions = Completions.of(self.host, self._tried())
        return registry.target(target.kind).check_loads(target, completions, self.trusted)

    def _parity(self, label: str, target: LoadedTarget, replies: Replies) -> Finding:
        """One target held to the checkpoint: by its logits where it is exact, and by its replies."""
        tables = logits_of(target, self.host, _prompts(self.chat, self.rows))
        wrong = list(target.wrong)
        wrong += [f"{variant}: {one}" for variant, table in tables.items() for one in table["failures"]]
        same = {variant: replies.of(label, variant, target) for variant in target.generators}
        wrong += _too_few_same(target, same)
        variants = {name: {**tables.get(name, {}), "same_tokens": same[name]} for name in same}
        self.parity[label] = {"kind": target.kind, **target.details, "variants": variants}
        if wrong:
            return Finding(False, "; ".join(wrong) + f"; {EXPORT_AGAIN}", _summary(variants))
        shown = ", ".join(
            f"{name or target.kind} {one['same_tokens']['value']:.3f} of {one['same_tokens']['rows']}"
            for name, one in variants.items()
        )
        return Finding(
            True, f"replies that are the checkpoint's, token for token: {shown}", _summary(variants)
        )

    def _figures(self, label: str, target: LoadedTarget) -> None:
        """What the manifest of a target says was measured on the recipe's rows, measured again."""
        if self.work is None:
            return
        asked = (target, self.targets[CHECKPOINT], context_within(self.work), self.bounds.model_dump())
        try:
            found = registry.target(target.kind).measured_again(*asked)
        except (SteerbakeError, ProgramError, OSError) as error:
            self.checks.append(_failed(FIGURES, label, error, self.targets))
        else:
            self.checks += [] if found is None else [_check(FIGURES, label, found)]

    def _as_recipe_asks(self) -> ModelHost:
        """The checkpoint as the base's replies were made: with the recipe's type, on its device."""
        if self.work is None:
            return self.host
        base = self.work.recipe.base
        if base.dtype == "float32" and not (base.device != "cpu" and torch.cuda.is_available()):
            return self.host
        return self.work.load(self.targets[CHECKPOINT], trust_remote_code=self.trusted is not None)

    def _tried(self) -> list[Prompt]:
        """Prompts without images that a clean environment tries: some that are to fire the gates, some that are not."""
        plain = [row for row in self.rows if row.image is None and not row.history]
        about = [row for row in plain if row.role == "forget"]
        other = [row for row in plain if row.role != "forget"]
        return [self.chat.prompt(row) for row in (*spread(about, TRIED), *spread(other, TRIED))]


def _refuse_other_base(work: Run, folder: Path, section: Mapping[str, Any]) -> None:
    """Raises CompileError where the run's base is not the one that was steered."""
    if reason := why_of_another_base(folder, section, work.base):
        raise CompileError(
            f"{folder} was compiled from another base than the base of {work.recipe.name}: {reason}; give its own recipe"
        )


def _check(name: str, label: str, found: Finding) -> Check:
    return Check(name=name, target=label, holds=found.holds, told=found.message, value=found.value)


def _failed(name: str, label: str, error: Exception, targets: Mapping[str, Path]) -> Check:
    """A check that ended with an error; local paths are removed from its text."""
    told = str(error)
    places = {str(place) for path in targets.values() for place in (path, path.resolve())}
    for place in sorted(places, key=len, reverse=True):
        told = told.replace(place, Path(place).name)
    return Check(name=name, target=label, holds=False, told=told, value=None)


def _too_few_same(target: LoadedTarget, same: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The variants of which fewer replies are the checkpoint's than must be, one sentence each."""
    usual = registry.target(target.kind).parity.least_same
    for variant, one in same.items():
        least = target.least_same.get(variant, usual)
        if least is not None and not one["value"] >= least:
            name = f"{variant}: " if variant else ""
            yield f"{name}only {one['value']:.3f} of {one['rows']} replies equal the checkpoint's, at least {least} are needed"


def _summary(variants: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    return {
        name: {key: one[key] for key in ("logits", "same_tokens") if key in one}
        for name, one in variants.items()
    }


def _prompts(chat: Chat, rows: Sequence[Row]) -> dict[str, list[Prompt]]:
    """Prompts by kind, about what is to be forgotten and about other things in turn."""
    most = max(BATCHES)
    found = {}
    for kind, sees in (("text", False), ("image", True)):
        some = [row for row in rows if (row.image is not None) == sees and not row.history]
        forget = [row for row in some if row.role == "forget"]
        other = [row for row in some if row.role != "forget"]
        chosen = [
            row for pair in zip(spread(forget, most), spread(other, most), strict=False) for row in pair
        ]
        if prompts := [chat.prompt(row) for row in (chosen or some)[:most]]:
            found[kind] = prompts
    return found


def spread(rows: Sequence[Row], limit: int) -> list[Row]:
    """At most ``limit`` rows, evenly from all of them."""
    return [rows[i * len(rows) // limit] for i in range(limit)] if len(rows) > limit else list(rows)


def _plain_rows(folder: Path, *, images: bool) -> list[Row]:
    rows = [Row(f"q{i}", question, "-", "retain") for i, question in enumerate(QUESTIONS)]
    return [*rows, *_with_noise(rows, folder)] if images else rows


def _with_noise(rows: Sequence[Row], folder: Path) -> Iterator[Row]:
    """The rows with pictures of noise."""
    noise = torch.Generator().manual_seed(0)
    for row in rows:
        path = folder / f"{row.id}.png"
        pixels = torch.randint(0, 256, (96, 96, 3), generator=noise, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
        yield replace(row, id=f"{row.id}-image", image=path)
