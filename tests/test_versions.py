"""What is promised about old releases is what `make lower` tries: pyproject.toml and constraints-lower.txt agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_lower_bounds_are_the_versions_that_are_tried():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in project["dependencies"])
    tried = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "constraints-lower.txt").read_text(), re.MULTILINE))
    assert set(promised) <= set(tried)

    def numbers(version):
        return (*map(int, version.split(".")), 0, 0, 0)[:4]

    assert {name: numbers(promised[name]) for name in promised} == {name: numbers(tried[name]) for name in promised}
