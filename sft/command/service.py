"""The local service that a run needs, as a context that starts and ends it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sft.config.schema import Settings
from sft.errors import BadInput
from sft.models.names import model_folder
from sft.service import child


def service_of(settings: Settings) -> Callable[[], AbstractContextManager[str]] | None:
    """What starts the local service that `settings` need; None when they name another one."""
    if settings.service.kind != "local":
        return None

    @contextmanager
    def start() -> Iterator[str]:
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

    return start


def _first_missing(path: Path) -> Path | None:
    """The topmost folder that making `path` would make; None if it is there already."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    return missing[-1] if missing else None
