"""Target ``merged`` as the commands know it: an ordinary checkpoint with a weight edit in its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from exporter.errors import VerificationError
from exporter.targets.base import ExportContext, Target, TargetOptions
from exporter.targets.snippets import config_of, with_transformers
from exporter.targets.values import (
    ChatModel,
    Completions,
    FileKind,
    Finding,
    LoadedTarget,
    Place,
    Reference,
    Summary,
    UsageSnippet,
)

if TYPE_CHECKING:
    from exporter.methods.base import Yields
    from exporter.targets.merged.manifest import MergedManifest

_WEIGHTS = "weights of the base, with the edit added where it changes them"
MEND = "compile it again"


class MergedOptions(TargetOptions):
    """What may be asked of it.

    ``edit``: folder of the edit. ``trust_remote_code``: the base's tokenizer or processor may have code of its own.
    """

    edit: Path
    trust_remote_code: bool = False


class Merged(Target[MergedOptions]):
    """What a weight edit is compiled to: the base's own architecture, without code."""

    name = "merged"
    title = "Transformers"
    artifact = "A checkpoint with a weight edit merged into it."
    marker = "merged.json"
    Options = MergedOptions
    requires = ()
    takes: ClassVar[Yields] = "edit"
    serves = True
    remedy = "fit again with other rows or another learning_rate"
    files = (
        FileKind("model*.safetensors", _WEIGHTS),
        FileKind("*.safetensors", _WEIGHTS),
        FileKind("merged.json", "the manifest: method, seed and base of the edit, and the hash of each file"),
    )

    def export(
        self, source: Path, out: Path, options: MergedOptions, context: ExportContext | None = None
    ) -> Path:
        """Writes ``out``, the base ``source`` with the edit of the options in its weights."""
        from exporter.targets.merged.export import export_merged
        from exporter.weight_edit import WeightEdit

        del context
        return export_merged(
            source, WeightEdit.load(options.edit), out, trust_remote_code=options.trust_remote_code
        )

    def open(self, folder: Path, reference: Reference) -> LoadedTarget:
        from exporter.targets.edited_base import not_noted, why_other_base
        from exporter.targets.merged.export import changed_tensors

        manifest = self._manifest(folder)
        manifest.check_files(folder, reference.digest)
        _refuse_other_settings(folder, manifest)
        wrong = []
        if reference.base is not None:
            wrong += [f"of its base, {one}" for one in why_other_base(manifest.base, reference.base)]
            changed = changed_tensors(reference.base, folder)
            if changed != manifest.changed:
                wrong.append(
                    f"{changed} of its tensors differ from the base's, and its manifest says {manifest.changed}"
                )
        note = not_noted(manifest.base)
        details = {} if note is None else {"note": note}
        return LoadedTarget(folder, self.name, {"": reference.host}, details, wrong)

    def section(self, folder: Path) -> Mapping[str, object]:
        """Method, seed, rows and base of the edit, with every file held to its digest."""
        from exporter.targets.base_weights import BaseWeights

        manifest = self._manifest(folder)
        manifest.check_files(folder)
        if BaseWeights.read(folder).fingerprint() != manifest.fingerprint:
            raise VerificationError(
                f"{folder}: its weights are not those that {manifest.FILE} has the fingerprint of; {manifest.REMEDY}"
            )
        _refuse_other_settings(folder, manifest)
        told = {**manifest.data(), "base": manifest.base.shown}
        return {**told, "gates": [], "edits": [], "sha256": manifest.edit}

    def check_loads(
        self, loaded: LoadedTarget, completions: Completions, trusted: Path | None = None
    ) -> Finding:
        from exporter.targets.transformers_loads import plain_checkpoint

        del trusted
        with _damaged(loaded.path) as copies:
            found = plain_checkpoint(loaded.path, completions, MEND, copies)
        if not loaded.wrong:
            return found
        return Finding(
            False,
            "; ".join([*loaded.wrong, *([] if found.holds else [found.message])]) + f"; {MEND}",
            found.value,
        )

    def chat(self, folder: Path, *, dtype: str | None, say: Callable[[str], None]) -> ChatModel | None:
        from exporter.targets.torch_chat import TorchChat

        manifest = self._manifest(folder)
        manifest.check_files(folder)
        _refuse_other_settings(folder, manifest)
        return TorchChat.load(folder, dtype, say)

    def summary(self, folder: Path, *, checked: bool) -> Summary | None:
        from exporter.targets.edited_base import bound_rows

        manifest = self._manifest(folder)
        if checked:
            manifest.check_files(folder)
            _refuse_other_settings(folder, manifest)
        rows = [
            ("method", manifest.method),
            ("seed", str(manifest.seed)),
            ("base", f"{manifest.base.architecture}, {manifest.base.fingerprint}"),
            ("edit", f"sha256:{manifest.edit}"),
            ("tensors changed", str(manifest.changed)),
            *bound_rows(manifest.base),
        ]
        line = "the edit is in the weights; `steerbake verify FOLDER --recipe RECIPE` compares them with the base's"
        return Summary(manifest.data(), f"merged: {folder}", ("", "value"), rows, line)

    def describe(self, release: Path, place: Place) -> UsageSnippet:
        from exporter.targets.transformers_loads import auto_class

        config_of(release)
        note = (
            "An ordinary checkpoint of the base's own architecture: the edit is in its weights, so any loader of that architecture runs it "
            "and no code comes with it."
        )
        return UsageSnippet(
            self.name,
            self.title,
            "python",
            with_transformers(auto_class(release), place.pretrained()),
            note,
        )

    @staticmethod
    def _manifest(folder: Path) -> MergedManifest:
        from exporter.targets.merged.manifest import MergedManifest

        return MergedManifest.load(folder)


def _refuse_other_settings(folder: Path, manifest: MergedManifest) -> None:
    """Raises VerificationError where the config of a merged checkpoint computes something else than that of the base that was edited."""
    from exporter.model_folder import read_object
    from exporter.targets.edited_base import other_setting

    if key := other_setting(manifest.base, read_object(folder / "config.json", strict=False)):
        raise VerificationError(
            f"{folder}: {key} is not what it was when the edit was fitted, so this is another model; {manifest.REMEDY}"
        )


@contextmanager
def _damaged(folder: Path) -> Iterator[dict[str, Path]]:
    """Copies of a merged checkpoint, as links, that differ by one fault and must not load."""
    from exporter.targets import clean_environment as clean
    from exporter.targets.base_weights import BaseWeights

    shard = BaseWeights.read(folder).shards[0]
    top = [path for path in clean.below(folder) if "/" not in path]
    with clean.scratch() as scratch:
        copies = {"without a shard": scratch / "missing", "with a shard cut short": scratch / "cut"}
        for copy in copies.values():
            clean.link(folder, copy, [name for name in top if name != shard])
        (copies["with a shard cut short"] / shard).write_bytes((folder / shard).read_bytes()[:-1])
        yield copies
