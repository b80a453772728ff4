"""A file's digest is that of its bytes, whatever was read before; a file that rests is read once."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from pathlib import Path

import pytest

from exporter import digests
from exporter.digests import SETTLED, digest_of_file, remembered_digest
from exporter.provenance import digest_of_base


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_KNOWN", {})


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def rested(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the file had been written long ago: its inode's time cannot be set back, so the clock is put forward."""
    now = time.time
    monkeypatch.setattr(digests.time, "time", lambda: now() + 10 * SETTLED)


def test_a_byte_changed_at_once_is_seen_every_time(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for number in range(200):
        content = bytes([number]) * 64
        path.write_bytes(content)
        assert remembered_digest(path) == sha(content)


def test_what_is_verified_is_read_anew_although_its_times_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store to a page that was dirty already moves no time of the file."""
    path = tmp_path / "weights"
    path.write_bytes(b"\0" * 4096)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[-1] = 1
        rested(path, monkeypatch)
        remembered_digest(path)
        mapped[:8] = b"changed!"
        assert digest_of_file(path) == sha(path.read_bytes())


def test_a_file_that_rests_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    rested(path, monkeypatch)
    assert remembered_digest(path) == sha(b"one")
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("read again"))
    assert remembered_digest(path) == sha(b"one")


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_file_that_is_changed_or_replaced_is_read_again(
    keep_times: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    rested(path, monkeypatch)
    assert remembered_digest(path) == sha(b"one")
    times = path.stat()
    time.sleep(0.05)  # longer than a tick of the disk's clock
    path.write_bytes(b"two")
    if keep_times:  # as a thief would: the inode's own time tells
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert remembered_digest(path) == sha(b"two")
    (tmp_path / "other").write_bytes(b"six")
    (tmp_path / "other").replace(path)
    assert remembered_digest(path) == sha(b"six")


def test_a_model_is_known_by_every_byte_of_its_weights(tmp_path: Path) -> None:
    """Records of what was made from it are not taken for those of one whose middle layers changed in place."""
    shard = tmp_path / "model.safetensors"
    with shard.open("wb") as file:
        file.truncate((1 << 26) + 8)
    before = digest_of_base(tmp_path)
    with shard.open("r+b") as file:
        file.seek(1 << 25)
        file.write(b"\1")
    changed = digest_of_base(tmp_path)
    assert changed != before
    with shard.open("r+b") as file:
        file.seek(1 << 25)
        file.write(b"\0")
    assert digest_of_base(tmp_path) == before


def test_weights_that_rest_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard, read = tmp_path / "model.safetensors", []
    shard.write_bytes(b"weights")
    rested(shard, monkeypatch)
    whole = digests.digest_of_file
    monkeypatch.setattr(digests, "digest_of_file", lambda path: read.append(path) or whole(path))
    assert digest_of_base(tmp_path) == digest_of_base(tmp_path)
    assert read == [shard]
