"""What answers are worth: pure functions from gold and predictions to plain dicts of numbers.

Scores are shares in [0, 1] (CIDEr: as its evaluator gives it, mostly in [0, 10]), never percent, never
rounded. Counts start with `num_`. An id of the gold without a prediction scores 0 and is counted as missing,
unless a mode of the papers, which is always asked for by name (`compat="paper"`), leaves it out. Predictions
for ids that the gold doesn't have are counted (`num_unknown`) and otherwise ignored. A score of nothing is
None.
"""
