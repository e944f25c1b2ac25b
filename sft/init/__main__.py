"""`python -m sft.init FOLDER`: a config folder of your own to start from, with data to try it on.

    python -m sft.init my-project
    cd my-project
    python -m sft --config-dir conf experiment=first

It writes a few small files with comments: an experiment, a data set, a sweep. Any other file
conf/GROUP/NAME.yaml is the option GROUP=NAME of a group that the product has (model, schedule, …).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from sft.command.main import command, new_parser
from sft.errors import BadInput
from sft.init.project import FILES, chats


@command("sft.init")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.init", __doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a new or an empty folder")
    folder = parser.parse_args(argv).folder
    for name in write(folder):
        print(f"wrote {folder / name}")
    print(
        f"\nnext:\n  cd {shlex.quote(str(folder))}\n"
        "  python -m sft --config-dir conf experiment=first              # train\n"
        "  python -m sft --config-dir conf experiment=first --multirun sweep=rates"
    )
    return 0


def write(folder: Path) -> list[str]:
    """Write the files into `folder`; their names. Raises `BadInput` if anything is there."""
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise BadInput(f"{folder}: the folder is not empty; name a new one")
        files = {**FILES, "chats.jsonl": chats()}
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written: {error.strerror}") from None
    return list(files)


if __name__ == "__main__":
    sys.exit(main())
