"""The model of the runs here, loaded by name: it is never changed, so one is enough."""

from __future__ import annotations

import pytest
from sharded_runs import saved_model


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("model"))
