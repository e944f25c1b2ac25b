"""What an error of the SDK means: by its type, its status and its category, never by its words."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from sft.run.training_queue import NeverWorked

AWAY = (408, 429, 502, 503, 504)
"""Statuses of a service that is busy or away for a while; others will come again."""


class ServiceLost(Exception):
    """The service no longer knows this session or does not answer: resume from a checkpoint."""


def words_of(error: BaseException) -> str:
    """What an error says, in one line, without what the SDK says about itself around it."""
    import tinker

    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, tinker.APIStatusError) and isinstance(error.body, dict):
        detail = error.body.get("detail") or error.body.get("message")
        text = f"{detail} (status {error.status_code})" if detail else text
    if isinstance(error, tinker.RequestFailedError):
        text = text.removeprefix("Request failed: ").partition(" for self.request_id=")[0]
    return text


def is_lost(error: BaseException) -> bool:
    """Whether `error` means that the session is gone or the service out of reach."""
    import tinker
    from tinker.lib.retryable_exception import RetryableException

    for cause in _causes(error):
        if isinstance(cause, tinker.RequestFailedError | NeverWorked):
            return False  # the service has answered
        if isinstance(cause, ServiceLost | RetryableException | tinker.APIConnectionError):
            return True
        if isinstance(cause, tinker.APIStatusError):
            return cause.status_code in (404, 408, 409, 410, 429) or cause.status_code >= 500
    return False


def is_the_services(error: BaseException) -> bool:
    """Whether the service has failed at a request by its own fault: from a checkpoint it may do."""
    import tinker
    from tinker.types import RequestErrorCategory

    failed = [c for c in _causes(error) if isinstance(c, tinker.RequestFailedError)]
    return bool(failed) and failed[0].category is RequestErrorCategory.Server


def is_from(error: BaseException, base_url: str | None) -> bool:
    """Whether an error that `is_lost` is true of came from the service at `base_url`: an evaluator
    may have asked another one."""
    import tinker
    from tinker.lib.base_url import resolve_base_url

    ours = urlsplit(resolve_base_url(base_url)).netloc.rpartition("@")[2]
    for cause in _causes(error):
        if isinstance(cause, tinker.APIConnectionError | tinker.APIStatusError):
            asked = urlsplit(str(cause.request.url)).netloc
            return asked in (ours, "localhost")  # the SDK's word for no request in particular
    return True


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the service answered with; None if it did not, or with none."""
    import tinker

    codes = [c.status_code for c in _causes(error) if isinstance(c, tinker.APIStatusError)]
    return codes[0] if codes else None


def first_error(error: BaseException) -> BaseException:
    """The first error inside nested task groups: the others follow from it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error`, what it was raised from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def is_refused(error: BaseException) -> bool:
    """Whether the service has refused a request as one that its user should not have made."""
    import tinker
    from tinker.types import RequestErrorCategory

    return (
        isinstance(error, tinker.RequestFailedError) and error.category is RequestErrorCategory.User
    )
