"""Reading of runs, statistics and comparisons; no pixels."""
