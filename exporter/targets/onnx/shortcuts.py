"""What the exporter below does again for every graph, or for every pair of nodes: done once, or left out, with the same result.

It parses the source of some hundred operators for each graph, and looks through the whole graph at each node for a pattern that begins
with another operator: at 30 layers that is most of what its optimiser does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, wraps
from typing import Any

from onnxscript.rewriter import _basics, _matcher
from torch.onnx._internal.exporter import _registration

Call = Callable[..., Any]


@contextmanager
def shortcuts() -> Iterator[None]:
    """Takes them while a graph is traced; where torch or onnxscript keep these things elsewhere, without effect."""
    with ExitStack() as taken:
        taken.enter_context(
            _instead(getattr(_registration, "onnxscript_apis", None), "get_torchlib_ops", _once)
        )
        taken.enter_context(_instead(getattr(_matcher, "SimplePatternMatcher", None), "match", _by_operator))
        yield


@contextmanager
def _instead(place: Any, name: str, made_of: Callable[[Call], Call]) -> Iterator[None]:
    """Has a function of a module or a class replaced by what is made of it."""
    given: Call | None = getattr(place, name, None)
    if given is None:
        yield
        return
    setattr(place, name, made_of(given))
    try:
        yield
    finally:
        setattr(place, name, given)


@cache
def _once(listed: Call) -> Call:
    """The list of operators, made when it is first asked for."""
    return cache(lambda: tuple(listed()))


def _by_operator(match: Call) -> Call:
    """A match that is not sought where the node is of another operator than the pattern's first."""

    @wraps(match)
    def sought(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        first = self.pattern.output_nodes[0].op_identifier()
        if first is not None and first[:2] != (node.domain, node.op_type):
            return _basics.MatchResult().fail("No match found.")
        return match(self, model, graph, node, **options)

    return sought
