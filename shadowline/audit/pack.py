"""Writing an evidence pack: a zip whose every file is hashed in contents.json, which is signed.

    with new_pack(path) as pack:
        pack.add("versions.json", to_json(versions))
        pack.add_lines("chain.jsonl", lines)
        pack.sign({"made_by": "Ada"}, key)      # last; adds contents.json, contents.sig

Equal contents give equal bytes. `verify_pack.py` is part of it as verify.py, and checks that it is what was signed.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shadowline.core.atomic_files import replace_file
from shadowline.models.archive import is_inside, zip_entry
from shadowline.records.audit_log.entry import Signer

CONTENTS, SIGNATURE = "contents.json", "contents.sig"
VERIFIER = Path(__file__).with_name("verify_pack.py")
_README = """This pack is evidence of what an inspection system did in a period. Open index.html to read it.
To verify it, offline: pip install cryptography; python verify.py --root PUBLICHEX
PUBLICHEX is the public half of the first key of the audit chain; ask those who keep the keys for it, not this pack.
Who does not trust the verify.py in here takes shadowline/audit/verify_pack.py of the repository; it is the same file.
"""


class PackWriter:
    """Adds files one after the other and remembers their hashes."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.files: dict[str, str] = {}  # name → sha256

    def add(self, name: str, content: str | bytes) -> None:
        """Raises ValueError for a name that would lie outside of the pack, or is in it already."""
        self._write(name, [content.encode() if isinstance(content, str) else content])

    def add_lines(self, name: str, lines: Iterable[str]) -> None:
        """Written line by line, so that memory does not grow with their number. Raises as `add` does."""
        self._write(name, (f"{line}\n".encode() for line in lines))

    def sign(self, facts: Mapping[str, Any], signer: Signer) -> None:
        """Add the verifier, its instructions and the signed list of contents; nothing can be added afterwards."""
        self.add("verify.py", VERIFIER.read_bytes())
        self.add("README.txt", _README)
        contents = to_json({**facts, "files": dict(self.files)}).encode()
        signature = {"key": signer.name, "signature": signer.sign(contents).hex()}
        self.add(CONTENTS, contents)
        self.add(SIGNATURE, to_json(signature))

    def _write(self, name: str, parts: Iterable[bytes]) -> None:
        if not is_inside(name) or name in self.files or (CONTENTS in self.files and name != SIGNATURE):
            raise ValueError(
                f"evidence pack: file {name!r} cannot be added; give each one a name of its own, and sign last"
            )
        digest, entry = hashlib.sha256(), zip_entry(name)
        entry.compress_type = zipfile.ZIP_DEFLATED
        with self._archive.open(entry, "w", force_zip64=True) as out:
            for part in parts:
                digest.update(part)
                out.write(part)
        self.files[name] = digest.hexdigest()


@contextmanager
def new_pack(target: Path, check: Callable[[Path], None] = lambda path: None) -> Iterator[PackWriter]:
    """A pack that is written as a whole, or not at all: after an error, or where `check` raises."""
    with replace_file(target) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            yield PackWriter(archive)
        check(temporary)


def to_json(value: Any) -> str:
    """Sorted, indented, with a final newline. Raises ValueError for NaN."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def file_name(text: str) -> str:
    """A file's name for any text, on any system: texts that differ get names that differ."""
    plain = re.sub(r"[^a-z0-9._-]+", "_", text.lower())[:80].strip("._") or "_"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return plain if plain == text else f"{plain}-{digest[:12]}"
