"""Pipelines on real input: importable, and run as ``python pipelines/<name>.py``."""
