"""What does it mean that a request to a server failed, and is it worth another try?

What is not there (404) is a broken input, to be quarantined; what the server refuses (403) is for the user to mend; everything
else may pass, and is tried again after a pause that doubles each time and is drawn at random, lest a thousand tasks come back
together. What still fails after that says nothing about the file: it is raised as an error of the machine.

The libraries behind fsspec agree on little, so an error is judged by its type, by the HTTP status it carries, and for XRootD by
its text, which is all that one gets.
"""

import errno
import itertools
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from distjet.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0

GONE = (404, 410)
REFUSED_FOR_NOW = (408, 425, 429)
"HTTP: timeout, too early, too many requests."

XROOTD_NOT_FOUND, XROOTD_NOT_AUTHORIZED = "[3011]", "[3010]"
"kXR_NotFound and kXR_NotAuthorized."


def repeat(request: Callable[[], T], url: str, retries: int) -> T:
    """Make a request, and again as long as its failure may pass.

    Args:
        request: Is called without arguments.
        url: Of the file, for messages.
        retries: How often the request is repeated at most.

    Raises:
        DataError: If the file does not exist.
        ConfigError: If the server refuses.
        OSError: If the last try failed as well.
    """
    for attempt in itertools.count():
        try:
            return request()
        except Exception as error:
            reason = may_pass(error, url)
            if attempt == retries:
                message = f"{attempt + 1} requests failed, the last with {describe(reason)}"
                raise OSError(errno.EIO, message, url) from error
            logger.info("%s: %s; request %d of %d", url, describe(reason), attempt + 2, retries + 1)
        time.sleep(pause_s(attempt))
    raise AssertionError


def may_pass(error: Exception, url: str) -> Exception:
    """Return what lies behind an error that may pass; raise what will not.

    fsspec says that a file is not found whenever it cannot learn its size over HTTP; why not is the cause of that error.

    Raises:
        DataError: If the file does not exist.
        ConfigError: If the server refuses.
        Exception: The error itself, if it is no failure of a connection but a mistake in a program.
    """
    if isinstance(error, ConfigError):
        raise error
    cause = error.__cause__
    unanswered = isinstance(error, FileNotFoundError) and not hasattr(cause, "response")  # a `response` is that of S3
    reason = cause if unanswered and isinstance(cause, Exception) else error
    status, text = getattr(reason, "status", None), str(reason)
    if isinstance(reason, FileNotFoundError) or status in GONE or XROOTD_NOT_FOUND in text:
        raise DataError(f"{url} does not exist, says the server") from error
    refused = status is not None and 400 <= status < 500 and status not in REFUSED_FOR_NOW
    if isinstance(reason, PermissionError) or refused or XROOTD_NOT_AUTHORIZED in text:
        raise ConfigError(f"{url}: the server refuses ({describe(reason)}); are the credentials valid?") from error
    if type(reason).__module__ == "builtins" and not isinstance(reason, OSError):
        raise error
    return reason


def pause_s(attempt: int) -> float:
    """Return how long to wait after a failure, the first being number 0: between half and all of a span that doubles."""
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1)


def describe(error: BaseException) -> str:
    """Return type and first line of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0] or 'no message'}"
