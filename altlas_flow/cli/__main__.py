"""``python -m altlas_flow.cli``."""

from __future__ import annotations

from altlas_flow.cli import main

main()
