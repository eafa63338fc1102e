"""A wheel has every file of the package, and works with nothing of the project around it: `check_wheel.py DIR`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "pareto_align"
FIT = """
import pareto_align, sys
assert pareto_align.__file__.startswith(sys.argv[1]), pareto_align.__file__
from pareto_align.testing.judging import judged_fit
from pareto_align.testing.problems import get_problem

fit = judged_fit(get_problem("arc", V=6, hidden_size=16), sys.argv[1] + "/run", population=2, steps=2, eval_every=1)
assert fit.front.record.split == "report"
print(f"a front of {len(fit.front)} from the wheel; its page has {len(fit.front.page()):,} characters")
"""


def files(folder: Path) -> set[str]:
    """All of a folder but what Python wrote there."""
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts}


def main(folder: str) -> int:
    """Unpack the newest wheel, compare, and fit a tiny front with it."""
    wheel = max(Path(folder).glob("*.whl"), key=lambda path: path.stat().st_mtime)
    with tempfile.TemporaryDirectory() as place:
        zipfile.ZipFile(wheel).extractall(place)
        there, here = files(Path(place) / "pareto_align"), files(PACKAGE)
        if there != here:
            print(f"{wheel.name} lacks {sorted(here - there)} and has {sorted(there - here)} beside.")
            return 1
        # its own folder comes first, and the project's is not looked at
        inside = {"cwd": place, "env": {**os.environ, "PYTHONPATH": place}, "check": True}
        env = "import sys; from pareto_align.cli import main; sys.exit(main(['env']))"
        subprocess.run([sys.executable, "-P", "-c", env], **inside)
        subprocess.run([sys.executable, "-P", "-c", FIT, place], **inside)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
