"""A study takes a wider space, and keeps what it knows.

Optuna refuses a parameter whose choices change, and a sweep that goes on beyond the edge of what it
searched needs more of them. So the distributions that are kept with each trial are replaced: in a
database where they lie, in one transaction; in a journal by the same study once more, in a new file
under the old name. A kill leaves the old space or the new one. Numbers, values, reports and
attributes stay as they are, whatever state a trial is in.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend

from sft.errors import BadInput
from sft.files import replace_durably
from sft.sweeps.parameters import STAGES, Space, describe, holds, stages, to_json
from sft.sweeps.study import liveness
from sft.sweeps.study.storage import FACTS, JOURNAL, FileLock


def widen(study: optuna.Study, facts: dict[str, Any], space: Space, folder: Path) -> bool:
    """Let `study` search `space`, if it was about the same and searched less so far.

    Args:
        facts: what the sweep is about now.
        folder: of the study.

    Returns whether its storage was changed: it has to be opened again then. Raises `BadInput` if
    the space contradicts the study's, or if another process works on it.
    """
    known = study.user_attrs.get(FACTS)
    if known is None or known == facts or known | {"space": 0} != facts | {"space": 0}:
        return False
    searched = space_of(study)
    _refuse_contradiction(study, searched, space)
    alive = liveness.make(study, folder, isinstance(study._storage, JournalStorage))
    try:
        if alive.has_company(study):
            raise BadInput(
                "hydra.sweeper.extend: another process works on the study (or was killed a moment "
                "ago); it takes a wider space once that has ended."
            )
        former = stages(study.user_attrs) or [searched] * bool(searched)
        kept = [to_json(stage) for stage in [*former, space]]
        attributes = {STAGES: kept, FACTS: facts}
        if isinstance(study._storage, JournalStorage):
            _in_journal(folder / JOURNAL, study, space, attributes)
        else:
            _in_database(study._storage, study._study_id, space, attributes)
    finally:
        alive.close()
    return True


def space_of(study: optuna.Study) -> Space:
    """The parameters that the trials of a study have, and what each was chosen from."""
    found: Space = {}
    for trial in study.get_trials(deepcopy=False):
        found |= trial.distributions  # type: ignore[arg-type]
    order = list(study.user_attrs.get(FACTS, {}).get("space", {}))
    return {name: found[name] for name in sorted(found, key=order.index)} if order else found


def first_space(study: optuna.Study) -> Space:
    """The space that a study began with, as far as it has trials."""
    return next(iter(stages(study.user_attrs)), space_of(study))


def _refuse_contradiction(study: optuna.Study, old: Space, new: Space) -> None:
    problems = [f"{name} was searched, and would be no more" for name in old if name not in new]
    problems += [
        f"{name} was {describe(old[name])}, which {describe(new[name])} does not hold"
        for name in old
        if name in new and not holds(new[name], old[name])
    ]
    problems += [
        f"{name}: the trials so far have no value of it" for name in new if name not in old
    ]
    if old and problems:
        raise BadInput(
            f"hydra.sweeper.extend: study {study.study_name} takes a wider space, not another one: "
            f"{'; '.join(problems)}. Name another study, or give a space that holds its own."
        )


class _Lines(BaseJournalBackend):
    """A journal in memory, which keeps what is added to it."""

    def __init__(self, lines: list[dict[str, Any]]):
        self._lines, self._there = lines, len(lines)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return iter(self._lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        # As they would be read from a file: the states of trials are numbers there.
        self._lines += json.loads(json.dumps(logs))

    def added(self) -> str:
        """What was added, as lines of a file."""
        lines = self._lines[self._there :]
        return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def _in_journal(
    journal: Path, study: optuna.Study, space: Space, attributes: Mapping[str, Any]
) -> None:
    """The study is deleted and made anew behind all that the journal holds.

    So those that read on where they were, such as Optuna's dashboard, come to see it.
    """
    lock = FileLock(journal)
    lock.acquire()
    try:
        before = journal.read_text(encoding="utf-8")
        lines = _Lines([json.loads(line) for line in before.splitlines()])
        storage = JournalStorage(lines)
        old = storage.get_study_id_from_name(study.study_name)
        trials = storage.get_all_trials(old)
        kept = storage.get_study_user_attrs(old) | dict(attributes)
        of_optuna = storage.get_study_system_attrs(old)
        storage.delete_study(old)
        new = storage.create_new_study(study.directions, study.study_name)
        for name, value in kept.items():
            storage.set_study_user_attr(new, name, value)
        for name, value in of_optuna.items():
            storage.set_study_system_attr(new, name, value)
        for trial in trials:
            wider = {name: space.get(name, d) for name, d in trial.distributions.items()}
            trial.distributions = wider
            storage.create_new_trial(new, trial)
        replace_durably(journal, before + lines.added())
    finally:
        lock.release()


def _kept(internal: float, distribution: str, wider: Any) -> tuple[float, str]:
    """A value as Optuna keeps it under a wider distribution, and that distribution's text."""
    value = json_to_distribution(distribution).to_external_repr(internal)
    return wider.to_internal_repr(value), distribution_to_json(wider)


def _in_database(storage: Any, study_id: int, space: Space, attributes: Mapping[str, Any]) -> None:
    from optuna.storages._rdb.models import StudyUserAttributeModel, TrialModel, TrialParamModel
    from sqlalchemy.orm import Session

    with Session(storage._backend.engine) as session, session.begin():
        rows: Any = (
            session.query(TrialParamModel)
            .join(TrialModel)
            .filter(TrialModel.study_id == study_id, TrialParamModel.param_name.in_(list(space)))
        )
        for row in rows:
            row.param_value, row.distribution_json = _kept(
                row.param_value, row.distribution_json, space[row.param_name]
            )
        for name, value in attributes.items():
            session.query(StudyUserAttributeModel).filter_by(study_id=study_id, key=name).delete()
            session.add(
                StudyUserAttributeModel(study_id=study_id, key=name, value_json=json.dumps(value))
            )
