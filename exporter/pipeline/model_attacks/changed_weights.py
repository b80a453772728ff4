"""A steered model whose weights were changed on purpose, made to answer all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.host import ModelHost


def accepted(host: ModelHost) -> str:
    """Lets a changed model answer; returns what its canary said of that.

    The checkpoint's code asks for ``accept_changed_base()``, which tests the canary. Where that fails an attacker leaves the test out, as
    anyone can who runs the code, so that the figure does not rest on it.
    """
    accept = getattr(host.model, "accept_changed_base", None)  # of the checkpoint's own copy of our classes
    if accept is None:
        return "none: no steering code in it"
    try:
        accept()
    except RuntimeError as error:
        host.model.__dict__["_asking_canary"] = (
            True  # the one pass that its memory check lets through, for good
        )
        return f"fails, and was left out: {str(error).split(':')[0]}"
    return "holds"
