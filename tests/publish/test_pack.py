"""A folder as one file: the same bytes every time, the same folder on the other side, and nothing lands outside it."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from publish.folders import written

from exporter.errors import CompileError, VerificationError
from exporter.publish.files import files_of
from exporter.publish.pack import read_pack, write_pack


def packed(folder, out):
    return write_pack(folder, files_of(folder), "steerbake-1", out)


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    first, second = written(tmp_path / "a", "onnx"), tmp_path / "b"
    (first / "long" / ("n" * 120)).mkdir(parents=True)
    (first / "long" / ("n" * 120) / ("ü" * 60)).write_bytes(os.urandom(300_000))
    shutil.copytree(first, second)
    os.utime(second / "config.json", (1, 1))
    (second / "config.json").chmod(0o600)
    one, two = (packed(folder, tmp_path / f"{folder.name}.tar.zst") for folder in (first, second))
    assert one.read_bytes() == two.read_bytes()
    (tmp_path / "out").mkdir()
    assert read_pack(one, tmp_path / "out") == files_of(first) == files_of(tmp_path / "out")
    for path in files_of(first):
        assert (tmp_path / "out" / path).read_bytes() == (first / path).read_bytes()


@pytest.mark.skipif(shutil.which("zstd") is None, reason="tar calls zstd")
def test_plain_tar_reads_it(tmp_path):
    file = packed(written(tmp_path / "a"), tmp_path / "a.tar.zst")
    subprocess.run(["tar", "--zstd", "-xf", file], cwd=tmp_path, check=True)
    assert (tmp_path / "steerbake-1" / "config.json").is_file()


def test_what_exists_is_not_overwritten(tmp_path):
    folder = written(tmp_path / "a")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CompileError, match="already exists"):
        packed(folder, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
    with pytest.raises(FileNotFoundError):
        write_pack(folder, ["config.json", "absent"], "top", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


def archive(path, *entries):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            entry.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            entry.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(entry, io.BytesIO(b"evil"))
    path.write_bytes(zstandard.compress(raw.getvalue()))
    return path


PLAIN = ("top/fine", tarfile.REGTYPE)


@pytest.mark.parametrize(
    "entry",
    [
        ("../evil", tarfile.REGTYPE),
        ("/tmp/evil", tarfile.REGTYPE),
        ("top/../../evil", tarfile.REGTYPE),
        ("top/./evil", tarfile.REGTYPE),
        ("top//evil", tarfile.REGTYPE),
        ("top/..\\evil", tarfile.REGTYPE),
        ("top/C:evil", tarfile.REGTYPE),
        ("evil", tarfile.REGTYPE),
        ("other/evil", tarfile.REGTYPE),
        ("top/fine", tarfile.REGTYPE),
        ("top/link", tarfile.SYMTYPE),
        ("top/link", tarfile.LNKTYPE),
        ("top/folder", tarfile.DIRTYPE),
        ("top/pipe", tarfile.FIFOTYPE),
        ("top/device", tarfile.CHRTYPE),
    ],
)
def test_what_could_land_outside_is_refused(tmp_path, entry):
    (tmp_path / "in" / "out").mkdir(parents=True)
    with pytest.raises(VerificationError):
        read_pack(archive(tmp_path / "a.tar.zst", PLAIN, entry), tmp_path / "in" / "out")
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "a.tar.zst"]
    assert all(path == tmp_path / "in" / "out" / "fine" for path in outside)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_broken_file_never_unpacks_to_another_folder(tmp_path_factory, data):
    """Cut or changed anywhere, a pack is refused, or gives the very files that went in."""
    home = tmp_path_factory.mktemp("broken")
    folder = written(home / "a", "onnx", "stock")
    whole = packed(folder, home / "a.tar.zst").read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    (home / "b").write_bytes(
        whole[:place] if cut else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    )
    (home / "out").mkdir()
    try:
        found = read_pack(home / "b", home / "out")
    except VerificationError:
        return
    assert found == files_of(folder)
    assert all((home / "out" / path).read_bytes() == (folder / path).read_bytes() for path in found)
