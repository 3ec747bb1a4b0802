"""The audit log: a line an event, whatever it is about."""

from __future__ import annotations

import json
import logging
import stat

import pytest

from altlas_flow.errors import SettingsError
from altlas_flow.nodes.audit import Audit


def test_each_event_is_one_line_whatever_is_in_it(tmp_path):
    path = tmp_path / "logs" / "audit.jsonl"
    audit = Audit(path, clock=lambda: 1_790_000_000.25)
    audit.note("refused", address="10.0.0.7", name="a\nb\x1b[31m<script>", why="not registered")
    audit.close()
    audit = Audit(path, clock=lambda: 1_790_000_001.0)
    audit.note("joined", address="10.0.0.8", name="b")
    audit.close()
    first, second = path.read_text().splitlines()
    assert json.loads(first) == {
        "time": "2026-09-21T14:13:20.250+00:00",
        "event": "refused",
        "address": "10.0.0.7",
        "name": "a\nb\x1b[31m<script>",
        "why": "not registered",
    }
    assert "\x1b" not in first
    assert json.loads(second)["event"] == "joined"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_unusual_is_a_warning_too(tmp_path, caplog):
    audit = Audit(tmp_path / "audit.jsonl", clock=lambda: 0.0)
    with caplog.at_level(logging.WARNING):
        audit.warn("5 joins were refused", address="10.0.0.7")
    audit.close()
    assert "unusual: 5 joins were refused" in caplog.text
    assert json.loads((tmp_path / "audit.jsonl").read_text())["event"] == "unusual"


def test_without_a_file_it_goes_to_the_log_only(caplog):
    audit = Audit(None, clock=lambda: 0.0)
    with caplog.at_level(logging.INFO):
        audit.note("joined", address="10.0.0.7")
    assert '"event": "joined"' in caplog.text
    audit.close()


def test_a_file_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"altlas\.audit") as caught:
        Audit(tmp_path / "file" / "audit.jsonl", clock=lambda: 0.0)
    assert "\n" not in str(caught.value)
