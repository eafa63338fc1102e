"""No two files of the package need each other, not even for a type or inside a function."""

from __future__ import annotations

import grimp
import networkx


def test_no_circle_between_any_files():
    graph = grimp.build_graph("pareto_align", include_external_packages=False)
    files = networkx.DiGraph(
        (module, imported) for module in graph.modules for imported in graph.find_modules_directly_imported_by(module)
    )
    assert [sorted(circle) for circle in networkx.strongly_connected_components(files) if len(circle) > 1] == []


def test_learning_and_discovery_and_runs_know_what_they_may():
    """`runs` knows no loop and `data` no rewards; what a layer may import at all is import-linter's to say."""
    graph = grimp.build_graph("pareto_align", include_external_packages=False)
    for package, unknown in (("runs", "discovery"), ("data", "objectives.objective"), ("front", "policies")):
        for module in graph.find_descendants(f"pareto_align.{package}"):
            found = graph.find_modules_directly_imported_by(module)
            assert not [name for name in found if name.startswith(f"pareto_align.{unknown}")], module
