"""What counts as evidence: the time of receipt, the first of near-identical frames, draws for review"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from shadowline.records.tables import UtcDateTime

revision = "0003"
down_revision = "0002"

_MODELS = ["class_name", "candidate", "legacy"]
_BEFORE = [*_MODELS, "captured_at", "candidate_alarm", "legacy_alarm", "image_id"]
_AFTER = [*_MODELS, "received_at", "is_first", "source", "candidate_alarm", "legacy_alarm", "image_id"]
_NEW: dict[str, sa.types.TypeEngine[Any]] = {
    "capture_suspect": sa.Boolean(),
    "received_at": UtcDateTime(),
    "source": sa.String(length=16),
    "frame_group": sa.String(length=64),
    "is_first": sa.Boolean(),
    "review_share": sa.Float(),
    "review_drawn": sa.Boolean(),
}


def upgrade() -> None:
    op.drop_index("pairs_for_counting", "pairs")
    for name, kind in _NEW.items():
        op.add_column("pairs", sa.Column(name, kind, nullable=True))
    op.add_column("pairs", sa.Column("frame_signature", sa.LargeBinary(), nullable=True))
    pairs = sa.table("pairs", sa.column("id"), *(sa.column(name) for name in (*_BEFORE, *_NEW)))
    first = sa.select(sa.func.min(pairs.c.id)).group_by(*(pairs.c[name] for name in (*_MODELS, "image_id")))
    op.execute(
        pairs.update().values(
            capture_suspect=sa.false(),
            received_at=pairs.c.captured_at,  # nothing better is on record
            source="line",
            frame_group=pairs.c.image_id,
            is_first=pairs.c.id.in_(first),
            review_share=0.0,
            review_drawn=sa.false(),
        )
    )
    with op.batch_alter_table("pairs") as table:
        for name, kind in _NEW.items():
            table.alter_column(name, existing_type=kind, nullable=False)
    op.create_index("pairs_for_counting", "pairs", _AFTER)
    op.create_index("pairs_first_frames", "pairs", [*_MODELS, "is_first", "id"])
    op.create_table(
        "champions",
        sa.Column("class_name", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("class_name"),
    )


def downgrade() -> None:
    op.drop_table("champions")
    op.drop_index("pairs_first_frames", "pairs")
    op.drop_index("pairs_for_counting", "pairs")
    with op.batch_alter_table("pairs") as table:
        for name in (*_NEW, "frame_signature"):
            table.drop_column(name)
    op.create_index("pairs_for_counting", "pairs", _BEFORE)
