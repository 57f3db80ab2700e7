"""Metrics: pure functions from references and predictions to plain dicts of numbers.

Scores are shares in [0, 1] (CIDEr: as its evaluator gives it, mostly in [0, 10]), never percent, never
rounded. Counts start with `num_`. An id without a prediction scores 0 and is counted as missing, unless
`compat="paper"` (a mode of the papers, always asked for by name) leaves it out. Predictions of unknown ids
are counted (`num_unknown`) and otherwise ignored. A score of nothing is None.
"""
