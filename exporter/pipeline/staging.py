"""The folder that is published: links to a run's checkpoint and to what was exported from it, and a record of what it was made from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from exporter import registry
from exporter.atomic import link_or_copy, remove, whole_folder
from exporter.digests import FileDigests
from exporter.errors import CompileError
from exporter.look_inside import section_of
from exporter.model_folder import read_object
from exporter.pipeline.answered_by import digests_of
from exporter.pipeline.attacked_rows import FITTED_WITH
from exporter.pipeline.bases import adapters_told
from exporter.pipeline.export import export_within
from exporter.pipeline.release_report import secrecy_of
from exporter.pipeline.run import Run
from exporter.provenance import HOST, digest_of_base, digest_of_code, target_code, versions
from exporter.publish import provenance
from exporter.publish.files import CHECKPOINT, files_of, is_verified
from exporter.publish.metadata import is_repo_id
from exporter.publish.origin import Origin, PinnedBase, ProofRecord
from exporter.publish.provenance import changed_shards
from exporter.publish.recipes import shown_recipe
from exporter.recipe_publish import Publish
from exporter.splits import digest_of_rows
from exporter.targets.base_weights import SINGLE, BaseWeights
from exporter.targets.companions import left_out, licences
from steer_modules.program import STEERING_TENSORS, SteeringProgram

RELEASE = "release"
SHARD = "base-00001-of-00001.safetensors"
"""What the base's one shard is called in a release."""
CALIBRATION_SET = (
    *FITTED_WITH,
    "exporter/pipeline/export.py",
    "exporter/pipeline/calibration_set.py",
    "exporter/pipeline/generic_prompts.txt",
)
"""What decides which conversations a target is solved on."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FOLDER = re.compile(
    r"(^|/)(\.|runs?|out(puts?)?|models?|checkpoints?|exp|experiments?|data|results?|saved?|sft|dpo|merged?|tmp|ckpts?|local)(/|$)|checkpoint-\d",
    re.IGNORECASE,
)
"""Names with one slash that are folders more often than repositories."""


class Licence(TypedDict):
    """The licence in a model's card."""

    license: str | None
    license_name: str | None
    license_link: str | None


def stage(work: Run, publish: Publish) -> Path:
    """Writes RUN/release: checkpoint and targets, nothing that describes them; an older one gives way.

    From then on the run asks its checkpoint there. What somebody put beside the files of the checkpoint stays where it is. Targets that are solved on rows come first of those that can be
    made, while the base may be in memory; it is let go before any other.

    Raises:
        CompileError: a target cannot be exported.
    """
    checkpoint = work.space.checkpoint(work.recipe.methods.default, work.recipe.methods.default)
    _refuse_what_cannot_be_expressed(work)
    made_of = {"base": work.model_inputs["base"], "checkpoint": digest_of_base(checkpoint)}
    parts: dict[str, Path] = {
        name: _exported(work, publish, name, checkpoint, made_of)
        for name in registry.in_order(work.recipe.targets, work.recipe.yields(work.recipe.methods.default))
    }
    work.forget_base()
    parts[""] = checkpoint
    strays = set(left_out(checkpoint, code=True)) - _markers(checkpoint)
    release = work.space.out / RELEASE
    _set_aside(release)
    with whole_folder(release) as folder:
        for name, source in parts.items():
            for path in filter(is_verified, files_of(source)):
                if source == checkpoint and path.partition("/")[0] in strays:
                    continue
                (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(source / path, folder / name / path)
    work.staged = digests_of(release)
    return release


def _markers(checkpoint: Path) -> set[str]:
    """The manifest of a target that has one at the root of a release."""
    root = registry.root_at(checkpoint)
    return set() if root is None else {root.marker}


def _set_aside(release: Path) -> None:
    """Out of the way in one step, so that a process that is killed here leaves no half of it under its name."""
    if release.exists():
        old = release.with_name(f".{release.name}.partial-old")
        remove(old)
        release.rename(old)
        remove(old)


def _refuse_what_cannot_be_expressed(work: Run) -> None:
    """Raises CompileError before anything is exported where a target cannot express the program; an edit is held to by each target itself."""
    found = work.found(work.recipe.methods.default)
    if not isinstance(found, SteeringProgram):
        return
    wrong = [one for name in work.recipe.targets for one in registry.target(name).lower(found)]
    if wrong:
        raise CompileError("; ".join(dict.fromkeys(wrong)))


def _exported(
    work: Run, publish: Publish, name: str, checkpoint: Path, made_of: Mapping[str, object]
) -> Path:
    """The folder of one target; exported again only where what it is ``made_of`` has changed."""
    folder, target = work.space.out / "targets" / name, registry.target(name)
    options = publish.options(target).for_release(_plain_name(publish))
    method = work.recipe.methods.default
    source = work.space.fitted(method) if target.of_fit else checkpoint
    inputs: dict[str, object] = {
        **made_of,
        "code": digest_of_code(*target_code(), "exporter/data", *HOST, "steer_modules"),
        "options": options.model_dump(mode="json"),
    }
    wanted = registry.made_of(name, work.recipe.yields(method), work.recipe.targets)
    if wanted is not None and registry.target(wanted).requires:
        source = folder.parent / wanted
        inputs["source"] = digest_of_base(source)
    if target.calibrates:
        inputs["rows"] = [digest_of_rows(work.rows.fit), digest_of_rows(work.rows.calibrate)]
        inputs["fit"] = digest_of_code("exporter/fitting", *CALIBRATION_SET)

    def make() -> None:
        if not target.calibrates:
            work.forget_base()
        export_within(work, name, source, folder, options)

    work.space.ledger.run(f"export-{name}", inputs, folder, make)
    return folder


def _plain_name(publish: Publish) -> str:
    """File names of a release: a recipe's name may reveal the forget set."""
    return (publish.repo or "steered").rpartition("/")[2]


def made_from(work: Run, publish: Publish, section: Mapping[str, Any]) -> Origin:
    """The provenance of a release, without what only the staged folder has."""
    every = (*work.rows.fit, *work.rows.calibrate, *work.test)
    salt = provenance.kept_salt(work.space.work / "salt")
    recipe = plain_recipe(work)
    shown = shown_recipe(recipe, whole=publish.show_forgotten)
    if work.recipe.stand_in:
        shown["stand_in"] = work.recipe.stand_in
    return Origin(
        publication=publish.model_dump(mode="json"),
        recipe=shown,
        recipe_name=_shown_name(work, publish),
        versions=versions(),
        proof=None
        if work.recipe.yields(work.recipe.methods.default) == "edit"
        else ProofRecord(**work.proof.record()),
        seed=work.recipe.seed,
        method=str(section["method"]),
        section=dict(section),
        base=_base(work, section),
        forget_rows=provenance.forgotten(salt, every),
    )


def _shown_name(work: Run, publish: Publish) -> str:
    """The recipe's name, unless it might reveal the forget set."""
    secrecy = secrecy_of(work, whole=publish.show_forgotten)
    name = work.recipe.name
    return "not shown" if secrecy is not None and secrecy.hints(re.sub(r"[-_.]", " ", name)) else name


def plain_recipe(work: Run) -> dict[str, object]:
    """The recipe as data without places on this machine: a base and files of rows that lie here are named by what they hold."""
    settings = work.recipe.model_dump(mode="json", exclude_none=True)
    settings.pop("publish", None)
    if "path" in settings["base"]:
        settings["base"]["path"] = "(a local folder)"
    if settings["base"].get("adapters"):
        names = work.recipe.base.adapters
        settings["base"]["adapters"] = [
            "(a local folder)" if work.recipe.locate(name).is_dir() else name for name in names
        ]
    for part in ("fit", "calibrate", "test"):
        for source in settings["data"].get(part) or ():
            if "path" in source:
                source["path"] = Path(source["path"]).name
    return dict(settings)


def _base(work: Run, section: Mapping[str, Any]) -> PinnedBase:
    """The pinned base: where it is from, and the hash of every shard under the name that it has in the release."""
    asked, weights = work.recipe.base, BaseWeights.read(work.base)
    assert work.staged is not None, "a release is staged before it is described"
    digests = {name: _digest_of_shard(work.base / name, work.staged) for name in weights.shards}
    base = PinnedBase(
        repo=asked.repo,
        revision=asked.revision,
        commit=work.source.name if _COMMIT.fullmatch(work.source.name) else None,
        fingerprint=section["base"]["fingerprint"],
        architecture=section["base"]["architecture"],
        model_type=section["base"]["model_type"],
        named=None if asked.repo else named(work.base),
        **license_of(work.base),
        license_files=tuple(licences(work.base)),
        shards={released(name): digest for name, digest in digests.items()},
    )
    if asked.adapters:
        return base.model_copy(update={"adapters": tuple(adapters_told(work.recipe))})
    return base


def released(shard: str) -> str:
    """The name that a shard of the base has in a release."""
    return SHARD if shard == SINGLE else shard


def shards_of(found: FileDigests) -> dict[str, str]:
    """Hex SHA-256 of the shards of a release that are the base's; a merged checkpoint has none."""
    if not registry.target(CHECKPOINT).is_at(found.folder):
        return {}
    shards = BaseWeights.read(found.folder, steered=True).shards
    return {shard: found.of(found.folder / shard) for shard in shards if shard != STEERING_TENSORS}


def of_another_base(found: FileDigests, base: PinnedBase) -> list[str]:
    """Why a release is not made of the pinned base, one sentence each.

    Raises:
        VerificationError, ValueError, CompileError: it cannot be read.
    """
    if registry.target(CHECKPOINT).is_at(found.folder):
        return changed_shards(base, shards_of(found), "the folder")
    told = section_of(found.folder)["base"]
    same = isinstance(told, Mapping) and told.get("fingerprint") == base.fingerprint
    return [] if same else ["the edit in the folder was fitted on another base than the pinned one"]


def _digest_of_shard(shard: Path, staged: FileDigests) -> str:
    """Of a shard of the base; the one of the release where both are links to one file, which was read when it was staged."""
    twin = staged.folder / released(shard.name)
    return staged.of(twin if twin.is_file() and twin.samefile(shard) else shard)


def named(base: Path) -> str | None:
    """What a local base's config calls the repository that it is from, where that can be no path: it may be a private folder's."""
    name = str(read_object(base / "config.json", strict=False).get("_name_or_path") or "")
    plain = name.count("/") == 1 and is_repo_id(name) and not _FOLDER.search(name)
    return name if plain and not Path(name).exists() else None


def license_of(base: Path) -> Licence:
    """The licence in the card of the base's folder."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    card = base / "README.md"
    try:
        text = card.read_bytes().decode("utf-8-sig", errors="replace") if card.is_file() else ""
        metadata = (
            ModelCard(text, ignore_metadata_errors=True).data.to_dict() if text.startswith("---") else {}
        )
    except (OSError, ValueError, YAMLError):  # no card: it says nothing that could be repeated
        metadata = {}

    def said(key: str) -> str | None:
        return str(metadata[key]) if metadata.get(key) else None

    return Licence(
        license=said("license"), license_name=said("license_name"), license_link=said("license_link")
    )
