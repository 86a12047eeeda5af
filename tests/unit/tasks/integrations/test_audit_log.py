"""What the audit log says of a registered version's classes."""

from __future__ import annotations

import pytest

from tasks.integrations.audit_log import _deciding


@pytest.mark.parametrize(("num_calibrating", "promised"), [(19, {}), (15, {"promised_fpr": 1 / 16})])
def test_the_promised_rate_is_on_record_where_it_is_not_the_target(num_calibrating: int, promised: dict[str, float]):
    calibration = {
        "threshold": 3.0,
        "target_fpr": 0.05,
        "num_calibrating": num_calibrating,
        "recipe": {"weights": [1.0], "pools": [{"share": 0.01}]},
    }
    assert _deciding(calibration) == {
        "threshold": 3.0,
        "target_fpr": 0.05,
        **promised,
        "weights": [1.0],
        "pool_shares": [0.01],
    }
