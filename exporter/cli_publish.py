"""Commands that verify a folder and hand it on: parse, call the pipeline, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.failures import reported

publishing = typer.Typer()
Folder = Annotated[
    Path, typer.Argument(help="A folder that was compiled, exported or staged.", show_default=False)
]


@publishing.command()
@reported
def verify(
    folder: Folder,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Another target, outside of FOLDER. May be repeated.", show_default=False),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Put the test rows of this recipe to all of them.", show_default=False)
    ] = None,
    run_folder: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Folder of the recipe's run; the one around FOLDER, or runs/NAME.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Test rows at most; all for the checkpoint, 100 for others.", show_default=False
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--json", help="File to write; FOLDER/verification.json by default.", show_default=False
        ),
    ] = None,
) -> None:
    """Load as a stranger would, compare all targets, count what is forgotten and kept. Exit 1 where a check fails."""
    from exporter.recipe import Recipe

    loaded = None if recipe is None else Recipe.load(recipe)
    from exporter import display, pipeline

    display.show_stages()
    found = pipeline.verify(folder, against or (), recipe=loaded, run=run_folder, limit=limit, report=report)
    display.print_verification(found.data())
    if found.failures:
        raise typer.Exit(1)
