"""The steering taken out: the checkpoint's own tensors in the stock class of its base."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from exporter.attack_report import Access, AttackResult
from exporter.host import ModelHost
from exporter.pipeline.model_attacks.base import NotMeasured
from exporter.pipeline.model_attacks.counts import counted
from exporter.pipeline.model_attacks.under_attack import UnderAttack, asked_of
from exporter.registry import REFERENCE
from steer_modules.files import VARIANT

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Stripped:
    """Whoever has the files loads the base's weights out of them and has the base: steering hides, it does not delete.

    It succeeds by design; it is measured all the same, and stands first.
    """

    name: ClassVar[str] = "stripped"
    group: ClassVar[str] = "stripping"
    access: ClassVar[Access] = "weights"
    costs: ClassVar[str] = ""

    def measure(self, under: UnderAttack) -> AttackResult:
        """Plain forget rows put to the stripped model."""
        rows = under.forget
        model = under.models["steered"]
        if model.kind != REFERENCE:
            raise NotMeasured(
                f"steering is taken out of a steered checkpoint only, not of what the target {model.kind} wrote; whoever has its base has "
                "what the base knows"
            )
        before = under.ask("base", rows)
        under.close("base")
        host = stock_of(under)
        said = asked_of(host, under, rows, "stripped")
        return counted(self.name, self.group, before, said, access=self.access, by_design=True)


def stock_of(under: UnderAttack) -> ModelHost:
    """A checkpoint's tensors in the class of its base; raises NotMeasured where they do not fill it."""
    import transformers

    folder, work = under.models["steered"].path, under.work
    trusted = work.recipe.base.trust_remote_code
    config: Any = transformers.AutoConfig.from_pretrained(work.base, trust_remote_code=trusted)
    named = json.loads((work.base / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    stock: type[PreTrainedModel] | None = getattr(transformers, named[0], None)
    if stock is None:
        raise NotMeasured(f"the base's class {named[0]!r} is not one of Transformers' own")
    with _quietly():
        loaded: Any = stock.from_pretrained(
            folder, config=config, dtype=work.dtype, variant=VARIANT, output_loading_info=True
        )
    model, info = loaded
    if info["missing_keys"]:
        raise NotMeasured(f"the checkpoint lacks {min(info['missing_keys'])} of the base's tensors")
    return ModelHost(model.to(work.device), under.reader())


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warning that the steering's tensors are not used: that is the point."""
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
