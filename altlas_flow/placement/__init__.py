"""Placement: which node shall do it, and how much may be under way. Pure: no Dask, no clock, no I/O."""
