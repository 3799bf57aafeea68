"""Objects know their tenant: another tenant's session refuses them."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import DetachedInstanceError

from mt_paas_db.core import TenantManager
from mt_paas_db.errors import ConfigurationError, TenantMismatchError
from mt_paas_db.session import orm
from tests.fleet import Runner
from tests.models import Note, Remark


@pytest.fixture
def foreign(runner: Runner) -> Note:
    """A note of korea with a remark, detached."""

    def make(session: Session) -> Note:
        note = Note(body="korea's", remarks=[Remark(body="korea's remark")])
        session.add(note)
        session.flush()
        session.refresh(note)
        _ = note.remarks
        return note

    return runner.run("korea", make)


WAYS: dict[str, Callable[[Session, Note], object]] = {
    "add": lambda session, note: session.add(note),
    "add_all": lambda session, note: session.add_all([note]),
    "merge": lambda session, note: session.merge(note),
    "merge without loading": lambda session, note: session.merge(note, load=False),
    "merge of what holds it": lambda session, note: session.merge(Note(body="mine", remarks=list(note.remarks))),
    "cascade": lambda session, note: session.add(Remark(body="mine", note=note)),
    "bulk_save_objects": lambda session, note: session.bulk_save_objects([note]),
    "delete": lambda session, note: session.delete(note),
    "enable_relationship_loading": lambda session, note: session.enable_relationship_loading(note),
}


@pytest.mark.parametrize("way", WAYS)
def test_another_tenants_object_is_refused(runner: Runner, foreign: Note, way: str) -> None:
    def scenario(session: Session) -> None:
        with pytest.raises(TenantMismatchError) as refused:
            WAYS[way](session, foreign)
        assert (refused.value.expected, refused.value.found) == ("hallym", "korea")
        session.rollback()
        session.expunge_all()

    runner.run("hallym", scenario, commit=False)

    assert runner.run("hallym", lambda session: session.scalars(select(Note)).all()) == []


def test_its_own_tenant_takes_it_back(runner: Runner, foreign: Note) -> None:
    def rename(session: Session) -> None:
        session.merge(foreign).body = "renamed"

    runner.run("korea", rename)

    assert runner.run("korea", lambda session: session.scalars(select(Note.body)).all()) == ["renamed"]


def test_an_object_loaded_by_a_query_is_stamped_too(runner: Runner, foreign: Note) -> None:
    loaded = runner.run("korea", lambda session: session.scalars(select(Note)).one())

    with pytest.raises(TenantMismatchError):
        runner.run("hallym", lambda session: session.add(loaded))


def test_the_stamp_travels_with_a_pickle(runner: Runner, foreign: Note) -> None:
    copy = pickle.loads(pickle.dumps(foreign))

    with pytest.raises(TenantMismatchError):
        runner.run("hallym", lambda session: session.merge(copy))


def test_an_object_of_an_earlier_tenant_of_the_same_id_is_refused(
    runner: Runner, foreign: Note, manager: TenantManager
) -> None:
    manager.archive("korea")
    manager.delete("korea", confirm="korea")
    manager.create("korea")
    runner.manager._door.resolver._known.clear()

    with pytest.raises(TenantMismatchError, match="earlier tenant"):
        runner.run("korea", lambda session: session.merge(foreign))


def test_a_lazy_load_after_the_session_loads_nothing(runner: Runner, foreign: Note) -> None:
    note = runner.run("korea", lambda session: session.scalars(select(Note)).one())

    def touch(_session: Session) -> None:
        with pytest.raises(DetachedInstanceError):
            _ = note.remarks

    runner.run("hallym", touch)


def test_a_session_runs_on_its_own_engine_only(runner: Runner) -> None:
    other = runner.run("korea", lambda session: session.get_bind())

    def scenario(session: Session) -> None:
        with pytest.raises(ConfigurationError, match="leave `bind` out"):
            session.execute(select(Note), bind_arguments={"bind": other})
        session.bind = other
        assert session.get_bind() is not other

    runner.run("hallym", scenario)


def test_twin_without_the_stamp_the_neighbours_object_is_written(
    runner: Runner, foreign: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orm, "_STAMP", "nobody looks here")

    runner.run("hallym", lambda session: session.merge(foreign) and None)

    assert runner.run("hallym", lambda session: session.scalars(select(Note.body)).all()) == ["korea's"]
