"""`python -m sft.publish RUN NAMESPACE/NAME`: a checkpoint on the Hugging Face Hub, with its card.

    python -m sft.publish RUN me/faq-lora      # private
    python -m sft.publish RUN me/faq-lora --checkpoint best --public
    python -m sft.publish RUN me/faq --merge   # the whole model

The files are those of `sft.export`; data and paths of this machine stay here. The token is the one
of `hf auth login`, or HF_TOKEN, with the right to write. Again, it replaces what it published.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sft.command.main import command, new_parser
from sft.config.shadows import check_working_folder
from sft.errors import BadInput
from sft.export.__main__ import add_form
from sft.export.folder import Chosen, publishable
from sft.export.loading import commands, remarks
from sft.models.tokenizers import why_no_hub
from sft.past.choosing import CHECKPOINT
from sft.past.find import WORDS
from sft.past.trust import TRUST
from sft.secrets import mask

if TYPE_CHECKING:
    from huggingface_hub import HfApi

OURS = ["adapter_*", "*.safetensors", "*.safetensors.index.json", "*.gguf", "Modelfile"]
"""Files that an earlier checkpoint of another form may have left: an adapter beside a merged model
would be loaded on top of it."""


@command("sft.publish", needs_torch=True)
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.publish", __doc__)
    parser.add_argument("run", metavar="RUN", help=WORDS)
    parser.add_argument("name", metavar="NAMESPACE/NAME", help="the model's name on the Hub")
    parser.add_argument("--checkpoint", metavar="NAME", help=CHECKPOINT)
    parser.add_argument("--public", action="store_true", help="everybody may see it")
    add_form(parser)
    parser.add_argument("--uri", help="MLflow store that run ids are looked up in")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    options = parser.parse_args(argv)
    check_working_folder()
    _check_name(options.name)
    chosen = Chosen.of(
        options.run, options.checkpoint, options.form, options.uri, trust=options.trust
    )
    print(publish(chosen, options.name, public=options.public))
    return 0


def publish(chosen: Chosen, name: str, *, public: bool) -> str:
    """Upload the export of a checkpoint as the model `name`; where it is and how to load it.

    Raises `BadInput`, before anything is uploaded if the token or the name cannot be used.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=_token())
    with _explained(name):
        api.whoami()
    _check_visibility(api, name, public)
    with tempfile.TemporaryDirectory(prefix="sft-publish-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        exported = publishable(chosen, folder, name)
        with _explained(name):
            place = api.create_repo(name, private=not public, exist_ok=True)
            api.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message=f"Checkpoint {chosen.record.name} as {chosen.form}",
                delete_patterns=OURS,
            )
            private = api.model_info(name).private
    seen = "private" if private else "public"
    lines = [
        f"{place}: checkpoint {chosen.record.name}, {seen}",
        *(f"  {who:<13} {line}" for who, line in commands(exported).items()),
        *remarks(exported),
    ]
    return "\n".join(lines)


def _check_name(name: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise BadInput(f"{name}: is no name for a model on the Hub: {error}") from None
    if "/" not in name:
        raise BadInput(f"{name}: write NAMESPACE/{name}: your user's name or an organization's")


def _token() -> str:
    from huggingface_hub import get_token

    if reason := why_no_hub():
        raise BadInput(f"the Hub cannot be reached: {reason}")
    token = get_token()
    if token is None:
        raise BadInput(
            "the Hub wants a token with the right to write: make one at "
            "https://huggingface.co/settings/tokens and give it to `hf auth login`, or set HF_TOKEN"
        )
    return token


def _check_visibility(api: HfApi, name: str, public: bool) -> None:
    """Raise `BadInput` if the model is there already for all to see, and that was not asked for."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        with _explained(name):
            private = api.model_info(name).private
    except BadInput as error:
        if isinstance(error.__cause__, RepositoryNotFoundError):
            return
        raise
    if not private and not public:
        raise BadInput(f"{name}: is there already, and public; add --public, or choose a new name")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """The Hub's refusals as `BadInput`, without a secret."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            said = "the Hub does not know the token; make another one (`hf auth login`, HF_TOKEN)"
        elif status == 403:
            said = "the token may not write there; it needs the right to write to the namespace"
        else:
            said = mask(str(error).strip().splitlines()[0])
        raise BadInput(f"{name}: {said}") from error
    except httpx.HTTPError as error:
        raise BadInput(f"{name}: the Hub cannot be reached: {mask(str(error))}") from error


if __name__ == "__main__":
    sys.exit(main())
