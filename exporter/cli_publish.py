"""Commands that verify a folder and hand it on: parse, call the pipeline, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.failures import answering, reported

publishing = typer.Typer()
Repo = Annotated[str, typer.Argument(metavar="REPO_ID", help="owner/name on the Hub.", show_default=False)]
Private = Annotated[bool, typer.Option("--private", help="Make the repository private.")]
Revision = Annotated[
    str | None,
    typer.Option(help="Branch to commit to, created if missing; main by default.", show_default=False),
]
PullRequest = Annotated[
    bool, typer.Option("--pr", help="Open a pull request instead of committing to the branch.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Do everything except the upload.")]
Folder = Annotated[
    Path,
    typer.Argument(help="A compiled checkpoint, an exported folder or a staged release.", show_default=False),
]


@publishing.command()
@reported
@answering
def verify(
    folder: Folder,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Another target, outside FOLDER. Can be repeated.", show_default=False),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Evaluate every target on the test rows of this recipe.", show_default=False),
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
            min=1,
            help="Maximum number of test rows; by default all for the checkpoint, 100 for other targets.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", help="File to write; FOLDER/verification.json by default.", show_default=False
        ),
    ] = None,
) -> None:
    """Load in a clean environment, compare all targets, count leaks and retained replies. Exit 1 if a check fails."""
    from exporter.recipe import Recipe

    loaded = None if recipe is None else Recipe.load(recipe)
    from exporter import display, pipeline

    display.show_stages()
    folder = pipeline.model_in(folder, display.note)
    found = pipeline.verify(folder, against or (), recipe=loaded, run=run_folder, limit=limit, report=report)
    display.result(found.data(), lambda: display.print_verification(found.data()))
    if found.failures:
        raise typer.Exit(1)


@publishing.command()
@reported
@answering
def publish(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; runs/NAME by default.", show_default=False)
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="owner/name on the Hub; publish.repo by default.", show_default=False
        ),
    ] = None,
    private: Private = False,
    revision: Revision = None,
    pr: PullRequest = False,
    dry_run: DryRun = False,
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
    """Run a recipe, export its targets, verify, describe and push them. The same command resumes."""
    from exporter import display, pipeline

    loaded = pipeline.load_recipe(recipe, changes or ())
    display.show_stages()
    out = out or Path("runs") / loaded.name
    if not pipeline.is_main():
        pipeline.train_along(loaded, out)
        return
    request = pipeline.Request(repo, private, revision, pr, dry_run)
    done = pipeline.publish(loaded, out, request, progress=display.shows_progress(), say=display.note)
    places = {"release": done.release, "published": None if done.pushed is None else done.pushed.url}

    def show() -> None:
        display.print_results(done.report, out)
        display.print_places({name: place for name, place in places.items() if place is not None})

    display.result({**display.results(done.report, out), **places}, show)


@publishing.command()
@reported
def push(
    folder: Folder,
    repo: Repo,
    private: Private = False,
    revision: Revision = None,
    pr: PullRequest = False,
    dry_run: DryRun = False,
    force: Annotated[
        bool, typer.Option("--force", help="Push a folder that is not verified, and state that in its card.")
    ] = False,
) -> None:
    """Push a verified folder to the Hub in one commit; refused if its verification is missing, failed or older than its files."""
    from exporter import display, pipeline

    request = pipeline.Request(repo, private, revision, pr, dry_run, force)
    done = pipeline.push(folder, repo, request, say=display.note)
    if done is not None:
        typer.echo(f"published: {done.url}")


@publishing.command()
@reported
def check(
    folder: Folder,
    base: Annotated[
        Path | None,
        typer.Option(help="Also compare the base's shards with this base model.", show_default=False),
    ] = None,
    salt: Annotated[
        Path | None, typer.Option(help="The run's .work/salt; needs --rows.", show_default=False)
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            help="Rows (JSONL); reports which of them are in the forget set. Needs --salt.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Find every changed, missing or added file of a published folder. Exit 1 if there is any."""
    from exporter import display, pipeline

    found = pipeline.check(folder, base=base, salt=salt, rows=rows)
    display.print_sentences(found.statements, found.problems)
    if found.problems:
        raise typer.Exit(1)


@publishing.command()
@reported
def pack(
    folder: Folder,
    out: Annotated[
        Path, typer.Argument(metavar="OUT.tar.zst", help="File to write; must not exist.", show_default=False)
    ],
) -> None:
    """Write a verified release as one file; the same folder gives the same bytes."""
    from exporter import pipeline

    typer.echo(f"packed: {pipeline.pack(folder, out)}")


@publishing.command()
@reported
def unpack(
    file: Annotated[Path, typer.Argument(help="What `steerbake pack` wrote.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder to write; must not exist.", show_default=False)],
) -> None:
    """Unpack a file and check it; if it differs from what was packed, nothing is written."""
    from exporter import pipeline

    typer.echo(f"unpacked: {pipeline.unpack(file, out)}")
