"""``steerbake tune``: a study of a method's parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.failures import answering, reported

tuning = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@tuning.command()
@reported
@answering
def tune(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).", show_default=False)],
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier calls counted.")] = 60,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="RECIPE.yaml",
            help="Recipe to write; FOLDER/NAME-tuned.yaml by default.",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of the study; runs/NAME-tune by default.", show_default=False)
    ] = None,
    rows: Annotated[
        int,
        typer.Option(min=1, help="Most calibration rows to forget, and to keep, that a trial is judged on."),
    ] = 96,
    report: Annotated[
        bool,
        typer.Option("--report/--no-report", help="Run the winner at the end, which reads the test rows."),
    ] = True,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="A.B=C",
            help="Set a recipe key; the value is YAML. Can be repeated.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Search a method's parameters on the calibration rows and write the winner as a recipe. The same command goes on with its study."""
    from exporter import display, pipeline

    display.show_stages()
    done = pipeline.tune(
        recipe,
        changes=changes or (),
        trials=trials,
        out=out,
        folder=folder,
        rows=rows,
        report=report,
        progress=display.shows_progress(),
    )

    def show() -> None:
        display.print_summary(done.summary)
        display.print_places({"recipe": done.recipe, "study": done.folder / "tune.json"})
        if done.report is not None:
            display.print_results(done.report, done.run)

    display.result(done.data(), show)
