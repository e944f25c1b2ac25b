"""`python -m sft.doctor [OVERRIDES]`: what a service can do, and what is done about the rest.

    python -m sft.doctor   # the local service
    python -m sft.doctor service=custom service.base_url=http://HOST:PORT
    python -m sft.doctor service=tinker model=qwen3 lora.rank=64
    python -m sft.doctor service=custom service.base_url=… --json

It trains a few tokens, within 30 seconds, and shows a line for each thing that it has tried: ok,
missing (the server has no such thing), different, or not asked (there was no time left; a server
that has just started is slow, and does better when asked again). The exit code is 1 if a run could
not train there.
"""

from __future__ import annotations

from contextlib import ExitStack

from sft.command.main import add_config_dir, add_json, command, new_parser, print_json
from sft.config.compose import compose
from sft.config.schema import Settings
from sft.config.secrets import fill
from sft.config.shadows import check_working_folder
from sft.doctor.checks import Checkup
from sft.doctor.table import Row, lines
from sft.service.habits import server
from sft.service.keys import api_key


@command("sft.doctor")
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = new_parser("sft.doctor", __doc__)
    parser.add_argument("overrides", nargs="*", help="service=… model=… lora.rank=…, as for a run")
    add_config_dir(parser)
    add_json(parser, "the lines")
    arguments = parser.parse_intermixed_args(argv)  # --json between overrides, too
    check_working_folder()
    settings = compose(arguments.overrides, arguments.config_dir)
    rows = examine(settings)
    if arguments.json:
        print_json([row.to_json() for row in rows])
    else:
        print("\n".join(lines(rows)))
    return int(any(row.ends_a_run for row in rows))


def examine(settings: Settings) -> list[Row]:
    """What the service of `settings` can do. Raises `BadInput` if a local one does not start."""
    from tinker.lib.base_url import resolve_base_url

    from sft.command.service import local_service

    with ExitStack() as stack:
        if settings.service.kind == "local":
            url = stack.enter_context(local_service(settings))
        else:
            given = settings.service.base_url
            url = resolve_base_url(given and fill(given, "service.base_url"))
        running = stack.enter_context(server.before(url))
        return Checkup(running, settings.model.name, settings.lora.rank, api_key(url)).rows()
