"""The login of an MLflow server is no part of the address that MLflow repeats in its errors."""

from __future__ import annotations

import os

import pytest

from shadowline.core.settings import Settings, prepare_environment, tracking_address


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("http://mlflow.plant:5000", "http://mlflow.plant:5000"),
        ("https://ada:p%40ss@mlflow.plant:5000/base?x=1", "https://mlflow.plant:5000/base?x=1"),
        ("postgresql+psycopg://ada:pass@db/mlflow", "postgresql+psycopg://ada:pass@db/mlflow"),  # a driver needs it
    ],
)
def test_the_address_of_a_server_has_no_login(uri: str, address: str) -> None:
    assert tracking_address(uri) == address


def test_the_login_goes_into_mlflows_own_variables_unless_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())  # what is set here ends with the test
    monkeypatch.setenv("SHADOWLINE_TRACKING_URI", "https://ada:p%40ss@mlflow.plant:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "grace")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    prepare_environment()
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("grace", "p@ss")


def test_no_password_is_in_what_a_debugger_shows() -> None:
    url = "postgresql+psycopg://ada:h0rse-battery@db/records"
    shown = repr(Settings(database_url=url, tracking_uri=url))
    assert "h0rse-battery" not in shown
    assert "postgresql+psycopg://***@db/records" in shown
