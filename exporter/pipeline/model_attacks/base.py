"""The contract of an attack on a model, and why one may have no figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from exporter.errors import SteerbakeError

if TYPE_CHECKING:
    from exporter.attack_report import Access, AttackResult
    from exporter.pipeline.model_attacks.under_attack import UnderAttack


class NotMeasured(SteerbakeError):
    """An attack that cannot be made on this model or with what is installed; the message says why, and what to do."""


class NoRows(SteerbakeError):
    """An attack that needs rows which the recipe does not have; the message says which."""


class ModelAttack(Protocol):
    """An attack that needs more than rows. A file, and a line in the registry, are all there is to add.

    Attributes:
        costs: in a few words, why it is not made by default; "" where it is.
    """

    name: ClassVar[str]
    group: ClassVar[str]
    access: ClassVar[Access]
    costs: ClassVar[str]

    def measure(self, under: UnderAttack) -> AttackResult:
        """What it brings out of the steered model and of its base.

        Raises:
            NotMeasured: it cannot be made here.
            NoRows: the recipe has no rows for it.
        """
        ...
