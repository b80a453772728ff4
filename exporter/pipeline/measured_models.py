"""Any model opened to be measured on a recipe's rows: a folder of a target, held to its own manifest, a plain model, or the base."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from exporter import registry
from exporter.data.chat import Chat
from exporter.digests import FileDigests, digest_of
from exporter.errors import InputErrors, VerificationError
from exporter.evaluation.report import BASE
from exporter.foreign_code import refuse_code
from exporter.host import ModelHost
from exporter.look_inside import model_in, section_of
from exporter.model_folder import read_object
from exporter.pipeline.run import Run
from exporter.pipeline.same_base import why_of_another_base
from exporter.provenance import digest_of_base, folder_of
from exporter.publish.files import covered
from exporter.reader import Processor, open_reader, takes_images
from exporter.targets.base import AnyTarget
from exporter.targets.values import Generator, Reference
from exporter.threads import set_threads
from exporter.types import Row
from exporter.usable_base import why_quantised, why_unusable
from steer_modules.checks import ProgramError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOG = logging.getLogger(__name__)
PLAIN = "model"
"""The kind of a model that no target of ours wrote."""


class Opened(NamedTuple):
    """A model in memory.

    Attributes:
        generators: by variant ("" if there is only one).
        processor: what its prompts are rendered by.
        images: whether it can be shown any.
        details: what its target tells of it.
    """

    generators: Mapping[str, Generator]
    processor: Processor
    images: bool
    details: Mapping[str, object]


@dataclass
class MeasuredModel:
    """A model that can be asked; it is loaded, and held to its manifest, when it is first needed.

    Attributes:
        name: of its folder, or its name on the Hub; ``base`` for the recipe's base.
        kind: the target that wrote it; ``base`` or ``model`` for one without steering.
        digest: hex SHA-256 over the files that decide what it says.
        load: opens it.
        single: whether it is known to have one variant before it is opened.
    """

    name: str
    kind: str
    path: Path
    digest: str
    load: Callable[[], Opened]
    single: bool = False

    @cached_property
    def opened(self) -> Opened:
        """The model in memory.

        Raises:
            VerificationError: it is not what its manifest says.
            SteerbakeError: it cannot be loaded.
        """
        LOG.info("load %s", self.name)
        return self.load()

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of its variants, such as precisions; ``("",)`` for one that has none."""
        return ("",) if self.single else tuple(self.opened.generators)

    @property
    def host(self) -> ModelHost | None:
        """The model where it takes whole passes: None for graphs, GGUF files and whatever else only generates."""
        found = list(self.opened.generators.values())
        return found[0] if len(found) == 1 and isinstance(found[0], ModelHost) else None

    def title(self, variant: str) -> str:
        """The name of one variant."""
        return f"{self.name} {variant}".strip()

    def reads(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that it can be asked: all of them, or those without images."""
        if self.opened.images:
            return list(rows)
        return [row for row in rows if row.image is None and all(turn.image is None for turn in row.history)]

    def chat(self, work: Run) -> Chat:
        """Prompts as the recipe wants them, in the words of this model."""
        return work.chat(self.opened.processor)

    def close(self) -> None:
        """Lets go of its memory; it is opened anew when it is needed."""
        self.__dict__.pop("opened", None)
        gc.collect()


def open_model(model: str | Path, work: Run, *, say: Callable[[str], None] = lambda _: None) -> MeasuredModel:
    """A model by its folder or its name on the Hub, or the recipe's own base for ``base``; nothing is loaded yet.

    A folder that a target wrote is held to its own manifest, and to the checkpoint of the release that it lies in, when it is
    loaded. Adapters are put on the recipe's base.

    Args:
        work: the run whose rows it will be asked.
        say: is called with the folder that is used, where that of a run was given.

    Raises:
        InputErrors: there is no model, or one that needs code which is not ours.
        VerificationError: the folder does not say what it was made of, or says that it was made of another base.
    """
    if str(model) == BASE:
        return _base(work)
    folder = model_in(folder_of(model), say)
    name = folder.resolve().name if Path(model).expanduser().is_dir() else str(model)
    kind = registry.kind_of(folder)
    if kind is None:
        return _plain(name, folder, work)
    return _made(name, registry.target(kind), folder, work)


def _base(work: Run) -> MeasuredModel:
    def load() -> Opened:
        host = work.host
        return _whole(host)

    return MeasuredModel(BASE, BASE, work.base, digest_of_base(work.base), load, single=True)


def _plain(name: str, folder: Path, work: Run) -> MeasuredModel:
    """A model without steering; its own code is run only where it is the base, which the recipe may trust."""
    refuse_code(folder, trusted=False)
    quantised = (
        why_quantised(read_object(folder / "config.json", strict=False))
        if (folder / "config.json").is_file()
        else None
    )
    if reasons := [one for one in why_unusable(folder) if one != quantised]:  # packed weights can be asked
        raise InputErrors(str(folder), reasons)

    def load() -> Opened:
        return _whole(work.load(folder, trust_remote_code=False))

    return MeasuredModel(name, PLAIN, folder, digest_of_base(folder), load, single=True)


def _made(name: str, target: AnyTarget, folder: Path, work: Run) -> MeasuredModel:
    """A folder that a target wrote."""
    section = _section(target, folder)
    _refuse_other_base(folder, section, work)
    files = _own_files(target, folder)
    needs_base = digest_of_base(work.base)  # of adapters, and of what is read by the base's tokenizer

    def load() -> Opened:
        steered = target.name == registry.REFERENCE
        host = base_without_weights(work) if target.requires else work.load(folder, trust_remote_code=steered)
        try:
            found = target.open(folder, Reference(section, host, files.of, work.base))
        except (KeyError, ValueError, OSError, ProgramError) as error:
            raise VerificationError(f"{name} cannot be opened: {error}") from error
        if found.wrong:
            raise VerificationError(f"{name} is not measured: {'; '.join(found.wrong)}")
        for generator in found.generators.values():
            if isinstance(generator, ModelHost):
                _refuse_empty(name, generator)
                generator.model.to(device=work.device, dtype=work.dtype)
                set_threads(generator.model)
        first = next(iter(found.generators.values()))
        processor = first.processor if isinstance(first, ModelHost) else host.processor
        images = found.images and takes_images(host.model.config)
        return Opened(found.generators, processor, images, found.details)

    return MeasuredModel(name, target.name, folder, digest_of([files.files, needs_base]), load)


def base_without_weights(work: Run) -> ModelHost:
    """The base's config, processor and end tokens, as a model whose weights are nowhere (PyTorch's device ``meta``).

    A target is opened beside it: it says how many layers there are, and cannot be asked.
    """
    import transformers

    folder, trusted = work.base, work.recipe.base.trust_remote_code
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
    kind = (
        transformers.AutoModelForImageTextToText
        if takes_images(config)
        else transformers.AutoModelForCausalLM
    )
    with torch.device("meta"):
        model: PreTrainedModel = kind.from_config(config, trust_remote_code=trusted)  # type: ignore[no-untyped-call]
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return ModelHost(model, open_reader(folder, config, trust_remote_code=trusted))


def _whole(host: ModelHost) -> Opened:
    return Opened({"": host}, host.processor, takes_images(host.model.config), {})


def _section(target: AnyTarget, folder: Path) -> Mapping[str, object]:
    """What a folder was made of: as the checkpoint says it in whose release it lies, else as it says itself."""
    release = folder.resolve().parent
    within = bool(target.requires) and folder.resolve().name == target.name
    try:
        if within and registry.root_at(release) is not None:
            return section_of(release)
        return target.origin(folder)
    except (KeyError, ValueError, OSError, ProgramError) as error:
        raise VerificationError(f"{folder} cannot be opened: {error}") from error


def _refuse_other_base(folder: Path, section: Mapping[str, object], work: Run) -> None:
    if reason := why_of_another_base(folder, section, work.base):
        raise VerificationError(
            f"{folder} was made from another base than that of {work.recipe.name}: {reason}; give the recipe of its own base"
        )


def _own_files(target: AnyTarget, folder: Path) -> FileDigests:
    """Digests of its files, without those of targets that lie in folders of their own within a release."""
    files = covered(folder)
    if not target.requires:
        others = registry.exports()
        files = {path: one for path, one in files.items() if path.partition("/")[0] not in others}
    return FileDigests(folder, files)


def _refuse_empty(name: str, host: ModelHost) -> None:
    """Raises VerificationError where a target answers by the stand-in of its base, which has no weights."""
    if host.device.type == "meta":
        raise VerificationError(f"{name} cannot be opened alone; give the release that contains it")
