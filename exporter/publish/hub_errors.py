"""Errors of the Hub: what is transient is tried again, what is not becomes a sentence, and the token is in neither."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import constants, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from exporter.errors import PublishError

T = TypeVar("T")
Say = Callable[[str], None]

WAITS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before each further attempt."""
LONGEST = 300.0
"""Seconds at most that the Hub may ask us to wait."""
STALL = 600.0
"""Seconds after which a connection on which nothing moves is given up; the Hub may take minutes over a large commit."""
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""The base of all errors of the HTTP library, whichever it is in the installed version of huggingface_hub."""
HUB_ERRORS: tuple[type[Exception], ...] = (_HTTP_ERROR, OSError, ValueError, RuntimeError, LookupError)
"""What calls of huggingface_hub raise when the Hub, the network or an answer is not as it should be."""
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_TOKEN = re.compile(r"\b(hf|api_org|hf_oauth|hf_jwt)_[A-Za-z0-9._-]{8,}")


@contextmanager
def no_stalling() -> Iterator[None]:
    """Within it, a connection on which nothing moves breaks: huggingface_hub would wait for ever on one that died silently.

    Listings of trees stay without a limit; huggingface_hub sets their own.
    """
    session = get_session()
    before, session.timeout = session.timeout, STALL
    try:
        yield
    finally:
        session.timeout = before


def known_token() -> str | None:
    """The token from the usual places; raises PublishError where looking for it fails."""
    try:
        return get_token()
    except HUB_ERRORS as error:
        failure = PublishError(f"the Hub token cannot be read: {type(error).__name__}")
    raise failure


def without_token(text: str) -> str:
    """The text with whatever is or looks like a token blotted out."""
    try:
        token = get_token()
    except HUB_ERRORS:
        token = None
    if token:
        text = text.replace(token, "[token]")
    return _TOKEN.sub("[token]", text)


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error; None where there was no answer."""
    found = _root(error)
    return int(found.response.status_code) if isinstance(found, HfHubHTTPError) else None


def url_of(error: BaseException) -> str:
    """The address that answered with an error; empty where there was no answer."""
    found = _root(error)
    return str(found.response.request.url) if isinstance(found, HfHubHTTPError) else ""


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    status = status_of(error)
    if status is not None:
        return status in _PASSING
    root = _root(error)
    # An answer that is no JSON was given by something on the way, in the Hub's place.
    passing = (_HTTP_ERROR, ConnectionError, TimeoutError, json.JSONDecodeError)
    return isinstance(root, passing) and not isinstance(root, OfflineModeIsEnabled)


def retry(
    action: Callable[[], T], doing: str, say: Say, *, again: Callable[[BaseException], bool] = is_transient
) -> T:
    """The result of ``action``, which is tried again while its errors are transient.

    Args:
        action: calls huggingface_hub.
        doing: what is being done, for messages.
        say: is told about each further attempt.
        again: whether an error is worth a further attempt.

    Raises:
        PublishError: what went wrong and how to mend it. Nothing of the request hangs on it.
    """
    waits = iter(WAITS)
    while True:
        try:
            return action()
        except HUB_ERRORS as error:
            failure = publish_error(error, doing)
            pause = pause_before(error, next(waits, None)) if again(error) else None
        if pause is None:
            raise failure
        say(f"{failure}; trying again in {pause:g} s")
        time.sleep(pause)


def pause_before(error: BaseException, wait: float | None) -> float | None:
    """Seconds until a further attempt: ours, or those that the Hub asks for; None where there is to be none."""
    error = _root(error)
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(max(wait, float(asked)), LONGEST) if wait is not None and asked.isdigit() else wait


def publish_error(error: BaseException, doing: str) -> PublishError:
    """What a user is to read about an error of huggingface_hub."""
    return PublishError(without_token(f"{doing}: {_cause(error)}"))


def _cause(error: BaseException) -> str:
    status, error = status_of(error), _root(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it to publish"
    if not isinstance(error, HfHubHTTPError):
        where = f" ({constants.ENDPOINT})" if isinstance(error, _HTTP_ERROR) else ""
        return f"{type(error).__name__}{where}: {error}"
    said = f": {error.server_message}" if error.server_message else ""
    answer = f"the Hub answered {status}{said}"
    if isinstance(error, RepositoryNotFoundError) and status == 404:
        return f"{answer}; the repository does not exist, or your token has no access to it"
    advice = {
        401: "it does not accept the token: log in with `hf auth login`, or set HF_TOKEN to a token with write access",
        403: "the token has no permission: use one with write access to this namespace, or give a repository of your own",
        413: "a file or the commit is larger than the Hub accepts",
        429: "too many requests; run the same command later to resume",
    }
    return f"{answer}; {advice[status]}" if status in advice else answer


def _root(error: BaseException) -> BaseException:
    """What a wrapper of huggingface_hub wraps."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error
