"""`python -m sft`, and the script `sft`: compose, check, hand over.

A first word that is a command's name runs that command: `sft runs` is `python -m sft.runs`, and
`sft train` is `sft` itself.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import Any

from sft.secrets import mask_urls

TRAIN = "train"
COMMANDS = {
    "init": "a config folder of your own to start from",
    "preview": "what becomes of the data: text, tokens, what of it is trained",
    "sample": "ask what a run has trained",
    "chat": "talk to it in several turns, two runs side by side",
    "runs": "every run, and how it stands",
    "compare": "what differs between runs, and how sure that is",
    "resume": "go on from a run's last checkpoint",
    "fork": "take another way from a checkpoint of a run",
    "reproduce": "train a run again; do the numbers agree?",
    "cost": "what a run or a sweep costs, beside the provider's bill",
    "sweeps.report": "what a sweep has found: the answer, tables, figures, a page",
    "models": "what a service offers, and what it costs",
    "export": "the trained adapter as a PEFT folder, or the whole model",
    "publish": "the same on the Hugging Face Hub, with a model card",
    "promote": "give a checkpoint a name in MLflow's model registry",
    "ui": "MLflow's pages of the runs",
    "doctor": "what a service can do, and what is done about the rest",
}
"""Modules and packages of `sft` with a `main(argv)`; one is imported only when it is called."""
ASK_COMPLETION = {"-sc", "--shell-completion", "--shell_completion"}
"""Hydra's words by which a shell asks."""
TRAINING = {"-m", "--multirun", "-r", "--run", "-cd", "--config-dir", "--yes"}
"""Options under which something is trained: Hydra's others only print."""
NEVER_ASK = "cost.confirm_above_usd=null"
"""What `--yes` means."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from sft.errors import BadInput
    from sft.models import without_torch

    if argv is None and sys.argv[1:2] and sys.argv[1] in COMMANDS:
        return _command(sys.argv.pop(1)).main()
    if argv is None:
        without_torch.begin()
        argv = sys.argv[1:]
    if argv and argv[0] in COMMANDS:
        return _command(argv[0]).main(argv[1:])
    if argv[:1] == [TRAIN]:
        argv = argv[1:]
    if "--yes" in argv:
        argv = [word for word in argv if not word.startswith("cost.confirm_above_usd=")]
        argv = [NEVER_ASK if word == "--yes" else word for word in argv]
    try:
        if not {"--help", "-h"}.isdisjoint(argv):
            from sft.config.help import help_text

            print(help_text(COMMANDS), end="", flush=True)
            return 0
        if not ASK_COMPLETION.isdisjoint(argv):
            from sft.command.completion import complete

            complete(argv, [TRAIN, *COMMANDS])
            return 0
        from sft.config.shadows import check_working_folder

        check_working_folder()
        _check_command(argv)
        with _at_work(argv):
            return _with_hydra(argv)
    except BadInput as error:
        print(f"sft: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        from sft.command.main import left_unread

        return left_unread()
    except KeyboardInterrupt:
        return 130


def _at_work(argv: list[str]) -> AbstractContextManager[None]:
    """Shows what is done from here on, but for a command line that Hydra answers by itself."""
    from sft.display.stages import shown

    options = {word.partition("=")[0] for word in argv if word.startswith("-")}
    return shown("checking the settings", lines=True) if options <= TRAINING else nullcontext()


def _command(name: str) -> Any:
    """The module of a command: a package has its own in `__main__`."""
    module = importlib.import_module(f"sft.{name}")
    return (
        importlib.import_module(f"sft.{name}.__main__") if hasattr(module, "__path__") else module
    )


def _check_command(argv: list[str]) -> None:
    """Raise `BadInput` for a first word that is almost a command's name."""
    from sft.errors import BadInput, nearest

    if argv and argv[0].isalpha() and (name := nearest(argv[0], [TRAIN, *COMMANDS])):
        raise BadInput(f"{argv[0]}: there is no such command{name}")


def _with_hydra(argv: list[str]) -> int:
    import hydra

    from sft.config.compose import (
        CONF,
        admitted,
        check_overrides,
        from_environment,
        masked_arguments,
        register,
        settings_of,
        translate,
        with_kind_of_data,
    )
    from sft.errors import BadInput

    argv = masked_arguments(_options_first(argv))
    given = _read(argv)[0]
    argv = with_kind_of_data(argv)
    overrides, config_dir, multirun, only_shown = _read(argv)
    check_overrides(overrides, config_dir)
    if not multirun:
        _refuse_a_sweeps(overrides, only_shown)
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
        from sft.command.launch import run

        return run(settings_of(config), overrides=given, variables=from_environment(config))

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed and swallowed
    register()
    shown = io.StringIO() if _only_shows(argv) else None
    try:
        with redirect_stdout(shown) if shown else nullcontext():
            task()
    except BadInput:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("hydra", "omegaconf", "antlr4"):
            raise
        raise translate(error) from error
    finally:
        print(mask_urls(shown.getvalue()) if shown else "", end="")
    # Outside Hydra, which would announce an error in its own words first.
    return launch(composed[0]) if composed else 0


def _options_first(argv: list[str]) -> list[str]:
    """The words with the overrides last: Hydra reads none behind `lr=1,2 --multirun`."""
    from hydra._internal.utils import get_args_parser

    overrides = get_args_parser().parse_intermixed_args(argv).overrides
    return [word for word in argv if word not in overrides] + overrides


def _only_shows(argv: list[str]) -> bool:
    """Whether Hydra is asked to print the config; if so, with the values that a run would have."""
    from hydra._internal.utils import get_args_parser

    arguments = get_args_parser().parse_args(argv)
    if arguments.cfg and not arguments.resolve:
        sys.argv.append("--resolve")
    return bool(arguments.cfg or arguments.info)


def _refuse_a_sweeps(overrides: list[str], shown: bool) -> None:
    """Raise `BadInput` on what has no effect on a single run; Hydra's part may be shown."""
    from sft.errors import BadInput

    of_a_sweep = ("sweep=",) if shown else ("sweep=", "hydra.sweeper.")
    for override in overrides:
        if override.lstrip("+").startswith(of_a_sweep):
            raise BadInput(f"{override}: is for a sweep; add --multirun")


def _read(argv: list[str]) -> tuple[list[str], str | None, bool, bool]:
    """The overrides, the further config folder, whether this is a sweep, and whether something is
    only shown, as Hydra reads them."""
    from hydra._internal.utils import get_args_parser

    from sft.errors import BadInput

    arguments = get_args_parser().parse_args(argv)
    modes = [f"--{name}" for name in ("run", "multirun", "cfg", "info") if getattr(arguments, name)]
    if len(modes) > 1:
        raise BadInput(f"{' and '.join(modes)} cannot be done together; leave out one of them")
    shown = bool(arguments.cfg or arguments.info)
    return arguments.overrides, arguments.config_dir, arguments.multirun, shown


if __name__ == "__main__":
    sys.exit(main())
