"""A study takes a wider space, and keeps what it knows.

Optuna refuses a parameter whose choices change, and a sweep that goes on beyond the edge of what it
searched needs more of them. So the distributions that are kept with each trial are replaced where
they lie. Numbers, values, reports and attributes stay as they are, whatever state a trial is in.
A journal becomes a new file under its old name, a database changes in one transaction: a kill
leaves the old space or the new one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal._storage import JournalOperation

from sft.errors import BadInput
from sft.files import replace_durably
from sweeps.parameters import STAGES, Space, describe, holds, stages, to_json
from sweeps.study import liveness
from sweeps.study.storage import FACTS, JOURNAL, FileLock


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
        _replace(study._storage, study._study_id, folder, space, attributes)
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


def _replace(
    storage: BaseStorage, study_id: int, folder: Path, space: Space, attributes: dict[str, Any]
) -> None:
    """Give all trials the distributions of `space` and the study these attributes, at once."""
    if isinstance(storage, JournalStorage):
        _in_journal(folder / JOURNAL, study_id, space, attributes)
    else:
        _in_database(storage, study_id, space, attributes)


def _in_journal(journal: Path, study_id: int, space: Space, attributes: dict[str, Any]) -> None:
    lock = FileLock(journal)
    lock.acquire()
    try:
        lines = [_line(json.loads(line), space) for line in journal.read_text().splitlines()]
        lines += [
            {
                "op_code": JournalOperation.SET_STUDY_USER_ATTR,
                "worker_id": "wider",
                "study_id": study_id,
                "user_attr": {name: value},
            }
            for name, value in attributes.items()
        ]
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        replace_durably(journal, text)
    finally:
        lock.release()


def _line(line: dict[str, Any], space: Space) -> dict[str, Any]:
    """A line of the journal, with the distributions of `space` in place of its own."""
    name = line.get("param_name")
    if line["op_code"] == JournalOperation.SET_TRIAL_PARAM and name in space:
        value, text = _kept(line["param_value_internal"], line["distribution"], space[name])
        return line | {"param_value_internal": value, "distribution": text}
    if line["op_code"] == JournalOperation.CREATE_TRIAL and "distributions" in line:
        pairs = {
            name: _kept(line["params"][name], text, space[name]) if name in space else
            (line["params"][name], text)
            for name, text in line["distributions"].items()
        }  # fmt: skip
        return line | {
            "params": {name: value for name, (value, _) in pairs.items()},
            "distributions": {name: text for name, (_, text) in pairs.items()},
        }
    return line


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
