"""Changes of jobs are noted once a statement and no more once a row: many are written by one."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0014"
branch_labels = None
depends_on = None

_NOTE = """
CREATE FUNCTION note_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO change AS c (what, id, by)
  SELECT TG_TABLE_NAME, id, pg_current_xact_id() FROM changed ORDER BY id
  ON CONFLICT (what, id) DO UPDATE SET by = excluded.by WHERE c.by <> excluded.by;
  RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.execute(_NOTE)
    op.execute("DROP TRIGGER note_change ON job_state")
    for name, event in (("note_new", "INSERT"), ("note_changed", "UPDATE")):
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON job_state REFERENCING NEW TABLE AS changed "
            "FOR EACH STATEMENT EXECUTE FUNCTION note_changes()"
        )


def downgrade() -> None:
    for name in ("note_new", "note_changed"):
        op.execute(f"DROP TRIGGER {name} ON job_state")
    op.execute("DROP FUNCTION note_changes()")
    op.execute(
        "CREATE TRIGGER note_change AFTER INSERT OR UPDATE ON job_state "
        "FOR EACH ROW EXECUTE FUNCTION note_change()"
    )
