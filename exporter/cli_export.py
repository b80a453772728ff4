"""``steerbake export``: a command for each target, made of its options when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer
from typer.core import TyperGroup
from typer.main import get_command

from exporter import registry
from exporter.failures import answering, reported

if TYPE_CHECKING:
    from exporter.targets.base import AnyTarget

OUT = Annotated[
    Path, typer.Argument(metavar="OUT", help="The folder to write; must not exist.", show_default=False)
]
RECIPE = Annotated[
    Path,
    typer.Option(
        "--recipe",
        help="The recipe the checkpoint was fitted with; its rows are the calibration set.",
        show_default=False,
    ),
]
RUN = Annotated[
    Path | None,
    typer.Option("--run", help="Folder of the recipe's run; runs/NAME by default.", show_default=False),
]


class Exports(TyperGroup):
    """The targets there are: looked up here, so that other commands need not."""

    def list_commands(self, ctx: object) -> list[str]:
        del ctx
        return list(registry.exports())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        del ctx
        target = registry.exports().get(cmd_name)
        if target is None:
            return None
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(name=cmd_name)(reported(answering(_command(target))))
        return get_command(app)


exports = typer.Typer(
    cls=Exports, help="Write a checkpoint for another runtime, or as an adapter.", no_args_is_help=True
)


def _command(target: AnyTarget) -> Callable[..., None]:
    """The function of one command, with the parameters that the target's options ask for."""

    def command(source: Path, out: Path, **given: Any) -> None:
        asked = {name: value for name, value in given.items() if name in flags and value is not None}
        recipe, run = given.get("recipe"), given.get("run")
        from exporter.recipe import Recipe

        loaded = None if recipe is None else Recipe.load(recipe)
        from exporter import display, look_inside, pipeline

        display.show_stages()
        options = target.Options(**asked)
        target.validate(options)
        if target.of_fit:
            source = look_inside.fit_in(source, display.note, registry.takes(target.name))
        elif any(not registry.target(name).requires for name in target.requires):
            source = pipeline.model_in(source, display.note)
        done = pipeline.export(target.name, source, out, options, recipe=loaded, run=run)
        if (summary := target.summary(done, checked=False)) is not None:
            display.result(dict(summary.data), lambda: display.print_summary(summary))
        else:
            places = {target.name: done}
            display.result(places, lambda: display.print_places(places))
        if advice := target.advice(options):
            display.note(advice)

    flags = target.Options.flags()
    parameters = [*_places(target), *_options(target)]
    command.__doc__ = target.help
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return command


def _places(target: AnyTarget) -> Iterator[Parameter]:
    metavar, told = _source(target)
    argument = typer.Argument(metavar=metavar, help=told, show_default=False)
    yield Parameter("source", Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[Path, argument])
    yield Parameter("out", Parameter.POSITIONAL_OR_KEYWORD, annotation=OUT)
    if target.calibrates:
        yield Parameter("recipe", Parameter.KEYWORD_ONLY, annotation=RECIPE)
        yield Parameter("run", Parameter.KEYWORD_ONLY, annotation=RUN, default=None)


def _source(target: AnyTarget) -> tuple[str, str]:
    """How the command calls the folder that a target is made from, and what it is."""
    if target.of_fit:
        return "FIT", target.artifact
    made_from = [registry.target(name) for name in target.requires]
    return "|".join(one.name.upper() for one in made_from), " Or: ".join(one.artifact for one in made_from)


def _options(target: AnyTarget) -> Iterator[Parameter]:
    """A flag that is not given leaves the option at its default."""
    for name, flag in target.Options.flags().items():
        field = target.Options.model_fields[name]
        many, switch = get_origin(field.annotation) is tuple, field.annotation is bool
        kind: object = list[str] | None if many else field.annotation
        option = typer.Option(flag.name, metavar=flag.metavar, help=flag.help, show_default=False)
        default = field.default if switch else None
        yield Parameter(name, Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option], default=default)
