"""What the tests of studies share."""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def code(request):
    """The `MODULES` of the file's `STUDY`, as the study's own command sees them; gone afterwards."""
    study, names = request.module.STUDY, request.module.MODULES
    known = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(study.parent))
        patch.syspath_prepend(str(study))
        for name in names:
            patch.delitem(sys.modules, name, raising=False)  # another study has modules of the same names
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(study.parent)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def results(request):
    """What is in the study's results.json."""
    return json.loads((request.module.STUDY / "results.json").read_text(encoding="utf-8"))
