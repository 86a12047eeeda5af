"""Errors of a retried task hold no secrets: Prefect keeps them with the run."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException

from tasks.integrations.retry import retried_task

SECRET = "h0rse-battery"


def test_an_error_and_its_cause_are_masked() -> None:
    @retried_task
    def ask(name: str) -> str:
        try:
            raise OSError(f"http://me:{SECRET}@host: away")
        except OSError as error:
            raise MlflowException(f"{name}: http://me:{SECRET}@host/api failed") from error

    assert ask.name == "ask"
    with pytest.raises(MlflowException) as caught:
        ask.fn("bolt")
    assert str(caught.value) == caught.value.message == "bolt: http://***@host/api failed"
    assert str(caught.value.__cause__) == "http://***@host: away"
