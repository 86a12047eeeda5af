"""The pages of the data validation, for people: an index with a picture of every failed row, and those that Great
Expectations builds, made readable without a network.

settle(docs, results, sources, open_image)      # after `context.build_data_docs()`
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from shadowline.core.atomic_files import replace_file
from shadowline.data.images import RefusedImage
from shadowline.data.validation_results import CheckResult, FailedRow

THUMBNAIL_SIDE = 112  # pixels
# Great Expectations' pages load scripts and styles from other hosts, which fails without a network.
FROM_ELSEWHERE = re.compile(
    r"<script\b.*?</script>|<footer\b.*?</footer>|<(?:link|img)\b[^>]*https?://[^>]*>|url\('https?://[^)]*\)", re.DOTALL
)
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
h1, h2 { font-weight: 600; } h2 { margin-top: 2em; }
table { border-collapse: collapse; }
td, th { border: 1px solid #ccc; padding: 0.3em 0.6em; text-align: left; vertical-align: top; }
th { background: #f4f4f4; }
.fa-times::before, .fa-exclamation-triangle::before { content: "✗"; color: #b00; }
.fa-check-circle::before { content: "✓"; color: #070; }
.failed { background: #fdd; }
.card.mb-3, .navbar-brand { display: none; }
.rows { display: flex; flex-wrap: wrap; gap: 1em; padding: 0; }
.rows li { list-style: none; width: 14em; overflow-wrap: anywhere; font-size: 0.85em; }
.rows img { display: block; max-width: 7em; max-height: 7em; background: #eee; }
.path { color: #777; }
"""

Sources = Mapping[str, str]  # path in the project → the user's own name of the file
OpenImage = Callable[[str], Image.Image]  # path in the project → RGB; raises RefusedImage


def settle(docs: Path, results: Mapping[str, Iterable[CheckResult]], sources: Sources, open_image: OpenImage) -> None:
    """Rewrite the pages below `docs`, and write the index; `results`: suite → its checks."""
    for page in docs.rglob("*.html"):
        text = FROM_ELSEWHERE.sub("", page.read_text(encoding="utf-8"))
        page.write_text(text.replace("</head>", f"<style>{STYLE}</style></head>"), encoding="utf-8")
    failed_first = sorted(((name, check) for name in results for check in results[name]), key=lambda row: row[1].passed)
    rows = "".join(_index_row(docs, name, check) for name, check in failed_first)
    head = "<tr><th>class<th>check<th>status<th>severity<th>observed<th>expected</tr>"
    failures = "".join(
        _failure(docs, name, check, sources, open_image) for name, check in failed_first if not check.passed
    )
    title = "Data validation"
    (docs / "index.html").write_text(
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1><table>{head}{rows}</table>{failures}</body></html>\n",
        encoding="utf-8",
    )


def user_name(path: str, sources: Sources) -> str:
    """The name under which the user knows an image, and where the project keeps it."""
    return f"{sources[path]} ({path})" if path in sources else path


def _index_row(docs: Path, name: str, check: CheckResult) -> str:
    (page,) = (docs / "validations" / name).rglob("*.html")
    status = "passed" if check.passed else "failed"
    link = f'<a href="{page.relative_to(docs).as_posix()}">{name}</a>'
    label = check.name if check.passed else f'<a href="#{_anchor(name, check)}">{check.name}</a>'
    words = "".join(f"<td>{html.escape(text)}" for text in (check.observed, check.expected))
    return f'<tr class="{status}"><td>{link}<td>{label}<td>{status}<td>{check.severity}{words}</tr>\n'


def _anchor(name: str, check: CheckResult) -> str:
    return f"{name}.{check.name}"


def _failure(docs: Path, name: str, check: CheckResult, sources: Sources, open_image: OpenImage) -> str:
    """What failed, with a picture, name and value of each row that is listed."""
    items = "".join(_row(docs, row, sources, open_image) for row in check.failed_rows)
    more = check.num_failed_rows - len(check.failed_rows)
    words = html.escape(f"{check.observed}; expected {check.expected}; {check.way_out}.")
    return (
        f'<h2 id="{_anchor(name, check)}">{name}: {check.name}</h2><p>{words}</p>'
        f'<ul class="rows">{items}</ul>{f"<p>{more} more.</p>" if more else ""}\n'
    )


def _row(docs: Path, row: FailedRow, sources: Sources, open_image: OpenImage) -> str:
    value = f"{row.value:.4g}" if isinstance(row.value, float) else row.value or "no value"
    texts = [html.escape(str(text)) for text in (sources.get(row.path, ""), row.path, value)]
    pictures = "".join(f'<img src="{picture}" alt="">' for picture in _thumbnail(docs, row, open_image))
    return f'<li>{pictures}{texts[0]}<br><span class="path">{texts[1]}</span><br><b>{texts[2]}</b></li>'


def _thumbnail(docs: Path, row: FailedRow, open_image: OpenImage) -> Iterator[str]:
    """The link to a small picture; nothing for an image that cannot be read."""
    target = docs / "thumbnails" / f"{Path(row.path).stem}.png"
    try:
        if not target.is_file():
            image = open_image(row.path)
            image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            with replace_file(target) as temporary:
                image.save(temporary, format="PNG")
    except (RefusedImage, OSError):
        return
    yield target.relative_to(docs).as_posix()
