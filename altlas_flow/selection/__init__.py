"""Which model answers: it is learned from what was recorded. NumPy only: no Dask, no clock of its own."""
