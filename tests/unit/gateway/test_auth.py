"""Keys, exposure, and the gateway's own parameters."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from shadowline.core.params import GatewayParams, Params
from shadowline.core.settings import Settings
from shadowline.gateway.auth import check_exposure, keys_of


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_key(host):
    check_exposure(host, ())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "gateway.local", "localhost.example.com"])
def test_any_other_host_needs_one(host):
    with pytest.raises(ValueError, match=r"set SHADOWLINE_GATEWAY_KEYS or serve on 127\.0\.0\.1"):
        check_exposure(host, ())
    check_exposure(host, ("key",))


@pytest.mark.parametrize(
    ("text", "keys"), [("", ()), (" , ", ()), ("a", ("a",)), (" a , b,", ("a", "b")), ("a b", ("a b",))]
)
def test_keys_are_separated_by_commas_and_an_empty_one_opens_nothing(text, keys):
    assert keys_of(Settings(gateway_keys=SecretStr(text))) == keys


def test_settings_do_not_show_keys(monkeypatch):
    monkeypatch.setenv("SHADOWLINE_GATEWAY_KEYS", "topmost")
    settings = Settings()
    assert keys_of(settings) == ("topmost",)
    assert "topmost" not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_a_rollback_cannot_be_configured_to_take_longer_than_a_second(params: Params):
    assert 2 * params.gateway.poll_interval_ms <= 1_000
    with pytest.raises(ValidationError, match="poll_interval_ms"):
        GatewayParams.model_validate({**params.gateway.model_dump(), "poll_interval_ms": 600})
