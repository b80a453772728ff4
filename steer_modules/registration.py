"""Opens steered checkpoints with the code of this library instead of the copy that travels in the folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import transformers

from .template import StockClasses, stock_classes

_PREFIX = "steered_"


def register(folder: str | Path) -> StockClasses:
    """Makes the Auto classes know the model type of a steered checkpoint, so that trust_remote_code is not needed.

    Args:
        folder: a steered checkpoint; only its ``config.json`` is read, none of its code is run.

    Returns:
        The stock classes it builds on.

    Raises:
        ValueError: the folder is not a steered checkpoint, or this Transformers has no such base model.
    """
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    model_type, names = config.get("model_type", ""), config.get("architectures") or [""]
    if not model_type.startswith(_PREFIX) or "steering" not in config:
        raise ValueError(f"{path} is not the config of a steered checkpoint")
    stock = stock_classes(model_type.removeprefix(_PREFIX), names[0].removeprefix("Steered"))
    module = _module(stock)
    config_class = getattr(module, f"Steered{stock.config_class}")
    transformers.AutoConfig.register(model_type, config_class, exist_ok=True)
    model_class = getattr(module, f"Steered{stock.model_class}")
    transformers.AutoModel.register(config_class, model_class, exist_ok=True)
    for task in stock.tasks:
        task_class = getattr(module, f"Steered{stock.architecture}")
        getattr(transformers, task).register(config_class, task_class, exist_ok=True)
    return stock


def steered_classes(stock: StockClasses) -> tuple[Any, Any]:
    """The steered model class and the steered task class of a stock model, without making the Auto classes know them."""
    module = _module(stock)
    return getattr(module, f"Steered{stock.model_class}"), getattr(module, f"Steered{stock.architecture}")


def _module(stock: StockClasses) -> ModuleType:
    """The rendered modeling file as a module of this package; made once."""
    name = f"{__package__}.{stock.module_name}"
    if name not in sys.modules:
        module = ModuleType(name)
        module.__package__ = __package__
        source = stock.source()
        vars(module)["SOURCE"] = source
        sys.modules[name] = module
        try:
            exec(compile(source, name, "exec"), vars(module))  # noqa: S102 - our own template
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
