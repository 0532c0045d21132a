"""The tables that migrations make are the tables that the code believes in."""

from __future__ import annotations

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, make_url, select
from sqlalchemy.exc import IntegrityError

from singularity.api import enrolment_tables, tables
from singularity.api.books import load_nodes
from singularity.api.projects import load_projects
from singularity.api.schema import migrate
from singularity.api.tables import metadata
from singularity.cli.servers import Postgres

# What alembic's own comparison overlooks too: CHECKs, partial indexes, storage parameters.
_CATALOGUE = """
SELECT 'column' AS kind, table_name || '.' || column_name AS name,
       concat_ws(' ', data_type, is_nullable, column_default, is_identity) AS what
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'storage', relname, reloptions::text
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
ORDER BY 1, 2, 3
"""


def _catalogue(url: str) -> list[tuple[str, ...]]:
    with psycopg.connect(url) as db:
        return [row for row in db.execute(_CATALOGUE) if "alembic" not in row[1]]


def test_migrated_schema_is_the_metadata(postgres: Postgres, database: str, engine: Engine) -> None:
    other = database + "_declared"
    with psycopg.connect(postgres.url, autocommit=True) as db:
        db.execute(f'CREATE DATABASE "{other.rpartition("/")[2]}"')
    assert enrolment_tables.metadata is metadata, "all of them are there"
    declared = create_engine(engine.url.set(database=other.rpartition("/")[2]))
    metadata.create_all(declared)
    declared.dispose()
    assert _catalogue(database) == _catalogue(other)


def test_migrating_again_changes_nothing(engine: Engine, database: str) -> None:
    before = _catalogue(database)
    migrate(engine)
    assert _catalogue(database) == before


def test_a_database_of_the_first_version_comes_up_to_date(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as db:
        db.execute("CREATE DATABASE of_the_first_version")
    engine = create_engine(
        make_url(postgres.url).set(database="of_the_first_version", drivername="postgresql+psycopg")
    )
    migrate(engine, "0001")
    with engine.begin() as db:
        db.exec_driver_sql("INSERT INTO region VALUES ('r')")
        db.exec_driver_sql("INSERT INTO cluster VALUES ('c', 'r')")
        db.exec_driver_sql(
            "INSERT INTO node VALUES ('n', 'r', 'c', 'cpu', 8, 0, 0, false, 5, 1, 0, '')"
        )
    migrate(engine)
    with engine.connect() as db:
        node = load_nodes(db, select(tables.node))[0]
    assert (node.id, node.failures) == ("n", 0)
    assert node.known_s > node.heard_s, "watched since it was migrated"
    engine.dispose()


def test_what_projects_hold_is_counted_when_it_is_first_asked(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as db:
        db.execute("CREATE DATABASE before_projects")
    engine = create_engine(
        make_url(postgres.url).set(database="before_projects", drivername="postgresql+psycopg")
    )
    migrate(engine, "0007")
    with engine.begin() as db:
        for line in (
            "region VALUES ('r')",
            "cluster VALUES ('c', 'r')",
            "node VALUES ('n', 'r', 'c', 'cpu', 8, 3, 0, false, 5, 1, 0, '', 0, 0, '')",
            "project VALUES ('idle', 1.0), ('busy', 1.0)",
            """job VALUES ('j', 'busy', 'j', 'train', 1, '{"device": "cpu"}', 1.0, NULL, NULL)""",
            "shard VALUES ('j', 'n', 3)",
        ):
            db.exec_driver_sql(f"INSERT INTO {line}")
    migrate(engine)
    with engine.connect() as db:
        held = {p.id: p.usage.held for p in load_projects(db)}
    assert held == {"idle": (), "busy": (("cpu", 3),)}
    engine.dispose()


@pytest.mark.parametrize(
    ("used", "parts", "law"),
    [
        (-1, ("{}", "{}", "{}"), "used_within_devices|ck_node_parts"),
        (9, ("{}", "{}", "{}"), "used_within_devices"),
        (0, ("{1}", "{500}", "{1}"), "ck_node_parts"),
        (1, ("{8}", "{500}", "{1}"), "ck_node_parts"),
        (2, ("{0,1}", "{500,1001}", "{1,1}"), "compute_of_parts"),
        (2, ("{0,1}", "{500,1000}", "{1,65}"), "memory_of_parts"),
    ],
)
def test_the_books_refuse_what_a_node_does_not_have(
    engine: Engine, used: int, parts: tuple[str, str, str], law: str
) -> None:
    with engine.begin() as db:
        db.exec_driver_sql("INSERT INTO region VALUES ('r')")
        db.exec_driver_sql("INSERT INTO cluster VALUES ('c', 'r')")
    row = f"('n', 'r', 'c', 'cpu', 8, {used}, 0, false, 0, 1, 0, '', 0, 0, '', '{{}}', "
    row += "64, false, true, " + ", ".join(f"'{part}'" for part in parts) + ")"
    with pytest.raises(IntegrityError, match=law), engine.begin() as db:
        db.exec_driver_sql(f"INSERT INTO node VALUES {row}")
