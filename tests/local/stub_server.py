"""`python -m sft.local` with an engine of constants, for tests of what is around the engine.

As the `python` of sft.service.child.local it stands for an interpreter: it is called with
`-m sft.local --root …`. A model named "broken" does not load, one named "crashing" crashes, one
named "slow" is warned of.
"""

import os
import sys

sys.modules["torch"] = None  # the SDK does without, and starts in half the time

from sft.local.__main__ import parse, run  # noqa: E402
from sft.local.engine_api import EngineError  # noqa: E402
from tests.local.stub import StubEngine  # noqa: E402


def make_engine(models: dict[str, str | None]) -> StubEngine:
    if "broken" in models:
        raise EngineError("the folder of the model 'broken' holds no config.json")
    if "crashing" in models:
        raise RuntimeError("a bug")
    engine = StubEngine(next(iter(models)))
    if "slow" in models:
        engine.warnings = lambda: ["this will take a while"]
    return engine


if __name__ == "__main__":
    assert sys.argv[1:3] == ["-m", "sft.local"]
    options = parse(sys.argv[3:])
    try:
        code = run(options, lambda: make_engine(options.models))
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.stdout.flush()
    os._exit(code)
