"""A Hub on this machine, and a client in this process that knows no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub_server import TOKEN, HubServer
from huggingface_hub import constants


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty Hub, on which this process is logged in as ``user``."""
    with HubServer({TOKEN: "user"}, multipart=1 << 16) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
