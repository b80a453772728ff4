"""Whether a base can hold the weight edits that a recipe asks for, judged by its config and the headers of its weights, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

from exporter import registry
from exporter.errors import FitError
from exporter.pipeline.base_checks import BaseFacts
from exporter.reader import loaded_config, takes_images
from exporter.recipe import Recipe
from exporter.targets.merged.deltas import unmergeable
from exporter.training.lora import linear_layers
from exporter.training.settings import TrainingSettings


def edit_problems(recipe: Recipe, facts: BaseFacts) -> Iterator[str]:
    """What a merge would refuse after the training, and parameters about images of a base that takes none; one sentence each."""
    trained = {
        name: settings
        for name in recipe.methods.names
        if (settings := _settings(name, recipe.methods.params.get(name, {}))) is not None
    }
    if not trained or facts.weights is None:
        return
    config = loaded_config(facts.config)
    sees = takes_images(config)
    for name, settings in trained.items():
        if settings.vision and not sees:
            yield f"methods.params.{name}.vision: a base of type {facts.model_type!r} takes no images; remove it"
    vision = sees and any(settings.vision for settings in trained.values())
    try:
        found = unmergeable(lambda model: linear_layers(model, vision=vision), config, facts.weights)
    except FitError as error:
        found = [str(error)]
    yield from (f"base: {one}" for one in found)


def _settings(name: str, given: dict[str, object]) -> TrainingSettings | None:
    """The parameters of a method that trains on all linear layers; None of any other, and of parameters that are refused elsewhere."""
    method = registry.resolve(registry.METHODS, "method", name)
    if method.yields != "edit" or not issubclass(method.Params, TrainingSettings):
        return None
    try:
        return method.Params.model_validate(given)
    except ValueError:
        return None
