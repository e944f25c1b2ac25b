"""`python -m sft`: compose, check, hand over."""

from __future__ import annotations

import os
import sys
from typing import Any


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from sft.errors import BadInput

    argv = sys.argv[1:] if argv is None else argv
    try:
        if not {"--help", "-h"}.isdisjoint(argv):
            from sft.compose import help_text

            print(help_text(), end="")
            return 0
        return _with_hydra(argv)
    except BadInput as error:
        print(f"sft: {error}", file=sys.stderr)
        return 2


def _with_hydra(argv: list[str]) -> int:
    import hydra

    from sft.compose import CONF, admitted, check_overrides, settle, translate
    from sft.errors import BadInput

    overrides, config_dir, multirun = _read(argv)
    check_overrides(overrides, config_dir)
    if not multirun and (given := [o for o in overrides if o.lstrip("+").startswith("sweep=")]):
        raise BadInput(f"{given[0]}: is for a sweep; add --multirun")
    written = dict(zip(overrides, admitted(overrides), strict=True))
    sys.argv[1:] = [written.get(word, word) for word in argv]
    composed: list[Any] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def task(config: Any) -> None:
        if multirun:  # a launcher that was chosen over the sweeper's own runs its jobs here
            launch(config)
        else:
            composed.append(config)

    def launch(config: Any) -> int:
        from sft.launch import run

        return run(settle(config), overrides=overrides)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed and swallowed
    try:
        task()
    except BadInput:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("hydra", "omegaconf", "antlr4"):
            raise
        raise translate(error) from error
    # Outside Hydra, which would announce an error in its own words first.
    return launch(composed[0]) if composed else 0


def _read(argv: list[str]) -> tuple[list[str], str | None, bool]:
    """The overrides, the further config folder and whether this is a sweep, as Hydra reads them."""
    from hydra._internal.utils import get_args_parser

    from sft.errors import BadInput

    arguments = get_args_parser().parse_args(argv)
    modes = [f"--{name}" for name in ("run", "multirun", "cfg", "info") if getattr(arguments, name)]
    if len(modes) > 1:
        raise BadInput(f"{' and '.join(modes)} cannot be done together; leave out one of them")
    return arguments.overrides, arguments.config_dir, arguments.multirun


if __name__ == "__main__":
    sys.exit(main())
