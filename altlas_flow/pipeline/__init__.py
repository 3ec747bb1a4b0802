"""Stages that depend on each other, as one graph of Dask tasks."""
