"""Sessions that end, and results that are kept."""

import asyncio
import contextlib

import pytest

from sft.local.server.futures import Futures, Reply, UnknownRequest
from sft.local.server.sessions import Gone
from tests.local.direct import on_core


def test_a_session_that_ends_releases_all_it_held(tmp_path):
    @on_core(tmp_path)
    async def _(core, engine, client):
        model = await client.create()
        await client.result(client.snapshot(model, 1))
        waiting = client.compute(model, 3)  # behind a gap
        assert engine.adapters and engine.samplers
        core.sessions.end(client.session, "the session has ended")
        assert "ended" in await client.error(waiting)
        for _ in range(100):
            if not engine.adapters and not engine.samplers:
                break
            await asyncio.sleep(0.02)
        assert not engine.adapters and not engine.samplers
        with pytest.raises(Gone, match="not open"):
            client.compute(model, 2)


def test_a_session_without_a_heartbeat_ends(tmp_path):
    @on_core(tmp_path, session_timeout=0.1)
    async def _(core, engine, client):
        await asyncio.sleep(0.2)
        core.sessions.expire()
        with pytest.raises(Gone, match="no heartbeat"):
            core.sessions.get(client.session)


def test_results_are_kept_a_while_and_within_bounds():
    async def main() -> None:
        now = [0.0]
        futures = Futures(keep_bytes=1000, keep_fetched=300, clock=lambda: now[0])
        for number in range(30):
            futures.open(str(number), "session", "sample")
            futures.resolve(str(number), Reply(b"x" * 100))
            futures.resolve(str(number), Reply(b"another answer"))
            with contextlib.suppress(UnknownRequest):
                if number == 28:
                    await futures.fetch("28", 0)
        assert (await futures.fetch("29", 0)).body == b"x" * 100
        with pytest.raises(UnknownRequest):
            await futures.fetch("0", 0)
        now[0] = 300.0
        futures.sweep()
        with pytest.raises(UnknownRequest):
            await futures.fetch("28", 0)

    asyncio.run(main())
