"""What a row of the manifest is called by the user whose file it was."""

from __future__ import annotations

import pandas as pd

from shadowline.data.manifest import source_names


def test_the_name_of_a_file_is_what_comes_after_the_importer() -> None:
    rows = pd.DataFrame(
        {
            "path": ["a.png", "b.png", "c.png", "d.png"],
            "source": ["folder:test/hole/1:2.png", "no importer.png", None, "addition:today/7.png, by Ada"],
        }
    )
    assert source_names(rows) == {
        "a.png": "test/hole/1:2.png",
        "b.png": "no importer.png",
        "d.png": "today/7.png, by Ada",
    }
