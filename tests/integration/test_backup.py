"""A planet out of its backup is the planet that was saved, and believes nothing that has become
untrue since; on a real Postgres, with nodes that are messages only."""

from __future__ import annotations

import itertools
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine

from singularity.api import backup as backups
from singularity.api.archive import Reader, Writer
from singularity.api.backup import backup
from singularity.api.restoring import restore
from singularity.api.schema import head, migrate
from singularity.api.settings import Settings
from singularity.api.upkeep import bring_up
from singularity.cli.servers import Postgres
from singularity.primitives.errors import (
    BackupDamaged,
    NotEmpty,
    NotFound,
    PlanetBusy,
    SchemaNewer,
    SingularityError,
)
from singularity.primitives.messages import Report
from tests.integration.api_client import ADMIN, Agent, Api, Json, open_api, run, turn

_numbers = itertools.count()
NewPlace = Callable[[], Settings]


@pytest.fixture
def new_place(postgres: Postgres, tmp_path: Path) -> NewPlace:
    """Makes settings of a planet to come: an empty database, an empty directory."""

    def make() -> Settings:
        name = f"restored{next(_numbers)}_{os.getpid()}"
        with psycopg.connect(postgres.url, autocommit=True) as db:
            db.execute(f'CREATE DATABASE "{name}"')
        return settings_of(postgres.url.rpartition("/")[0] + f"/{name}", tmp_path / name)

    return make


def settings_of(url: str, data: Path, **changes: Any) -> Settings:
    timing = {"heartbeat_every_s": 0.1, "lease_s": 0.2}
    return Settings(database_url=url, data=data, volume=data / "volume", **timing, **changes)


def saved(api: Api, path: Path, **how: Any) -> Path:
    return backup(api.serving.settings, path, {}, **how).path


def migrated(settings: Settings, revision: str) -> None:
    engine = create_engine(settings.sqlalchemy_url)
    migrate(engine, revision)
    engine.dispose()


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as db:
        return db.execute(query).fetchall()


def job_of(api: Api, name: str) -> Json:
    return api.ok("GET", f"/v1/jobs/{name}")


def test_jobs_come_back_with_their_history_and_go_on_from_their_checkpoint(
    api: Api, fleet: list[Agent], new_place: NewPlace, tmp_path: Path
) -> None:
    run(api, fleet, name="trains", devices="cpu:2")
    api.ok("POST", "/v1/jobs/trains/checkpoints")
    turn(api, fleet, step=7)
    api.ok("POST", "/v1/jobs", {"name": "waits", "run": "python x.py", "devices": "cpu:8"})
    team = api.token("submitter", "default")
    events = api.ok("GET", "/v1/jobs/trains/events")["items"]
    path = saved(api, tmp_path / "planet.backup")
    assert path.stat().st_mode & 0o077 == 0, "keys are in it"

    place = new_place()
    done = restore(place, path)
    assert (done.jobs, done.revision, done.warnings) == (2, head(), ())
    assert done.elsewhere
    with open_api(place.database_url, place.data) as again:
        assert again.serving.key.public == api.serving.key.public
        job = job_of(again, "trains")
        assert (job["state"], job["placement"], job["incarnation"] > 1) == ("suspended", [], True)
        assert again.ok("GET", "/v1/jobs/waits")["state"] == "pending"
        told = again.ok("GET", "/v1/jobs/trains/events")["items"]
        assert told[: len(events)] == events and "restored from a backup" in told[-1]["reason"]
        assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
        again.ok("GET", "/v1/jobs", token=team)
        assert {node["lost"] for node in again.ok("GET", "/v1/nodes")["items"]} == {True}
        assert again.schedule() == 0, "nobody is there yet"

        back = Agent(again, "east-1", epoch=fleet[0].admission.epoch)
        again.schedule()
        (start,) = back.letters()
        assert start.verb == "start" and start.origin is not None and start.origin.step == 7
        assert start.incarnation > job["incarnation"]


def test_numbers_that_nodes_have_seen_since_are_not_given_out_again(
    api: Api, fleet: list[Agent], new_place: NewPlace, tmp_path: Path
) -> None:
    """The node has gone on after the backup: other epochs, other lives of the job. What it says of
    those counts for nothing in the planet that was restored, and what it hears is later."""
    job = run(api, fleet, devices="cpu:4")
    path = saved(api, tmp_path / "planet.backup")
    node = next(a for a in fleet if a.node == job["placement"][0]["node"])
    region = node.register["region"]
    api.serving.ledger.lose({node.node: 1e12}, 0.0)
    later = Agent(api, node.node, region, epoch=node.admission.epoch)
    assert later.admission.epoch > node.admission.epoch

    first, second = new_place(), new_place()
    restore(first, path)
    restore(second, path)
    with open_api(first.database_url, first.data) as again:
        was = job_of(again, "digits")["incarnation"]
        old = Report(job=job["id"], node=node.node, incarnation=2, phase="exited", exit_code=0)
        node.api = again
        beat = node.beat(old)
        assert not beat["admitted"], "its token is good, its epoch is not"
        sent = {"reports": [old.model_dump(mode="json")]}
        again.ok("POST", "/v1/agent/report", sent, token=node.token)
        assert job_of(again, "digits")["state"] == "suspended"
        anew = Agent(again, node.node, region, epoch=later.admission.epoch)
        assert anew.admission.epoch > later.admission.epoch
        again.schedule()
        seen = [c.incarnation for c in anew.letters() if c.verb == "start"]
        assert seen and seen[0] > was > 2
    with open_api(second.database_url, second.data) as again:
        third = Agent(again, node.node, region, epoch=anew.admission.epoch)
        assert third.admission.epoch > anew.admission.epoch, "restored twice, and still forward"


def test_leaders_and_routing_tables_of_the_planet_before_are_fenced(
    api: Api, new_place: NewPlace, tmp_path: Path
) -> None:
    url = api.serving.settings.database_url
    with psycopg.connect(url) as db:
        db.execute("INSERT INTO lease VALUES ('schedule', 'somebody', 7, 1e12)")
        db.execute("INSERT INTO routing VALUES (1, 5, 'digest')")
    place = new_place()
    restore(place, saved(api, tmp_path / "planet.backup"))
    (lease,) = rows(place.database_url, "SELECT holder, epoch, expires_at_s FROM lease")
    assert lease[0] == "" and lease[1] > 7 and lease[2] == 0.0
    ((version,),) = rows(place.database_url, "SELECT version FROM routing")
    assert version > 5


def test_numbered_rows_go_on_where_they_were(
    api: Api, fleet: list[Agent], new_place: NewPlace, tmp_path: Path
) -> None:
    run(api, fleet)
    api.ok("POST", "/v1/nodes/east-2/cordon")
    place = new_place()
    restore(place, saved(api, tmp_path / "planet.backup"))
    with open_api(place.database_url, place.data) as again:
        before = again.ok("GET", "/v1/operations")["items"]
        again.ok("POST", "/v1/nodes/east-2/uncordon")
        after = again.ok("GET", "/v1/operations")["items"]
    assert len(after) == len(before) + 1 and len({o["id"] for o in after}) == len(after)


def test_a_restore_is_refused_where_something_is_and_by_an_earlier_release(
    api: Api, fleet: list[Agent], new_place: NewPlace, tmp_path: Path, database: str
) -> None:
    path = saved(api, tmp_path / "planet.backup")
    with pytest.raises(NotEmpty, match="empty database"):
        restore(settings_of(database, tmp_path / "a"), path)
    strange = new_place()
    with psycopg.connect(strange.database_url) as db:
        db.execute("CREATE TABLE theirs (n int)")
    with pytest.raises(NotEmpty, match="not ours"):
        restore(strange, path)
    other = new_place()
    other.signing_key()
    with pytest.raises(NotEmpty, match="another planet"):
        restore(other, path)
    later = rewritten(path, tmp_path / "later.backup", revision="9999")
    with pytest.raises(SchemaNewer, match="install"):
        restore(new_place(), later)
    with pytest.raises(NotEmpty, match="there already"):
        saved(api, path)
    with pytest.raises(NotFound, match="no checkpoint can be"):
        backup(new_place(), tmp_path / "nothing", {})
    bare = new_place()
    bare.signing_key()
    with pytest.raises(NotFound, match="no planet"):
        backup(bare, tmp_path / "nothing", {})


def test_a_backup_that_is_not_whole_leaves_the_database_as_it_was(
    api: Api, fleet: list[Agent], new_place: NewPlace, tmp_path: Path
) -> None:
    run(api, fleet)
    path = saved(api, tmp_path / "planet.backup")
    whole, place = path.read_bytes(), new_place()
    path.write_bytes(whole[:-400])
    with pytest.raises(BackupDamaged, match="not all of one"):
        restore(place, path)
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as opened:
        at = opened.getinfo("tables/event").header_offset + 90
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(BackupDamaged):
        restore(place, path)
    fewer = rewritten(tmp_path / "planet.backup", tmp_path / "fewer", source=whole, rows_of="job")
    with pytest.raises(BackupDamaged, match="were saved"):
        restore(place, fewer)
    assert rows(place.database_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")[
        0
    ] == (0,)
    path.write_bytes(whole)
    restore(place, path)


def rewritten(
    path: Path, to: Path, *, revision: str = "", source: bytes = b"", rows_of: str = ""
) -> Path:
    """The backup with another table of contents."""
    if source:
        path.write_bytes(source)
    with Reader(path) as old, zipfile.ZipFile(path) as parts, Writer(to) as made:
        for name in parts.namelist():
            if name != "contents.json":
                made.put(name, parts.read(name))
        contents = old.contents
        if revision:
            contents = contents.model_copy(update={"revision": revision})
        if rows_of:
            more = contents.tables[rows_of]
            more = more.model_copy(update={"rows": more.rows + 1})
            contents = contents.model_copy(update={"tables": contents.tables | {rows_of: more}})
        made.finish(contents)
    return to


def test_a_backup_of_an_earlier_release_is_brought_forward(
    new_place: NewPlace, tmp_path: Path
) -> None:
    old, place = new_place(), new_place()
    old.signing_key()
    migrated(old, "0012")
    with psycopg.connect(old.database_url) as db:
        db.execute("INSERT INTO region VALUES ('r')")
        db.execute("INSERT INTO acknowledgement (actor, at_s) VALUES ('somebody', 5)")
    path = backup(old, tmp_path / "old.backup", {}).path
    assert restore(place, path).revision == head()
    assert rows(place.database_url, "SELECT id FROM region") == [("r",)]
    assert rows(place.database_url, "SELECT at_s FROM acknowledgement") == [(5.0,)]
    assert rows(place.database_url, "SELECT lost_device_s FROM forgotten") == [(0.0,)]


def test_what_is_in_the_volume_comes_along_when_asked_and_only_at_rest(
    api: Api, new_place: NewPlace, tmp_path: Path
) -> None:
    settings = api.serving.settings
    log = settings.volume / "jobs" / "j" / "logs" / "rank-0.log"
    log.parent.mkdir(parents=True)
    with log.open("wb") as file:
        file.write(b"begin\n" * 200_000)
        file.seek(64 << 20)
        file.write(b"end\n")
    chunk = settings.volume / "chunks" / "ab" / "abcd"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(os.urandom(1 << 16))
    chunk.chmod(0o440)
    with psycopg.connect(settings.database_url) as db:
        db.execute("INSERT INTO lease VALUES ('tidy', 'one of them', 1, 1e12)")
    with pytest.raises(PlanetBusy, match="one of them"):
        saved(api, tmp_path / "planet.backup", with_store=True)
    assert not list(tmp_path.glob("*.backup*")) and not list(tmp_path.glob(".*.part"))
    with psycopg.connect(settings.database_url) as db:
        db.execute("UPDATE lease SET expires_at_s = 0")
    path = saved(api, tmp_path, with_store=True)
    assert path.parent == tmp_path and path.name.startswith("singularity-")

    place = new_place()
    done = restore(place, path)
    assert done.files == 2 and done.elsewhere == ""
    copy = place.volume / log.relative_to(settings.volume)
    assert copy.read_bytes() == log.read_bytes()
    assert copy.stat().st_blocks * 512 < 16 << 20, "its hole is one again"
    assert (place.volume / "chunks/ab/abcd").read_bytes() == chunk.read_bytes()
    assert (place.volume / "chunks/ab/abcd").stat().st_mode & 0o777 == 0o440
    full = new_place()
    (full.volume / "chunks").mkdir(parents=True)
    (full.volume / "chunks" / "x").touch()
    with pytest.raises(NotEmpty, match="belongs there"):
        restore(full, path)


def test_other_sealing_and_another_store_are_warned_of(
    api: Api, new_place: NewPlace, tmp_path: Path
) -> None:
    path, place = saved(api, tmp_path / "planet.backup"), new_place()
    changed = place.model_copy(update={"sealing": "none", "store": str(tmp_path / "else")})
    done = restore(changed, path)
    assert len(done.warnings) == 2 and "SEALING" in done.warnings[0]


def test_whoever_restores_may_name_an_admin(api: Api, new_place: NewPlace, tmp_path: Path) -> None:
    path, place = saved(api, tmp_path / "planet.backup"), new_place()
    mine = "sgl_mine.0123456789abcdef0123"
    restore(place.model_copy(update={"admin_token": mine}), path)
    with open_api(place.database_url, place.data) as again:
        for token in (mine, ADMIN):
            again.ok("GET", "/v1/tokens", token=token)


def test_migrations_that_are_missing_are_told_and_then_made(new_place: NewPlace) -> None:
    place = new_place()
    migrated(place, "0016")
    told = bring_up(place, check=True)
    assert told["before"] == "0016" and [n for n, _ in told["migrations"]][:2] == ["0017", "0018"]
    assert all(what for _, what in told["migrations"])
    assert bring_up(place, check=True) == told, "nothing was changed"
    assert bring_up(place, check=False)["done"]
    assert bring_up(place, check=True)["migrations"] == []
    with psycopg.connect(place.database_url) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    for check in (True, False):
        with pytest.raises(SchemaNewer, match="install the release"):
            bring_up(place, check=check)


def test_only_what_is_void_is_left_out(api: Api, fleet: list[Agent], tmp_path: Path) -> None:
    run(api, fleet)
    path = saved(api, tmp_path / "planet.backup")
    with Reader(path) as found, psycopg.connect(api.serving.settings.database_url) as db:
        assert backups.columns(db).keys() - found.contents.tables.keys() == backups.PASSING
        for name, table in found.contents.tables.items():
            assert db.execute(f'SELECT count(*) FROM "{name}"').fetchone() == (table.rows,)


def test_a_path_that_leads_out_of_the_volume_is_refused(
    api: Api, new_place: NewPlace, tmp_path: Path
) -> None:
    path = saved(api, tmp_path / "planet.backup", with_store=True)
    with Reader(path) as old, zipfile.ZipFile(path) as parts, Writer(tmp_path / "bad") as made:
        for name in parts.namelist():
            if name != "contents.json":
                made.put(name, parts.read(name))
        made.put("volume/../../stolen", b"x")
        made.finish(old.contents)
    with pytest.raises(SingularityError, match="leads out"):
        restore(new_place(), tmp_path / "bad")
    assert not list(tmp_path.rglob("stolen"))
