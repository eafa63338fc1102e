"""The public names, and what importing them costs."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import pareto_align


def fresh(code):
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("name", pareto_align.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    found = getattr(pareto_align, name)
    assert inspect.isclass(found) or inspect.isfunction(found)
    assert found.__name__ == name
    assert found.__module__.startswith("pareto_align.")
    assert found.__doc__
    assert len(found.__doc__.split()) > 3
    if inspect.isclass(found) and not issubclass(found, (Exception, Warning)):
        for member, value in vars(found).items():
            if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(getattr(found, member)), f"{name}.{member} has no docstring"


def test_public_names_are_sorted_listed_and_nothing_else_answers():
    assert pareto_align.__all__ == sorted(set(pareto_align.__all__), key=pareto_align.__all__.index)
    assert set(pareto_align.__all__) <= set(dir(pareto_align))
    with pytest.raises(AttributeError, match="no attribute 'ParetoAlginer'"):
        pareto_align.ParetoAlginer


def test_errors_are_one_tree():
    from pareto_align import errors

    raised = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert all(issubclass(error, pareto_align.ParetoAlignError) for error in raised)
    assert issubclass(errors.ParetoAlignWarning, UserWarning)


@pytest.mark.parametrize(
    "code",
    [
        "import pareto_align; pareto_align.__version__",
        "from pareto_align import Objective, Preference, ParetoFront, ParetoArchive, Estimate, Weighting, Signal",
        "from pareto_align import ParetoAligner, Grid; ParetoAligner",
        "from pareto_align import TuningResult, tune",
    ],
)
def test_importing_pulls_in_neither_torch_nor_matplotlib(code):
    heavy = fresh(f"import sys\n{code}\nprint(*sys.modules)")
    assert "pareto_align" in heavy
    assert not {"torch", "transformers", "peft", "matplotlib", "pandas", "botorch", "optuna"} & set(heavy)


def test_making_an_aligner_loads_no_model():
    code = (
        "import sys\n"
        "from pareto_align import Objective, ParetoAligner\n"
        "ParetoAligner('no/such/model', [Objective('n', lambda completions, **_: [0.0])])\n"
        "print(*sys.modules)"
    )
    assert "torch" not in fresh(code)
