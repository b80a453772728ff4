"""Settings every test needs before Transformers is imported: no network, and no more threads than workers."""

from __future__ import annotations

import gc
import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start, too

from collections.abc import Iterator

import hypothesis
import pytest
import torch
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# torch describes every graph that it traces to whoever listens, and pytest listens to each logger that does not propagate.
logging.getLogger("torch.__trace").propagate = True

# CI tries the same examples every time; elsewhere each run looks for new ones. On a shared machine, how long one takes says nothing.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The costliest first (``benchmarks/results/suite_cost.json``), so that no worker is left alone with them at the end."""
    first = (
        "test_smollm2.py",
        "test_demo.py",
        "test_onnx_folder.py",
        "test_stock_export.py",
        "test_onnx_graph.py",
        "test_onnx_families.py",
        "test_onnx_nodes.py",
    )
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))


def pytest_collection_finish() -> None:
    """What imports made stays: the collector need not look through it again and again while graphs are traced."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _auto_classes_as_shipped() -> Iterator[None]:
    """What a file registers ends with it: a registered class loads without trust, and other files test that none does."""
    auto = [m for m in vars(modeling_auto).values() if isinstance(m, _LazyAutoMapping)]
    registries = [m._extra_content for m in (CONFIG_MAPPING, *auto)]
    before = [dict(registry) for registry in registries]
    yield
    for registry, kept in zip(registries, before, strict=True):
        registry.clear()
        registry.update(kept)
