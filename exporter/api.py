"""The library in a notebook: what the commands do, of a model that is loaded already, without YAML.

Nothing is computed here; everything is what :mod:`exporter.pipeline` does for the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from exporter import pipeline
from exporter.fitted import Fitted
from exporter.pipeline.export_loaded import export_loaded
from exporter.pipeline.given_rows import RowsLike
from exporter.pipeline.in_memory import evaluate_loaded, fit_loaded
from exporter.pipeline.loaded_steering import steer, unsteer
from exporter.progress import Listener, heard_by
from exporter.provenance import folder_of
from exporter.settings import Settings

__all__ = ["attack", "compile", "evaluate", "evaluate_models", "export", "fit", "push", "steer", "unsteer"]


def fit(
    model: object,
    processor: object,
    rows: RowsLike,
    method: str = "keyed",
    *,
    calibrate: RowsLike | None = None,
    params: Mapping[str, object] | None = None,
    progress: Listener | None = None,
    settings: Settings | None = None,
    work: str | Path | None = None,
) -> Fitted:
    """Fit a method on a loaded model; what it finds contains the fingerprint of the model's weights.

    A steering method finds a :class:`exporter.SteeringProgram`, a method that changes weights a :class:`exporter.WeightEdit`; the model itself is as
    it was.

    Args:
        model: of ``AutoModelForCausalLM`` or ``AutoModelForImageTextToText``, with plain weights; it is switched to eval mode, and back.
        processor: its tokenizer, or its processor where it reads images.
        rows: what to forget and what to keep: :class:`exporter.Row` values, objects with the same keys, or a file of them.
        calibrate: what gate, layer and threshold are chosen on. Without any, a part of ``rows`` is set aside for that by role,
            whole wordings (rows with one ``template_id``) at a time, as a recipe does.
        params: the method's parameters (docs/reference.md).
        progress: is called with ``(what, done, total)`` at every step; an exception ends the fit.
        work: a folder for states, with which the same fit resumes; by default one that is removed afterwards.

    Raises:
        InputErrors: the model is quantised, adapted, compiled or of no family that can be steered; rows of a needed role are
            missing, by name; parameters that the method does not have. All of one kind at once, each with what to do.
        CompileError: a tiny twin of the model breaks a law of steered models.
        FitError, DataError: the rows or the model do not let the method find anything.
    """
    with heard_by(progress):
        return fit_loaded(
            model,
            processor,
            rows,
            method,
            calibrate=calibrate,
            params=params or {},
            settings=settings or Settings(),
            work=None if work is None else Path(work),
        )


def compile(  # noqa: A001 - the command's name
    base: str | Path,
    program: Fitted | str | Path,
    out: str | Path,
    *,
    trust_remote_code: bool = False,
) -> Path:
    """Write the checkpoint ``out`` of a base and a program or an edit, which loads with Transformers alone; returns it.

    Of a program no weight is read; an edit is merged into the weights, shard by shard.

    Args:
        base: the folder of the model that it was fitted on, or its name on the Hub.
        program: as :func:`fit` returns it, or the folder of one.

    Raises:
        CompileError: ``out`` exists, or the base is another model than the program was fitted on.
    """
    given = Path(program) if isinstance(program, str | Path) else program
    return pipeline.compile(folder_of(base), given, Path(out), trust_remote_code=trust_remote_code)


def export(
    checkpoint: str | Path,
    out: str | Path,
    target: str | None = None,
    *,
    progress: Listener | None = None,
    **options: object,
) -> Path:
    """Write a checkpoint for another runtime; returns ``out``.

    Args:
        checkpoint: what :func:`compile` wrote; for ``gguf``, what the target ``stock`` wrote.
        target: ``onnx`` (the default), ``stock``, ``gguf``, or one that an installed package adds.
        options: those of the target's command (``dtypes``, ``layout`` ...); a target that is solved on rows, as ``stock`` is, also takes
            ``model``, ``processor``, ``rows``, ``calibrate``, ``settings`` and ``work`` as :func:`fit` was given them.

    Raises:
        SteerbakeError: an unknown target; the message lists the valid ones.
        InputErrors: an unknown option (the message lists the valid ones), an invalid value, or a missing option.
        CompileError, VerificationError: the target refuses; nothing is written then.
    """
    with heard_by(progress):
        return export_loaded(Path(checkpoint), Path(out), target, options)


def evaluate(
    model: object,
    processor: object,
    program: Fitted,
    rows: RowsLike,
    *,
    refusals: RowsLike = (),
    progress: Listener | None = None,
    settings: Settings | None = None,
    allow_changed_base: bool = False,
) -> dict[str, object]:
    """Evaluate a loaded base on rows, as it is and steered (or with an edit): leakage, refusals and retention.

    Args:
        rows: rows that no fit has seen.
        refusals: rows whose answers count as fluent refusals where their role is ``unknown``, as those of a fit do; those among ``rows``
            count too.
        allow_changed_base: as for :func:`steer`.

    Returns:
        Of report.json (docs/report.md) the keys ``models`` (with ``base`` and ``steered``), ``too_few_rows``, ``extraction``, ``rule`` and
        ``max_new_tokens``; and ``generations``, the lines of generations.jsonl.

    Raises:
        InputErrors: rows that cannot be read, or a model that cannot be steered in its current state.
        CompileError: the program was fitted on another model.
    """
    with heard_by(progress):
        return evaluate_loaded(
            model,
            processor,
            program,
            rows,
            refusals=refusals,
            settings=settings or Settings(),
            allow_changed_base=allow_changed_base,
        )


def evaluate_models(
    models: Sequence[str | Path],
    recipe: str | Path,
    *,
    out: str | Path | None = None,
    run: str | Path | None = None,
    retain_model: str | Path | None = None,
    judge: bool = False,
    metrics: Sequence[str] = (),
    limit: int | None = None,
    progress: Listener | None = None,
) -> dict[str, object]:
    """Evaluate models on a disk or on the Hub on a recipe's test rows, as ``steerbake evaluate`` does (docs/evaluate.md).

    Args:
        models: folders that a target wrote, folders or Hub names of plain models, ``base``.
        recipe: file of the recipe.
        out: folder for the results; ``evaluation`` in the run's folder by default. The same call resumes there.
        run: folder of the recipe's run; runs/NAME by default.
        retain_model: a model trained without the forget set.
        judge: ask the model that the environment names, in place of rules that compare words.
        metrics: names of those to measure; all by default.
        limit: test rows at most.

    Returns:
        The content of evaluation.json. A metric that counted no rows has the value None.

    Raises:
        InputErrors: a model, a metric or a judge that there is not.
        VerificationError: a folder is not what its manifest says.
    """
    asked = pipeline.EvaluationRequest(
        out=None if out is None else Path(out),
        run=None if run is None else Path(run),
        retain_model=None if retain_model is None else str(retain_model),
        metrics=tuple(metrics),
        limit=limit,
    )
    if judge:
        asked = asked.judged_by(pipeline.EndpointJudge.ready())
    with heard_by(progress):
        return pipeline.evaluate(models, pipeline.load_recipe(Path(recipe), ()), asked).data()


def attack(
    folder: str | Path,
    recipe: str | Path,
    *,
    attacks: Sequence[str] = (),
    every: bool = False,
    limit: int = pipeline.Siege.limit,
    budget: int = pipeline.Siege.budget,
    seed: int = 0,
    variant: str | None = None,
    retain: int | None = None,
    out: str | Path | None = None,
    run: str | Path | None = None,
    progress: Listener | None = None,
) -> dict[str, object]:
    """Attack the model in a folder, with the recipe's base beside it, as ``steerbake attack`` does (docs/attacks.md).

    Args:
        folder: what a target wrote, or the folder of a run.
        recipe: file of the recipe whose test rows are attacked with.
        attacks: names of attacks or of groups; by default every way of asking, and the removal of the steering.
        every: also those that are expensive.
        limit: forget rows that an attack is made of, and as many retain rows.
        budget: trials of the adaptive search.
        seed: of what is drawn, trained and searched.
        variant: of an exported folder with several; the first by default.
        retain: of the retain rows, how many each way of asking puts to both models; all by default.
        out: folder for the results; ``attacks`` in the run's folder by default. The same call resumes there.
        run: folder of the recipe's run; the one around ``folder``, or runs/NAME by default.

    Returns:
        The content of attacks.json. An attack that was not measured has no figure.

    Raises:
        InputErrors: an attack, a group or a variant that there is not, or no plain test row of role ``forget``.
        VerificationError: the folder is not what its manifest says, or was made from another base than the recipe's.
    """
    siege = pipeline.Siege(tuple(attacks), every, limit, budget, seed, variant, retain)
    with heard_by(progress):
        return pipeline.attack(
            Path(folder),
            pipeline.load_recipe(Path(recipe), ()),
            siege,
            run=None if run is None else Path(run),
            out=None if out is None else Path(out),
        ).data()


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    pr: bool = False,
    dry_run: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> pipeline.Pushed | None:
    """Push a verified folder to the Hub in one commit, and pin it with a tag; None for a dry run.

    Args:
        folder: a release, as ``steerbake publish --dry-run`` stages it.
        say: is called with each progress line.

    Raises:
        VerificationError: it is not a steered checkpoint, or has no valid verification, unless ``force``.
        PublishError: the Hub does not take it.
    """
    request = pipeline.Request(
        repo_id=repo_id, private=private, revision=revision, pr=pr, dry_run=dry_run, force=force
    )
    return pipeline.push(Path(folder), repo_id, request, say=say)
