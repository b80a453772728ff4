"""The contract of a method: what fits a steering program, or a weight edit."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import BaseModel

if TYPE_CHECKING:
    from exporter.fitted import Fitted
    from exporter.fitting.context import FitContext


Yields = Literal["program", "edit"]
"""A steering program over the activations, or a weight edit."""
KINDS: Mapping[Yields, str] = MappingProxyType({"program": "a steering program", "edit": "a weight edit"})
"""The same in words."""


class Method(Protocol):
    """One unlearning method. A file and a line in the registry are all there is to add.

    A class may also have ``needs`` (roles that its rows must have) and ``objections(params, layers)``, a sentence for everything of its
    parameters that a model of so many layers cannot have.
    """

    name: ClassVar[str]
    Params: ClassVar[type[BaseModel]]
    """What ``methods.params.NAME`` of a recipe may hold; an unknown key is an error."""
    paper: ClassVar[str]
    """Where it is described: a URL, or a document of this repository."""

    yields: ClassVar[Yields]
    """What it finds."""

    def fit(self, context: FitContext) -> Fitted:
        """What it finds, from the context's rows alone.

        Raises:
            FitError: nothing that could be trusted was found.
        """
        ...
