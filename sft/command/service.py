"""The service that a run needs, as a context that starts and ends it: the local one, or the proxy
before another server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sft.config.schema import Settings
from sft.config.secrets import fill
from sft.errors import BadInput
from sft.models.names import model_folder
from sft.service import child
from sft.service.habits import server
from sft.service.habits.meeting import Needs, meet


def service_of(
    settings: Settings, *, ranks: Collection[int] = (), searched: Collection[str] = ()
) -> Callable[[], AbstractContextManager[str]] | None:
    """What gives the URL of the service that `settings` need; None of hosted Tinker, which needs
    nothing. `ranks` are further LoRA ranks that will be trained there, `searched` the keys that
    differ between runs."""
    if settings.service.kind == "custom":
        needs = Needs(
            settings.model.name,
            tuple(dict.fromkeys((settings.lora.rank, *ranks))),
            (*_set(settings), *searched),
        )
        return lambda: _custom(settings, needs)
    if settings.service.kind == "local":
        return lambda: local_service(settings)
    return None


@contextmanager
def local_service(settings: Settings) -> Iterator[str]:
    """The local service of `settings`; raises `BadInput` if it does not start."""
    root = Path(settings.service.root)
    made = _first_missing(root)
    models = {settings.model.name: model_folder(settings.model.name)}
    try:
        with child.local(root, models, dtype=settings.service.dtype) as url:
            yield url
    except child.ServiceUnavailable as error:
        raise BadInput(f"service: {error}") from error
    except BadInput:
        if made is not None:  # nothing was trained: leave nothing behind
            shutil.rmtree(made, ignore_errors=True)
        raise


@contextmanager
def _custom(settings: Settings, needs: Needs) -> Iterator[str]:
    """Raises `BadInput` if the server cannot train what `settings` say."""
    url = fill(str(settings.service.base_url), "service.base_url")
    with server.before(url) as running:
        meet(running, needs)
        yield running.address


def _set(settings: Settings) -> list[str]:
    """Settings that a server may ignore, where they ask for something."""
    keep = settings.checkpoint
    asked: dict[str, object] = {
        "optimizer.grad_clip_norm": settings.optimizer.grad_clip_norm > 0,
        "reduction": settings.reduction == "none",
        "checkpoint.keep": keep.keep,
        "checkpoint.ttl_seconds": keep.ttl_seconds,
    }
    return [key for key, value in asked.items() if value]


def _first_missing(path: Path) -> Path | None:
    """The topmost folder that making `path` would make; None if it is there already."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    return missing[-1] if missing else None
