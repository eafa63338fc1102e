"""Problems whose true Pareto front is known, and exact verdicts on what a method found.

`problems` is the family, `tiny` the language model they run on, `tables` turns a model into a table of everything it
can say, and `exact` judges tables: regret, missed share of the gain, hypervolume ratio.
"""

from __future__ import annotations
