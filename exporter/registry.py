"""What there is to choose from: a method, reader or target is one line here. Families have none: they are proven."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from exporter.errors import SteerbakeError

if TYPE_CHECKING:
    from exporter.data.readers.base import Reader
    from exporter.methods.base import Method
    from exporter.targets.base import AnyTarget

T = TypeVar("T")


class Table(dict[str, str], Generic[T]):
    """Objects of one kind by name: where each is, as MODULE:ATTRIBUTE, so that only those that are used are imported."""


METHODS: Table[type[Method]] = Table(
    {
        "r_muse": "exporter.methods.r_muse:RMuse",  # https://arxiv.org/abs/2512.17911
        "r_muse_calibrated": "exporter.methods.r_muse_calibrated:RMuseCalibrated",  # the same, calibrated
        "keyed": "exporter.methods.keyed:Keyed",  # docs/methods.md
    }
)

READERS: Table[type[Reader]] = Table(
    {
        "tofu": "exporter.data.readers.tofu:Tofu",  # https://arxiv.org/abs/2401.06121
        "mllmu_bench": "exporter.data.readers.mllmu_bench:MllmuBench",  # https://arxiv.org/abs/2410.22108
        "clear": "exporter.data.readers.clear:Clear",  # https://arxiv.org/abs/2410.18057
        "gsm8k": "exporter.data.readers.gsm8k:Gsm8k",  # https://arxiv.org/abs/2110.14168
    }
)
"""Public schemas that rows are read from."""

TARGETS: Table[type[AnyTarget]] = Table(
    {
        "checkpoint": "exporter.targets.checkpoint_target:Checkpoint",
        "onnx": "exporter.targets.onnx.target:Onnx",
        "stock": "exporter.targets.stock.target:Stock",
        "gguf": "exporter.targets.gguf.target:Gguf",
    }
)
"""In the order in which a card has them."""
REFERENCE = "checkpoint"
"""The target that all others are made of and held to."""
ENTRY_POINTS = "steerbake.targets"
"""Group of entry points by which an installed package adds targets: NAME = MODULE:CLASS."""


def resolve(table: Table[T], kind: str, name: str) -> T:
    """The object registered under ``name``; raises SteerbakeError listing the valid names."""
    if name not in table:
        raise SteerbakeError(f"no {kind} is called {name!r}; there are {', '.join(sorted(table))}")
    module, _, attribute = table[name].partition(":")
    return cast("T", getattr(import_module(module), attribute))


@cache
def targets() -> dict[str, AnyTarget]:
    """Every target by name, our own first.

    Raises:
        SteerbakeError: an installed package has a target of a name that is taken.
    """
    return {name: resolve(table, "target", name)() for table in (TARGETS, _installed()) for name in table}


def target(name: str) -> AnyTarget:
    """The target of a name; raises SteerbakeError listing the valid names."""
    every = targets()
    if name not in every:
        raise SteerbakeError(f"no target is called {name!r}; there are {', '.join(every)}")
    return every[name]


def exports() -> dict[str, AnyTarget]:
    """The targets that are made of another one, by name."""
    return {name: one for name, one in targets().items() if one.requires is not None}


def _installed() -> Table[type[AnyTarget]]:
    from importlib.metadata import entry_points  # slow, and only needed where targets are

    found: Table[type[AnyTarget]] = Table()
    for point in entry_points(group=ENTRY_POINTS):
        if point.name in TARGETS or point.name in found:
            raise SteerbakeError(
                f"{point.value} is installed as a target {point.name!r}, which there is already; uninstall its package, or rename its entry "
                f"point in the group {ENTRY_POINTS}"
            )
        found[point.name] = point.value
    return found
