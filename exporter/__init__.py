"""steerbake: compiles a steering program into models that anyone loads without this library.

The names below are the library's API (docs/api.md). Each is imported when it is first asked for, so that importing the package costs
nothing.
"""

TYPE_CHECKING = False  # as type checkers read it; importing typing takes longer than all the rest
if TYPE_CHECKING:
    from exporter.api import (
        attack,
        compile,  # noqa: A004 - the command's name
        evaluate,
        evaluate_models,
        export,
        fit,
        push,
        steer,
        unsteer,
    )
    from exporter.recipe import Recipe
    from exporter.settings import Settings
    from exporter.types import Row, Turn
    from exporter.weight_edit import WeightEdit
    from steer_modules.program import SteeringProgram

__all__ = [
    "Recipe",
    "Row",
    "Settings",
    "SteeringProgram",
    "Turn",
    "WeightEdit",
    "attack",
    "compile",
    "evaluate",
    "evaluate_models",
    "export",
    "fit",
    "push",
    "steer",
    "unsteer",
]
_ELSEWHERE = {
    "Recipe": "exporter.recipe",
    "Row": "exporter.types",
    "Settings": "exporter.settings",
    "SteeringProgram": "steer_modules.program",
    "Turn": "exporter.types",
    "WeightEdit": "exporter.weight_edit",
}
"""Modules of the names that are not functions of ``exporter.api``."""

if not TYPE_CHECKING:  # a type checker is to see the names above, and no others

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_ELSEWHERE.get(name, "exporter.api")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
