"""``steerbake evaluate``: parse, call the pipeline, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.failures import answering, reported

evaluation = typer.Typer()


@evaluation.command()
@reported
@answering
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Checkpoints, exported folders, adapters, folders or Hub names of plain models, or base; the recipe's base always comes along.",
            show_default=False,
        ),
    ],
    recipe: Annotated[
        Path,
        typer.Option(help="Recipe whose test rows are asked.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results; RUN/evaluation by default.", show_default=False),
    ] = None,
    run_folder: Annotated[
        Path | None,
        typer.Option("--run", help="Folder of the recipe's run; runs/NAME by default.", show_default=False),
    ] = None,
    retain_model: Annotated[
        str | None,
        typer.Option(
            help="A model trained without the forget set, for forget quality and PrivLeak.",
            show_default=False,
        ),
    ] = None,
    judge: Annotated[
        bool,
        typer.Option(
            "--judge",
            help="Ask the model that STEERBAKE_JUDGE_BASE_URL, _MODEL and _API_KEY name, in place of rules that compare words.",
        ),
    ] = False,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Measure this one alone. Can be repeated.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of test rows, plain questions alone; all by default.",
            show_default=False,
        ),
    ] = None,
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
    """Measure models on a recipe's test rows with the metrics of the field. The same command resumes an interrupted one."""
    from exporter import display, pipeline
    from exporter.display_evaluation import print_evaluation

    loaded = pipeline.load_recipe(recipe, changes or ())
    display.show_stages()
    request = pipeline.EvaluationRequest(
        out=out,
        run=run_folder,
        retain_model=retain_model,
        metrics=metrics or (),
        limit=limit,
        progress=display.shows_progress(),
        say=display.note,
    )
    if judge:
        request = request.judged_by(pipeline.EndpointJudge.ready())
    found = pipeline.evaluate(models, loaded, request)
    display.result(found.data(), lambda: print_evaluation(found.data()))
