"""Work in a process of its own that is killed, with signal 9, after a time."""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BEGUN = b"\n"


@dataclass(frozen=True)
class Ending:
    """How a child ended.

    Args:
        killed: whether the signal met it at work.
        seconds: from the first line of its work to its end.
        code: exit code of its work; None where it was killed.
        said: what its work printed or returned.
    """

    killed: bool
    seconds: float
    code: int | None
    said: Any


def in_child(work: Callable[[], Any], kill_after: float | None = None) -> Ending:
    """Does ``work`` in a fork of this process, in which everything is imported already.

    Args:
        work: returns plain data. Raises SystemExit for an exit code.
        kill_after: seconds after the work began at which it is killed; None lets it end.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(work, writer)
    os.close(writer)
    os.read(reader, len(BEGUN))
    begun = time.perf_counter()
    if kill_after is not None and not select.select([reader], [], [], kill_after)[0]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    answer = b"".join(iter(lambda: os.read(reader, 1 << 16), b""))
    os.close(reader)
    status = os.waitpid(pid, 0)[1]
    seconds = time.perf_counter() - begun
    if os.WIFSIGNALED(status):
        return Ending(True, seconds, None, None)
    code, said = json.loads(answer)
    return Ending(False, seconds, code, said)


def _child(work: Callable[[], Any], writer: int) -> None:
    """Never returns: nothing of the parent's may run a second time."""
    code, said = 1, None
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            os.write(writer, BEGUN)
            said = work()
        code = 0
    except SystemExit as end:
        code, said = int(end.code or 0), out.getvalue()
    except Exception as error:  # noqa: BLE001 - the parent tells it
        said = f"{type(error).__name__}: {error}"
    finally:
        os.write(writer, json.dumps([code, said]).encode())
        os._exit(0)
