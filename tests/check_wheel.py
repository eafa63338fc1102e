"""What is handed out has every file, and works in a fresh environment: `check_wheel.py DIR`.

DIR has a source distribution and the wheel that was built from it. The environment has nothing but the wheel; what the
package depends on it borrows from the one that runs this, for gigabytes are not to be fetched again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BESIDE = ("LICENSE", "README.md", "pyproject.toml")
"""What a source distribution has beside the package."""
FIT = """
import pareto_align, sys
assert pareto_align.__file__.startswith(sys.argv[1]), pareto_align.__file__
from pareto_align.testing.judging import judged_fit
from pareto_align.testing.problems import get_problem

fit = judged_fit(get_problem("arc", V=6, hidden_size=16), sys.argv[1] + "/run", population=2, steps=2, eval_every=1)
assert fit.front.record.split == "report"
print(f"a front of {len(fit.front)} from the wheel; its page has {len(fit.front.page()):,} characters")
"""


def files(folder: Path) -> dict[str, bytes]:
    """All of a folder but what Python wrote there."""
    found = (f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    return {str(f.relative_to(folder)): f.read_bytes() for f in found}


def newest(folder: str, pattern: str) -> Path:
    """The newest file of a kind."""
    return max(Path(folder).glob(pattern), key=lambda path: path.stat().st_mtime)


def main(folder: str) -> int:
    """Unpack both and compare, then fit a tiny front with what was installed."""
    source, wheel = newest(folder, "*.tar.gz"), newest(folder, "*.whl")
    here = files(ROOT / "pareto_align")
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(source) as archive:
            archive.extractall(f"{place}/source", filter="data")
        zipfile.ZipFile(wheel).extractall(f"{place}/wheel")
        (top,) = Path(place, "source").iterdir()
        assert not (top / "tests").exists(), "a part of the tests is no tests"
        lacks = [name for name in BESIDE if files(top).get(name) != (ROOT / name).read_bytes()]
        for name, there in (
            (source.name, files(top / "pareto_align")),
            (wheel.name, files(Path(place, "wheel/pareto_align"))),
        ):
            if there != here:
                lacks += sorted(here.keys() - there.keys())
                differs = sorted(n for n in there if n not in here or there[n] != here[n])
                print(f"{name} lacks {lacks}, and has {differs} otherwise or beside.")
                return 1
        if lacks:
            print(f"{source.name} lacks {lacks}, or has them otherwise.")
            return 1
        fresh = Path(place, "fresh")
        venv.create(fresh, symlinks=True)
        python = fresh / "bin" / "python"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            str(wheel),
        ]
        subprocess.run(pip, check=True)
        (site,) = fresh.glob("lib/python*/site-packages")
        (site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run([fresh / "bin" / "pareto-align", "env"], cwd=place, env=alone, check=True)
        subprocess.run([python, "-P", "-c", FIT, str(fresh.resolve())], cwd=place, env=alone, check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
