"""The ``steerbake`` command: parse, call the pipeline, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.failures import reported

app = typer.Typer(
    help="Compile unlearning into checkpoints that anyone loads with AutoModel.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).", show_default=False)]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Set a recipe key; the value is YAML. May be repeated.",
        show_default=False,
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        from exporter.provenance import installed_version

        typer.echo(f"steerbake {installed_version('steerbake')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compile unlearning into checkpoints that anyone loads with AutoModel."""


@app.command()
@reported
def run(
    recipe: RecipeFile,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; runs/NAME by default.", show_default=False)
    ] = None,
    changes: Changes = None,
) -> None:
    """Fit, compile, generate and report. The same command resumes a run that was cut off."""
    from exporter.recipe import Recipe

    loaded = Recipe.load(recipe, changes or ())
    from exporter import display, pipeline

    display.show_stages()
    out = out or Path("runs") / loaded.name
    display.print_results(pipeline.run(loaded, out), out)


@app.command()
@reported
def fit(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option(help="Folder for the results.", show_default=False)],
    changes: Changes = None,
) -> None:
    """Fit every method of a recipe: OUT/steering/NAME with steering.json and steering.safetensors."""
    from exporter.recipe import Recipe

    loaded = Recipe.load(recipe, changes or ())
    from exporter import display, pipeline

    display.show_stages()
    for name, folder in pipeline.fit(loaded, out).items():
        typer.echo(f"{name}: {folder}")


@app.command(name="compile")
@reported
def compile_(
    base: Annotated[Path, typer.Argument(help="Folder of the base model.", show_default=False)],
    steering: Annotated[
        Path, typer.Argument(metavar="STEERING_DIR", help="Folder with steering.json.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write; must not exist.", show_default=False)],
) -> None:
    """Write a checkpoint that holds the steering in its own weights and config."""
    from exporter import pipeline

    typer.echo(f"checkpoint: {pipeline.compile(base, steering, out)}")


@app.command()
@reported
def inspect(
    folder: Annotated[
        Path, typer.Argument(help="A compiled checkpoint or a steering folder.", show_default=False)
    ],
) -> None:
    """Show what is steered where and by which gates, and verify the hashes."""
    from exporter import display, pipeline

    display.print_inspection(pipeline.inspect(folder))


@app.command()
@reported
def demo(out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo")) -> None:
    """Unlearn on the bundled testbed: a small model of a made-up world, from its rows to a checkpoint and a report."""
    from exporter import display, pipeline

    display.show_stages()
    display.print_results(pipeline.demo(out), out)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
