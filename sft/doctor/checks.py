"""What the doctor tries: what a run needs, what could spoil its numbers, and then the rest."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sft.doctor.adapters import describe
from sft.doctor.table import Row
from sft.service.downloads import NotHandedOut, adapter
from sft.service.habits import meeting, questions
from sft.service.habits.server import Running
from sft.service.habits.trial import LONGER, TOKENS, Adapter, Asking, Session, sample
from sft.service.habits.upstream import AWAY, TOO_LATE, Refused

if TYPE_CHECKING:
    import numpy as np

SECONDS = 26.0
"""In which all of it is to be over: the doctor has 30, of which it starts for some."""
STEPS = "forward_backward, optim_step"
RANKS = (1, 32, 64, 128)
LAST_SECONDS = 3.0
"""Of them for the last questions, and for putting away what was made."""
MORE_SETTINGS = ("settings for clients on the way",)
CLOSE = 0.02
"""Nats by which a run that went on from a checkpoint may differ from one that never stopped."""


class Checkup:
    """Of the server behind a proxy; `key` is that of a local service."""

    def __init__(self, running: Running, model: str, rank: int, key: str | None):
        self.running, self.habits = running, running.habits
        self.model, self.rank, self.key = model, rank, key
        self.asking = Asking(running, SECONDS)
        self.over = time.monotonic() + SECONDS
        self.asking.give_up = self.over - LAST_SECONDS

    def rows(self) -> list[Row]:
        """All that was found; after what ends a run nothing more is asked."""
        rows = [self._reachable()]
        if rows[-1].ends_a_run:
            return rows
        rows.append(self._versions())
        try:
            opened = Session(self.asking, self.model)
        except Refused as error:
            return [*rows, self._key(error.status, str(error))]
        rows.append(Row("key", "ok", "a local one" if self.key else "taken"))
        for check in (self._wire, self._models):
            rows.append(check())
            if rows[-1].state == "missing" or rows[-1].topic == "messages" and rows[-1].ends_a_run:
                opened.end()
                return rows
        opened.base_model = self.model
        try:
            rows += self._of_training(opened)
        finally:
            self.asking.give_up = self.over
            rows.append(self._others(opened))
            ended = opened.end()
            self.asking.close()
        if ended.status < 400:
            rows.append(self._by_repair("end of a session", "heeded"))
        else:
            rows.append(Row("end of a session", "not asked", ended.detail))
        unknown = [topic for topic in self.habits.repairs if " without " in topic]
        if unknown:
            done = "left out, if nothing is lost by it"
            rows.append(Row("keys of requests", "different", ", ".join(unknown), done))
        return rows

    def _reachable(self) -> Row:
        answer = self.asking.get("healthz")
        if answer.status == AWAY:
            found = answer.detail.removeprefix("nothing answers at ")
            return Row("reachable", "missing", found, "check the URL", ends_a_run=True)
        if answer.status in (401, 403):
            return self._key(answer.status, answer.detail)
        if answer.status != 200 or not isinstance(answer.value, dict):
            found = f"something that is no Tinker service: it answers healthz with {answer.status}"
            found += "" if answer.status != 200 else " and no JSON"
            return Row("reachable", "different", found, "check the URL", ends_a_run=True)
        return Row("reachable", "ok", self.habits.url)

    def _key(self, status: int, detail: str) -> Row:
        """Why nothing more can be asked."""
        said = f"status {status}: {detail}"
        if status in (401, 403):
            return Row("key", "missing", said, "set TINKER_API_KEY", ends_a_run=True)
        return Row("session", "missing", said, ends_a_run=True)

    def _others(self, opened: Session) -> Row:
        """Endpoints that the SDK asks beside a run."""
        session = {"session_id": opened.session_id}
        self.asking.post("session_heartbeat", session | {"type": "session_heartbeat"})
        about = {"sdk_version": "0.38.0"}
        self.asking.post("client/config", about)
        self.asking.post("client/dynamic_config", about)
        self.asking.post("telemetry", about | session | {"platform": "", "events": []})
        topics = ("heartbeat", "telemetry", "settings for clients", *MORE_SETTINGS)
        lacking = [topic for topic in topics if topic in self.habits.repairs]
        if lacking:
            return Row("other endpoints", "missing", ", ".join(lacking), "a run needs none of them")
        return Row("other endpoints", "ok", "heartbeat, telemetry, settings for clients")

    def _versions(self) -> Row:
        import tinker

        answer = self.asking.ask("GET", "/openapi.json")
        info = answer.value.get("info") if isinstance(answer.value, dict) else None
        says = "does not say its own"
        if isinstance(info, dict):
            says = f"calls itself {info.get('title')} {info.get('version')}"
        return Row("versions", "ok", f"SDK {tinker.__version__}; the server {says}")

    def _wire(self) -> Row:
        try:
            questions.speaks(self.asking)
        except questions.OlderWire as error:
            return Row("messages", "different", str(error), "use a newer version", ends_a_run=True)
        return Row("messages", "ok", "binary, as the SDK sends them")

    def _models(self) -> Row:
        answer = self.asking.get("get_server_capabilities")
        if answer.status >= 400:
            return self._key(answer.status, answer.detail)
        value = answer.value
        models = value.get("supported_models", []) if isinstance(value, dict) else []
        names = {
            str(model["model_name"]): model.get("max_context_length")
            for model in models
            if model.get("model_name") and model.get("trainable") is not False
        }
        listed = ", ".join(f"{n} ({c or 'unknown'} tokens)" for n, c in list(names.items())[:3])
        listed += f" and {len(names) - 3} more" if len(names) > 3 else ""
        if not names:
            return Row("models", "missing", "it trains none", ends_a_run=True)
        if self.model in names:
            return Row("models", "ok", listed)
        first = next(iter(names))
        other, self.model = self.model, first
        done = f"tried {first}, not {other}, which a run refuses"
        return Row("models", "different", f"it trains {listed}", done, ends_a_run=True)

    def _of_training(self, opened: Session) -> list[Row]:
        checks: list[tuple[str, Callable[[Adapter], list[Row]]]] = [
            (STEPS, self._steps),
            ("sampling", self._sampling),  # which unloads it
            ("checkpoints", self._checkpoints),
            ("settings", self._settings),
            ("answers", self._answers),
            ("LoRA ranks", self._ranks),
        ]
        try:
            made = opened.adapter(self.rank)
        except Refused as error:
            found = f"{self.rank}: {error}"
            rows = [Row("lora.rank", "missing", found, "a run refuses it", ends_a_run=True)]
            try:
                made = opened.adapter(min(RANKS))
            except Refused:
                return rows
        else:
            rows = [Row("lora.rank", "ok", str(self.rank))]
        for topic, check in checks:
            if time.monotonic() > self.asking.give_up:
                rows.append(Row(topic, "not asked", f"{SECONDS - LAST_SECONDS:g} s are over"))
                continue
            try:
                rows += check(made)
            except Refused as error:
                if error.status == TOO_LATE and time.monotonic() > self.asking.give_up - 1:
                    rows.append(Row(topic, "not asked", str(error)))
                    continue
                needed = topic in (STEPS, "checkpoints")
                rows.append(Row(topic, "missing", str(error), ends_a_run=needed))
            if topic == STEPS and rows[-1].ends_a_run:
                break
        return rows

    def _ranks(self, made: Adapter) -> list[Row]:
        """The smallest and the largest rank of those asked for."""
        taken, refused = {made.rank}, ""
        for rank in (rank for rank in RANKS if rank not in taken):
            try:
                self._forget(made.session.adapter(rank))
            except Refused as error:
                if error.is_no_answer:
                    raise
                refused = f"; {rank}: {error}"
                if rank > min(taken):
                    break
            else:
                taken.add(rank)
        found = f"{min(taken)} to {max(taken)}, of {min(RANKS)} to {max(RANKS)} asked{refused}"
        return [Row("LoRA ranks", "different" if refused else "ok", found)]

    def _forget(self, made: Adapter) -> None:
        self.asking.post("unload_model", {"model_id": made.model_id})

    def _steps(self, made: Adapter) -> list[Row]:
        made.train()
        first = made.logprobs(LONGER)
        times = []
        for _ in range(3):
            started = time.monotonic()
            made.train()
            times.append(time.monotonic() - started)
        moved = questions.unlike(first, made.logprobs(LONGER))
        if not moved:
            return [Row(STEPS, "different", "steps change nothing", ends_a_run=True)]
        found = f"4 steps move {moved:.3g} nats"
        return [Row(STEPS, "ok", found), Row("a step takes", "ok", f"{sorted(times)[1]:.2g} s")]

    def _sampling(self, made: Adapter) -> list[Row]:
        meeting.look_at(self.running, made)
        habits = self.habits
        difference = habits.difference
        copies = habits.repairs.get("evaluation", "")
        if difference is None:
            sampler = Row("sampler weights", "missing", habits.repairs.get("answers", ""), copies)
            return [sampler, self._repeats()]
        off = f"from forward's {difference}"
        alike = Row("compute_logprobs", "ok", off)
        if not habits.samples_alike:
            alike = Row("compute_logprobs", "different", off, "by forward on a copy")
        apart = Row("evaluation and training", "ok", "apart")
        if habits.samples_apart is False:
            apart = Row("evaluation and training", "different", copies.partition(", for ")[2],
                        "by forward on a copy")  # fmt: skip
        return [
            self._by_repair("paths of sampler weights", "with their kind"),
            self._by_repair("ids of sampled sequences", "given"),
            self._by_repair("log-probabilities of a prompt", "as many as tokens"),
            alike,
            apart,
            self._repeats(),
            self._unloading(),
        ]

    def _repeats(self) -> Row:
        if self.habits.repeats_act_twice:
            return Row("a repeated request", "different", "acts twice", "from the last checkpoint")
        return Row("a repeated request", "ok", "acts once")

    def _unloading(self) -> Row:
        if not self.habits.can_unload:
            return Row("unloading an adapter", "missing", "", "it goes with its session")
        if self.habits.unloading_loses_checkpoints:
            return Row("unloading an adapter", "different", "its checkpoints go, too", "not done")
        return Row("unloading an adapter", "ok", "its checkpoints stay")

    def _checkpoints(self, unloaded: Adapter) -> list[Row]:
        made = unloaded.session.adapter(unloaded.rank)
        made.train()
        path = made.save("save_weights", "sft-doctor")
        sampler = made.save("save_weights_for_sampler", "sft-doctor")
        whole = made.session.loaded(path, made.rank, optimizer=True)
        at_load = questions.unlike(made.logprobs(LONGER), whole.logprobs(LONGER))
        made.train()
        whole.train()
        apart = questions.unlike(made.logprobs(LONGER), whole.logprobs(LONGER))
        rows = [Row("save, load with optimizer", "ok", f"goes on within {apart:.2g} nats")]
        if apart > CLOSE:
            what = "weights" if at_load > CLOSE else "optimizer"
            found = f"{apart:.2g} nats apart after a step: the {what} is not what was saved"
            rows = [Row("save, load with optimizer", "different", found)]
        rows.append(self._by_repair("a model from a checkpoint", "by one request"))
        rows.append(self._archive(sampler))
        run, _, name = path.removeprefix("tinker://").partition("/")
        checkpoint = f"/api/v1/training_runs/{run}/checkpoints/{name}"
        headers = {"content-type": "application/json"}
        self.asking.ask("PUT", f"{checkpoint}/ttl", b'{"ttl_seconds": 3600}', headers)
        rows.append(self._by_repair("life of checkpoints", "can be set"))
        made.session.delete(path)
        rows.append(self._by_repair("deleting checkpoints", "possible"))
        for one in (made, whole):
            self._forget(one)
        return rows

    def _archive(self, sampler: str) -> Row:
        from safetensors import SafetensorError

        with tempfile.TemporaryDirectory() as folder:
            try:
                adapter(self.running, sampler, Path(folder))
                found = describe(Path(folder))
            except NotHandedOut as error:
                done = "sft.export asks for external weights first"
                return Row("archive of an adapter", "missing", str(error), done)
            except (OSError, ValueError, TypeError, SafetensorError) as error:
                return Row("archive of an adapter", "different", f"is no adapter: {error}")
            return Row("archive of an adapter", "ok", found)

    def _settings(self, made: Adapter) -> list[Row]:
        opened, rank = made.session, made.rank
        plain: np.ndarray | None = questions.plain_step(opened, rank)
        if plain is None:
            found = "one seed gives different numbers"
            return [Row("seed of an adapter", "different", found, "what it ignores cannot be told")]
        other = questions.step_with(opened, rank, seed=2)
        rows = [Row("seed of an adapter", "ok", "the same numbers again")]
        if questions.unlike(plain, other) < questions.NOISE:
            rows = [Row("seed of an adapter", "different", "every seed gives the same numbers")]
        ignored = [key for key in questions.SETTINGS if questions.ignores(opened, rank, key, plain)]
        if ignored:
            done = "named in a run, refused in a sweep"
            rows.append(Row("settings", "different", f"ignored: {', '.join(ignored)}", done))
        else:
            rows.append(Row("settings", "ok", f"heeded: {', '.join(questions.SETTINGS)}"))
        return rows

    def _answers(self, made: Adapter) -> list[Row]:
        made = made.session.adapter(made.rank)
        sampler = made.snapshot()
        wanted = {"max_tokens": 8, "temperature": 1.0, "seed": 3}
        first, again = (
            list(sample(self.asking, sampler, n, parameters=wanted).sequences[0].tokens)
            for n in (1, 2)
        )
        stop = first[min(2, len(first) - 1)]
        stopped = sample(self.asking, sampler, 3, parameters=wanted | {"stop": [stop]})
        self._forget(made)
        seed = Row("seed of sampling", "ok", "the same tokens again")
        if first != again:
            seed = Row("seed of sampling", "different", "other tokens each time")
        tokens = list(stopped.sequences[0].tokens)
        if stopped.sequences[0].stop_reason == "stop" and len(tokens) <= len(TOKENS):
            return [seed, Row("stops", "ok", f"{len(tokens)} of {len(first)} tokens")]
        return [seed, Row("stops", "different", "a stop token does not end an answer")]

    def _by_repair(self, topic: str, found: str) -> Row:
        if topic in self.habits.repairs:
            return Row(topic, "missing", "", self.habits.repairs[topic])
        return Row(topic, "ok", found)
