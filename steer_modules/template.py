"""The one file a family adds to a checkpoint, made from a template. Stays at home: only what it renders travels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

from .files import TRAVELLING

_TEMPLATE = Template('''"""$architecture with steering compiled in: config and model classes (format steerbake/2)."""

from .versions import check_version, lacking

check_version()

# Older loaders copy out of a folder what is named here, and nothing that those files need in turn.
$modules
try:
    from transformers import $config_class, $imports
except ImportError as error:
    raise lacking(error) from error

from .steered_model import SteeredGenerationMixin, SteeredModelMixin, adopt_weight_renames

AUTO_MAP = $auto_map


class Steered$config_class($config_class):
    model_type = "steered_$model_type"

    keys_to_ignore_at_inference = [*getattr($config_class, "keys_to_ignore_at_inference", ()), "steering_gate"]

    steering: dict | None = None
    steering_shapes: dict | None = None


class Steered$model_class(SteeredModelMixin, $model_class):
    config_class = Steered$config_class


class Steered$architecture(SteeredGenerationMixin, $architecture):
    config_class = Steered$config_class


adopt_weight_renames(
    {
        "$model_type": "steered_$model_type",
        "$model_class": "Steered$model_class",
        "$architecture": "Steered$architecture",
    }
)
''')


@dataclass(frozen=True)
class StockClasses:
    """The stock Transformers classes of one base model, by name.

    tasks: the AutoModelFor... classes that load ``architecture``.
    """

    model_type: str
    config_class: str
    model_class: str
    architecture: str
    tasks: tuple[str, ...]

    @property
    def module_name(self) -> str:
        return f"modeling_steered_{self.model_type}"

    @property
    def auto_map(self) -> dict[str, str]:
        return {
            "AutoConfig": f"{self.module_name}.Steered{self.config_class}",
            "AutoModel": f"{self.module_name}.Steered{self.model_class}",
            **dict.fromkeys(self.tasks, f"{self.module_name}.Steered{self.architecture}"),
        }

    def source(self, template: str = _TEMPLATE.template, modules: Sequence[str] = TRAVELLING) -> str:
        """Text of the modeling file.

        Args:
            template: an earlier version's may have other text, but no other names to fill in.
            modules: names of the files that it says it needs.
        """
        lines = "".join(f'    "{name}": "{target}",\n' for name, target in self.auto_map.items())
        return Template(with_modules(template, modules)).substitute(
            model_type=self.model_type,
            config_class=self.config_class,
            model_class=self.model_class,
            architecture=self.architecture,
            imports=", ".join(sorted((self.model_class, self.architecture))),
            auto_map="{\n" + lines + "}",
        )


def with_modules(template: str, modules: Sequence[str]) -> str:
    """A template of modeling files with the files that they need filled in, which are the same for every base."""
    names = (name.removesuffix(".py") for name in modules)
    lines = "".join(f"from .{name} import __name__ as _{name}\n" for name in names)
    return Template(template).safe_substitute(modules=lines)


def stock_classes(model_type: str, architecture: str) -> StockClasses:
    """Looks a model type and its architecture up in the installed Transformers.

    Raises:
        ValueError: Transformers knows no such model type, or no task class of that name for it.
    """
    from transformers.models.auto import configuration_auto, modeling_auto

    config_class = vars(configuration_auto)["CONFIG_MAPPING_NAMES"].get(model_type)
    model_class = modeling_auto.MODEL_MAPPING_NAMES.get(model_type)
    if config_class is None or not isinstance(model_class, str):
        raise ValueError(f"this transformers has no model of type {model_type!r}")
    tasks = []
    for name in dir(modeling_auto):
        names = getattr(getattr(getattr(modeling_auto, name), "_model_mapping", None), "_model_mapping", {})
        if name.startswith("AutoModelFor") and names.get(model_type) == architecture:
            tasks.append(name)
    if not tasks:
        raise ValueError(
            f"{architecture!r} is not a task model of type {model_type!r} that an AutoModelFor... class loads"
        )
    return StockClasses(model_type, config_class, model_class, architecture, tuple(tasks))
