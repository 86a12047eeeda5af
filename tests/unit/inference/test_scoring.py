"""The error of a model, as a pair and the gateway's readiness keep it."""

from __future__ import annotations

from shadowline.inference.scoring import describe


def test_an_error_is_one_bounded_line_without_secrets() -> None:
    text = describe(OSError("http://me:h0rse-battery@store/bank\x00\n  is away" + "!" * 1000))
    assert text.startswith("OSError: http://***@store/bank is away!")
    assert len(text) == 300
