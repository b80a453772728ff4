"""Settings every test needs before Transformers is imported: no network, and no more threads than workers."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import pytest
import torch

# CI tries the same examples every time; elsewhere each run looks for new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is left alone with them at the end."""
    first = ("test_smollm2.py", "test_demo.py", "test_onnx_families.py", "test_onnx_folder.py")
    items.sort(key=lambda item: first.index(item.path.name) if item.path.name in first else len(first))
