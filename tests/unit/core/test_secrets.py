"""What `mask` takes out of a text, and what it leaves."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from shadowline.core.secrets import mask
from shadowline.core.settings import Settings

SECRET = "h0rse-battery"


@pytest.mark.parametrize(
    "text",
    [
        f"http://me:{SECRET}@127.0.0.1:1/hooks: refused",
        f"http://{SECRET}@127.0.0.1:1/hooks",  # a token in the place of the user
        f"postgresql+psycopg://me:x@{SECRET}@db:5432/records",  # an @ that should have been quoted
        f"postgresql://me:x/y{SECRET}@db/records",  # a slash that should have been quoted
        f"connect to 'rediss://:{SECRET}@[::1]:6379'",
        f'{{"url": "https://me:{SECRET}@host/", "code": 3}}',
        f"https://host/x?X-Amz-Signature={SECRET}&a=b",
        f"https://host/x?a=b&access_token={SECRET}",
        f"host=db user=me password={SECRET} dbname=x",
        f"host=db user=me password='{SECRET} {SECRET}' dbname=x",
        f"headers: Authorization: Bearer {SECRET}",
        f"headers: X-API-Key: {SECRET}",
    ],
)
def test_a_secret_is_gone_whatever_the_text_around_it(text: str) -> None:
    assert SECRET not in mask(text)
    assert "***" in mask(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:4200/api: connection refused; start it, or unset PREFECT_API_URL",
        "https://host:8080/model@3 and https://host/model@3",
        "http://[::1]:8080/model@3",
        "s3://bucket/prefix/a@b.png",
        "class 'bolt': 62 normal images, need 100",
        "basic images of Ada <ada@plant.example>; see mail [/urgent]",
        "token 5 of 7; the author and the signature are unknown",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert mask(text) == text


def test_the_rest_of_a_url_stays_readable() -> None:
    masked = mask(f"sqlalchemy: postgresql+psycopg://me:{SECRET}@db:5432/records?sslmode=require: no route")
    assert masked == "sqlalchemy: postgresql+psycopg://***@db:5432/records?sslmode=require: no route"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("SHADOWLINE_AUDIT_PASSPHRASE", SECRET, f"wrong passphrase {SECRET!r}"),
        ("SHADOWLINE_GATEWAY_KEYS", f"other-key, {SECRET}", f"key {SECRET} is known"),
        ("AWS_SECRET_ACCESS_KEY", SECRET, f"signed with {SECRET}."),
        ("MLFLOW_TRACKING_PASSWORD", SECRET, SECRET),
        ("SHADOWLINE_TRACKING_URI", f"http://me:{SECRET}@mlflow:5000", f"login with {SECRET} failed"),
        ("SHADOWLINE_DATABASE_URL", f"postgresql://me:{SECRET}%40x@db/x", f"login with {SECRET}@x failed"),
        ("SHADOWLINE_DATABASE_URL", f"postgresql://me:12/{SECRET}@db/x", f"postgresql://me:12/{SECRET}@db/x"),
        ("SHADOWLINE_NOTIFY_URL", f"https://host/T/{SECRET}", f"POST /T/{SECRET}: refused"),
        ("SHADOWLINE_NOTIFY_URL", f"https://host/T/{SECRET}", f"https://host:443/T/{SECRET}: refused"),
    ],
)
def test_what_the_environment_declares_as_secret_is_gone_from_any_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str
) -> None:
    monkeypatch.setenv(name, value)
    assert SECRET not in mask(text)


def test_a_declared_value_that_is_a_word_is_masked_as_a_whole_word_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "post")
    assert mask("post, postgresql, signpost") == "***, postgresql, signpost"


def test_every_secret_setting_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, field in Settings.model_fields.items():
        if SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ())):
            monkeypatch.setenv(f"SHADOWLINE_{name.upper()}", f"{SECRET}/{name}")
            assert SECRET not in mask(f"error {SECRET}/{name} of it"), name
