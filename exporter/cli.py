"""The ``steerbake`` command: parse, call the pipeline, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from exporter.cli_attack import attacking
from exporter.cli_evaluate import evaluation
from exporter.cli_export import exports
from exporter.cli_publish import publishing
from exporter.failures import answering, debugging, reported

app = typer.Typer(
    help="Compile unlearning into checkpoints that anyone loads with AutoModel.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).", show_default=False)]
RunFolder = Annotated[
    Path | None, typer.Option(help="Folder for the results; runs/NAME by default.", show_default=False)
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Set a recipe key; the value is YAML. Can be repeated.",
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
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            callback=debugging,
            help="Show the traceback of an error; also accepted after a command.",
        ),
    ] = False,
) -> None:
    """Compile unlearning into checkpoints that anyone loads with AutoModel."""


@app.command()
@reported
@answering
def run(
    recipe: RecipeFile,
    out: RunFolder = None,
    changes: Changes = None,
) -> None:
    """Fit, compile, generate and report. The same command resumes an interrupted run."""
    from exporter import display, pipeline

    loaded = pipeline.load_recipe(recipe, changes or ())
    display.show_stages()
    out = out or Path("runs") / loaded.name
    if not pipeline.is_main():
        pipeline.train_along(loaded, out)
        return
    report = pipeline.run(loaded, out, progress=display.shows_progress())
    display.result(display.results(report, out), lambda: display.print_results(report, out))


@app.command()
@reported
@answering
def fit(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option(help="Folder for the results.", show_default=False)],
    changes: Changes = None,
) -> None:
    """Fit every method of a recipe: OUT/steering/NAME with a steering program, or with a weight edit.

    On several devices: `accelerate launch -m exporter.cli fit RECIPE --out OUT`; methods that change weights are trained on all of them.
    """
    from exporter import display, pipeline

    loaded = pipeline.load_recipe(recipe, changes or ())
    display.show_stages()
    if not pipeline.is_main():
        pipeline.train_along(loaded, out)
        return
    folders = pipeline.fit(loaded, out, progress=display.shows_progress())
    display.result({"steering": folders}, lambda: display.print_places(folders))


@app.command(name="check-recipe")
@reported
@answering
def check_recipe(
    recipe: RecipeFile,
    out: RunFolder = None,
    changes: Changes = None,
) -> None:
    """Check recipe, base, rows, targets and disk space without loading a model, and list every problem. Exit 2 if there is any."""
    from exporter import display, pipeline

    found = pipeline.check_recipe(recipe, changes or (), out)
    display.result(found.data(), lambda: None if found.problems else display.print_preflight(found))
    found.refuse()


@app.command(name="compile")
@reported
@answering
def compile_(
    base: Annotated[Path, typer.Argument(help="Folder of the base model.", show_default=False)],
    steering: Annotated[
        Path,
        typer.Argument(
            metavar="STEERING_DIR",
            help="Folder that a fit wrote: a steering program, or a weight edit.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(help="Folder of the checkpoint to write; must not exist.", show_default=False),
    ] = None,
    upgrade: Annotated[
        bool,
        typer.Option(
            "--upgrade",
            help="BASE is a checkpoint of format steerbake/1, the next argument the folder to write.",
        ),
    ] = False,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run the code that comes with the base's tokenizer or processor."
        ),
    ] = False,
) -> None:
    """Write a checkpoint that contains the steering in its weights and config, or the weight edit in its weights.

    With --upgrade: rewrite a checkpoint of the previous format, `steerbake compile --upgrade OLD NEW`.
    """
    from exporter import display, pipeline

    if upgrade != (out is None):
        raise typer.BadParameter("give BASE STEERING_DIR OUT, or --upgrade OLD NEW")
    if out is None:
        done, left, note = pipeline.upgrade(base, steering), [], None
    else:
        done = pipeline.compile(base, steering, out, trust_remote_code=trust_remote_code)
        left, note = pipeline.left_out(base, code=trust_remote_code), pipeline.reach_note(done)
    if left:
        display.note(f"not copied from {base}: {', '.join(left)}")
    if note:
        display.note(note)
    result = {"checkpoint": done, "left_out": left, "note": note}
    display.result(result, lambda: display.print_places({"checkpoint": done}))


@app.command()
@reported
@answering
def forget(
    model: Annotated[
        str, typer.Argument(help="Folder of a model, or its name on the Hub.", show_default=False)
    ],
    rows: Annotated[
        Path,
        typer.Argument(help="File of rows: question, answer, role (forget or retain).", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The folder to write; runs/forget-MODEL-ROWS by default.", show_default=False),
    ] = None,
    about: Annotated[
        list[str] | None,
        typer.Option(
            help="A name of the topic, where the rows do not show it. Can be repeated.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a model forget the topic of a few rows: splits them, generates further rows, fits, compiles and evaluates."""
    from exporter import display, pipeline

    display.show_stages()
    done = pipeline.forget(model, rows, out, about=about or (), progress=display.shows_progress())

    def show() -> None:
        typer.echo(f"topic: {', '.join(done.names) or 'no name was found; give one with --about'}")
        display.print_results(done.report, done.out)
        typer.echo(f"recipe:             {done.recipe}")

    display.result({"recipe": done.recipe, "topic": done.names, "report": done.report}, show)


@app.command()
@reported
@answering
def inspect(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A compiled checkpoint, an exported folder, a steering folder, or a run's folder.",
            show_default=False,
        ),
    ],
) -> None:
    """Show edits, layers and gates, and verify the hashes."""
    from exporter import display, look_inside

    folder = look_inside.model_in(folder, display.note, programs=True)
    if (summary := look_inside.summary(folder)) is not None:
        display.result(dict(summary.data), lambda: display.print_summary(summary))
    else:
        found = look_inside.inspect(folder)
        display.result(found.data(), lambda: display.print_inspection(found))


@app.command()
@reported
@answering
def demo(out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo")) -> None:
    """Unlearn on the bundled testbed, a small model of an invented world: from rows to a checkpoint and a report."""
    from exporter import display, pipeline

    display.show_stages()
    report = pipeline.demo(out, progress=display.shows_progress())
    display.result(display.results(report, out), lambda: display.print_results(report, out))


app.add_typer(exports, name="export")


@app.command()
@reported
def chat(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A steered checkpoint, an exported folder, or a run's folder.", show_default=False
        ),
    ],
    image: Annotated[
        Path | None, typer.Option(help="Image shown with the first prompt.", show_default=False)
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Answer this prompt and exit; without it, prompts are read from the terminal.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="A variant of the folder, or a PyTorch dtype.", show_default=False)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: greedy decoding.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
) -> None:
    """Chat with a model; replies are streamed, with the gates that fired."""
    from exporter import display, pipeline

    conversation = pipeline.talk(
        pipeline.model_in(folder, display.note),
        image=image,
        dtype=dtype,
        temperature=temperature,
        top_p=top_p,
        say=display.note,
    )
    display.converse(conversation, prompt, max_new_tokens)


app.add_typer(attacking)
app.add_typer(evaluation)
app.add_typer(publishing)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
