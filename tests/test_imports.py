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
