"""Where the image of an inspected part lies: where it was taken from, or among the images that the gateway kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from shadowline.core.layout import Layout
from shadowline.core.params import CLASS_NAME_PATTERN
from shadowline.records.review import WaitingPart

_SHA256 = re.compile(r"[0-9a-f]{64}")


def find_kept(class_name: str, image_id: str, layout: Layout) -> Path | None:
    """The image that the gateway kept; None where it was not kept, or is no longer."""
    if not (re.fullmatch(CLASS_NAME_PATTERN, class_name) and _SHA256.fullmatch(image_id)):
        return None
    return next(iter(sorted((layout.inspected / class_name).glob(f"{image_id}.*"))), None)


def waiting_to_dict(part: WaitingPart, layout: Layout) -> dict[str, Any]:
    """JSON values; `image_path` is empty where the image is not at hand."""
    recorded = layout.root / part.image_path
    path = recorded if part.image_path and recorded.is_file() else find_kept(part.class_name, part.image_id, layout)
    return {
        "class_name": part.class_name,
        "image_id": part.image_id,
        "trace_id": part.trace_id,
        "received_at": part.received_at.isoformat(),
        "reasons": [str(reason) for reason in part.reasons],
        "image_path": str(path) if path else "",
    }
