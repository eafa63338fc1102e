"""One thread for the whole suite: the matrices are tiny, and a second thread costs more than it brings."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Converted models and probe results of the user's own cache are neither read nor written."""
    monkeypatch.setenv("PARETO_ALIGN_CACHE", str(tmp_path_factory.getbasetemp() / "pareto-align-cache"))
