"""``steerbake attack``: parse, call the pipeline, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.failures import answering, reported

attacking = typer.Typer()


@attacking.command()
@reported
@answering
def attack(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A compiled checkpoint, an exported folder, or a run's folder.", show_default=False
        ),
    ],
    recipe: Annotated[
        Path, typer.Option(help="The recipe whose test rows are attacked.", show_default=False)
    ],
    run_folder: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Folder of the recipe's run; the one around FOLDER, or runs/NAME.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for attacks.json; attacks in the run's folder by default.", show_default=False
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--attacks",
            help="An attack or a group of attacks. Can be repeated; by default every way of asking.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        bool,
        typer.Option(
            "--all", help="Also what is expensive: sampling, scores, quantisation, relearning, search."
        ),
    ] = False,
    limit: Annotated[
        int, typer.Option(min=2, help="Rows to forget that an attack is made of, and as many to keep.")
    ] = 48,
    retain: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Of those to keep, how many each way of asking puts to both models; all by default.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="Trials of the adaptive search.")] = 200,
    variant: Annotated[
        str | None,
        typer.Option(help="Of an exported folder with several; the first by default.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
) -> None:
    """Attack a steered model in every known way, with its base under the same attack beside it: attacks.json and a table.

    The same command resumes. No share is bounded here: exit 0 says that everything was counted.
    """
    from exporter import display_attacks, pipeline

    display_attacks.show_stages()
    siege = pipeline.Siege(tuple(names or ()), every, limit, budget, seed, variant, retain)
    found = pipeline.attack(
        folder,
        pipeline.load_recipe(recipe, ()),
        siege,
        run=run_folder,
        out=out,
        progress=display_attacks.shows_progress(),
        say=display_attacks.note,
    )
    display_attacks.result(found.data(), lambda: display_attacks.print_attacks(found))
