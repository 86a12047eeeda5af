"""The audit chain"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_REFUSAL = "entries of the audit chain are never changed or deleted"
_ORDER = "entries of the audit chain are added at its end"
_NEXT = "(SELECT coalesce(max(number), 0) + 1 FROM audit_entries)"
_SQLITE = [
    f"CREATE TRIGGER audit_entries_no_{event} BEFORE {event} ON audit_entries "
    f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    for event in ("update", "delete")
] + [
    f"CREATE TRIGGER audit_entries_at_the_end BEFORE INSERT ON audit_entries WHEN NEW.number IS NOT {_NEXT} "
    f"BEGIN SELECT RAISE(ABORT, '{_ORDER}'); END"  # also against INSERT OR REPLACE, which deletes without a trigger
]
_POSTGRESQL = [
    f"CREATE FUNCTION audit_entries_refuse() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
    "CREATE TRIGGER audit_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries "
    "FOR EACH STATEMENT EXECUTE FUNCTION audit_entries_refuse()",
    f"CREATE FUNCTION audit_entries_in_order() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN IF NEW.number IS DISTINCT FROM {_NEXT} THEN RAISE EXCEPTION '{_ORDER}'; END IF; RETURN NEW; END $$",
    "CREATE TRIGGER audit_entries_at_the_end BEFORE INSERT ON audit_entries "
    "FOR EACH ROW EXECUTE FUNCTION audit_entries_in_order()",
]


def upgrade() -> None:
    op.create_table(
        "audit_notes",
        sa.Column("id", sa.Integer(), nullable=False),
        *_what_happened(),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "audit_entries",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        *_what_happened(),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("signature", sa.String(length=128), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("ix_audit_entries_at", "audit_entries", ["at"], unique=False)
    op.create_index("audit_entries_by_subject", "audit_entries", ["kind", "subject"], unique=False)
    for statement in _POSTGRESQL if op.get_bind().dialect.name == "postgresql" else _SQLITE:
        op.execute(statement)


def _what_happened() -> tuple[sa.Column[str], ...]:
    return (
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("by", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("audit_entries")  # its triggers go with it
    op.drop_table("audit_notes")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_entries_refuse(), audit_entries_in_order()")
