from __future__ import annotations

import subprocess
import sys

import pytest

import pareto_align.front as front


def test_import_is_light() -> None:
    heavy = ("torch", "transformers", "scipy", "pymoo", "matplotlib", "pandas")
    code = f"import sys, pareto_align.front; print([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", front.__all__)
def test_public_names_exist_and_are_documented(name: str) -> None:
    assert getattr(front, name).__doc__
