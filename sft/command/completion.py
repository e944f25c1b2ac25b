"""Tab completion of the command line: `eval "$(sft -sc install=bash)"`.

What Hydra knows it answers itself. It knows neither `python -m sft` nor a command's name before the
keys, so bash gets a function of ours, and Hydra a line of the form that it reads.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from sft.errors import BadInput

OPTIONS = ("--cfg", "--config-dir", "--help", "--multirun", "--yes")
WITH_KEYS = ("preview", "models", "doctor")
"""Commands whose words are the keys of a run."""
WITH_RUNS = (
    *("sample", "chat", "resume", "fork", "reproduce", "compare", "cost"),
    *("export", "publish", "promote"),
)
"""Commands that take a run's name."""

INSTALL = r"""_sft_complete() {
    local line=${COMP_LINE:0:COMP_POINT} ask=("${COMP_WORDS[0]}")
    if [[ ${ask[0]##*/} == python* ]]; then
        [[ $line =~ ^[^\ ]+\ +-m\ +sft[\ .] ]] || return
        ask+=(-m sft)
    fi
    local word=${line##* } behind=${COMP_WORDS[COMP_CWORD]} choices
    choices=$(COMP_LINE=$line COMP_POINT=${#line} "${ask[@]}" -sc query=bash 2>/dev/null)
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
    # Bash ends a word at = and wants what comes behind it.
    [[ $behind == [=:] ]] && behind=
    COMPREPLY=("${COMPREPLY[@]#"${word%"$behind"}"}")
}
complete -o nospace -o default -F _sft_complete sft python python3"""
UNINSTALL = "complete -r sft python python3; unset -f _sft_complete"


def complete(argv: Sequence[str], commands: Sequence[str]) -> None:
    """Print what the shell asks for; `commands` are those of the first word. Raises `BadInput`."""
    if not any(re.fullmatch(r"(install|uninstall|query)=(bash|zsh|fish)", word) for word in argv):
        raise BadInput("-sc: expected install=SHELL or uninstall=SHELL; SHELL is bash, zsh or fish")
    if "install=bash" in argv:
        print(INSTALL)
    elif "uninstall=bash" in argv:
        print(UNINSTALL)
    elif "query=bash" in argv:
        print(" ".join(_choices(os.environ.get("COMP_LINE", "sft "), commands)), end=" ")
    else:
        _ask_hydra(argv)


def _choices(line: str, commands: Sequence[str]) -> list[str]:
    """What may follow, besides what Hydra prints for the keys."""
    words, last = _words(line)
    if words and words[0] in commands:
        if words[0] in WITH_RUNS:
            from sft.past.short import short_words

            return short_words()
        if words[0] not in ("train", *WITH_KEYS):
            return []
        words = words[1:]
        commands = ()
    if last.startswith("-"):
        return list(OPTIONS)
    from sft.config.compose import admitted, with_kind_of_data

    given = [word for word in words if not word.startswith("-") and "=" in word]
    folder = words.index("--config-dir") + 1 if "--config-dir" in words[:-1] else 0
    chosen = [*admitted(with_kind_of_data(given)), last]
    os.environ["COMP_LINE"] = " ".join(["sft", *chosen])
    where = ["--config-dir", words[folder]] if folder else []
    _ask_hydra([*where, "-sc", "query=bash"])
    return [] if words else list(commands)


def _words(line: str) -> tuple[list[str], str]:
    """The whole words of a command line behind its program, a command first; and the one that is
    being typed."""
    words = line.split()
    last = "" if line[-1:].isspace() else words.pop()
    if words and os.path.basename(words[0]).startswith("python"):
        module = words[2] if len(words) > 2 else "sft"
        command = module.removeprefix("sft").removeprefix(".")
        return [command] * bool(command) + words[3:], last
    return words[1:], last


def _ask_hydra(argv: Sequence[str]) -> None:
    import hydra

    from sft.config.compose import CONF, register

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def nothing(config: object) -> None:
        """Hydra answers before it comes to this."""

    sys.argv[1:] = argv
    register()
    nothing()
