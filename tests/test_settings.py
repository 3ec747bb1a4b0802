"""The settings: where they come from, and what is said about wrong ones."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import dask.config
import pytest

import altlas_flow.settings as settings_module
from altlas_flow.errors import SettingsError
from altlas_flow.settings import Settings


def key_of(name: str) -> str:
    return "altlas." + name.replace("_", "-")


def test_defaults_are_those_of_the_yaml_file():
    settings = Settings.current()
    assert settings == Settings(
        workers=None,
        worker_memory=2 * 1024**3,
        start_timeout=60.0,
        dashboard="127.0.0.1:0",
        slots=None,
        model_memory_fraction=0.5,
        load_timeout=300.0,
        load_retry_delay=1.0,
        no_workers_timeout=30.0,
        part_rows=65536,
        part_rows_tokens=1024,
        parts_in_flight=2,
        envelope_rows=512,
        envelope_time=0.1,
        scatter_size=10**6,
        waiting_limit=100_000,
        overload="wait",
        tries=3,
        hedge_share=0.05,
        allowed_folders=(".",),
        largest_file=256 * 1024**2,
        labels=(),
        join_timeout=0.0,
        discovery_interval=30.0,
        heartbeat_timeout=10.0,
        admission=None,
        registered=(),
        audit=None,
        history=None,
        memory_budget=None,
        tls=None,
        cluster_name="altlas",
        default_distribution_strategy="LEAST_LOADED",
        default_aggregation_strategy="ALL_RESPONSES",
        dashboard_token=None,
        metrics=True,
        traces=False,
        log_format="text",
    )


def test_the_yaml_file_and_the_class_have_the_same_keys():
    keys = {key.replace("-", "_") for key in dask.config.get("altlas")}
    assert keys == {field.name for field in dataclasses.fields(Settings)}


def test_what_is_set_is_read_and_forgotten_with_it():
    before = Settings.current()
    with dask.config.set({"altlas.parts-in-flight": 5, "altlas.load_timeout": "2 minutes"}):
        assert Settings.current().parts_in_flight == 5
        assert Settings.current().load_timeout == 120.0
    assert Settings.current() == before


def test_settings_are_frozen_and_pickle():
    settings = Settings.current()
    with dask.config.set({"altlas.labels": {"zone": "a"}}):
        labelled = Settings.current()
    for one in (settings, labelled):
        again = pickle.loads(pickle.dumps(one))
        assert again == one
        assert hash(again) == hash(one)
    assert labelled != settings
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.workers = 3  # type: ignore[misc]


def test_a_secret_is_neither_shown_nor_pickled():
    secret = "abcdefghijklmnopqrstuvwxyz"
    with dask.config.set({"altlas.dashboard-token": secret}):
        settings = Settings.current()
    assert settings.dashboard_token == secret
    assert secret not in repr(settings)
    for copy in (pickle.loads(pickle.dumps(settings)), cloudpickle.loads(cloudpickle.dumps(settings))):
        assert copy == dataclasses.replace(settings, dashboard_token=None)
    assert secret.encode() not in pickle.dumps(settings)
    with dask.config.set({"altlas.dashboard-token": secret[:21]}), pytest.raises(SettingsError) as caught:
        Settings.current()
    assert secret[:21] not in str(caught.value)


def test_the_settings_of_requests_and_nodes_are_read_in_their_units():
    given = {
        "envelope-rows": 1,
        "envelope-time": "50ms",
        "scatter-size": "2 MiB",
        "waiting-limit": 7,
        "overload": "raise",
        "tries": 1,
        "hedge-share": 0,
        "join-timeout": "1 minute",
    }
    with dask.config.set({f"altlas.{key}": value for key, value in given.items()}):
        settings = Settings.current()
    assert (settings.envelope_rows, settings.envelope_time, settings.scatter_size) == (1, 0.05, 2 * 1024**2)
    assert (settings.waiting_limit, settings.overload, settings.tries) == (7, "raise", 1)
    assert settings.join_timeout == 60.0
    assert settings.hedge_share == 0.0


@pytest.mark.parametrize("zero", [0, 0.0, "0", "0s", "0ms"])
def test_a_request_need_not_wait_for_a_node_to_join(zero):
    with dask.config.set({"altlas.join-timeout": zero}):
        assert Settings.current().join_timeout == 0.0


def test_labels_are_pairs_in_order_of_their_names_with_values_as_text():
    with dask.config.set({"altlas.labels": {"zone": "a", "rack": 7, "spot": True}}):
        assert Settings.current().labels == (("rack", "7"), ("spot", "True"), ("zone", "a"))


def test_labels_can_be_given_one_by_one_in_the_environment():
    code = "from altlas_flow.settings import Settings; print(dict(Settings.current().labels))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DASK_ALTLAS__LABELS__ZONE": "a"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "{'zone': 'a'}"


def test_variables_of_the_environment_are_read_the_way_dask_reads_them():
    code = (
        "import json; from altlas_flow.settings import Settings; s = Settings.current();"
        "print(json.dumps([s.parts_in_flight, s.worker_memory, s.workers, s.default_distribution_strategy]))"
    )
    variables = {
        "DASK_ALTLAS__PARTS_IN_FLIGHT": "3",
        "DASK_ALTLAS__WORKER_MEMORY": "512 MiB",
        "DASK_ALTLAS__WORKERS": "4",
        "DASK_ALTLAS__DEFAULT_DISTRIBUTION_STRATEGY": "round-robin",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == [3, 512 * 1024**2, 4, "ROUND_ROBIN"]


WRONG = [
    ("workers", 0),
    ("workers", "many"),
    ("workers", True),
    ("worker_memory", "much"),
    ("worker_memory", -1),
    ("worker_memory", None),
    ("start_timeout", "soon"),
    ("start_timeout", 0),
    ("start_timeout", float("nan")),
    ("start_timeout", [1]),
    ("dashboard", 8787),
    ("dashboard", ":8787"),
    ("dashboard", "localhost"),
    ("dashboard", "localhost:99999"),
    ("slots", 1.5),
    ("allowed_folders", "."),
    ("allowed_folders", [""]),
    ("allowed_folders", [7]),
    ("allowed_folders", ["a\0b"]),
    ("allowed_folders", None),
    ("largest_file", "large"),
    ("model_memory_fraction", 1.01),
    ("model_memory_fraction", 0),
    ("model_memory_fraction", "half"),
    ("load_timeout", "-3s"),
    ("part_rows", None),
    ("parts_in_flight", "2 per slot"),
    ("envelope_rows", 0),
    ("envelope_rows", 1.5),
    ("envelope_time", 0),
    ("envelope_time", "never"),
    ("scatter_size", "large"),
    ("scatter_size", -1),
    ("waiting_limit", 0),
    ("waiting_limit", None),
    ("overload", "drop"),
    ("overload", True),
    ("tries", 0),
    ("tries", "thrice"),
    ("hedge_share", -0.01),
    ("hedge_share", 1.5),
    ("hedge_share", "5%"),
    ("hedge_share", True),
    ("labels", "zone=a"),
    ("labels", ["zone"]),
    ("labels", None),
    ("labels", {1: "a"}),
    ("labels", {"zone": ["a", "b"]}),
    ("labels", {"zone": None}),
    ("join_timeout", -1),
    ("join_timeout", "later"),
    ("join_timeout", True),
    ("join_timeout", False),
    ("default_distribution_strategy", "FASTEST"),
    ("default_aggregation_strategy", None),
    ("traces", "yes"),
    ("traces", None),
    ("log_format", "xml"),
    ("log_format", True),
    ("dashboard_token", "short"),
    ("dashboard_token", 10**30),
    ("dashboard_token", "two words, and a line\nmore"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_value_is_an_error_that_names_its_key(name, value):
    with dask.config.set({key_of(name): value}), pytest.raises(SettingsError) as caught:
        Settings.current()
    text = str(caught.value)
    assert key_of(name) in text
    assert "needed" in text
    assert "\n" not in text


def test_every_setting_refuses_a_value_of_another_kind():
    for field in dataclasses.fields(Settings):
        # labels are the one mapping
        other = [{"a": 1}] if field.name == "labels" else {"a": 1}
        with (
            dask.config.set({key_of(field.name): other}),
            pytest.raises(SettingsError, match=key_of(field.name)),
        ):
            Settings.current()


def test_a_key_that_is_not_known_is_an_error_with_the_nearest_one():
    with (
        dask.config.set({"altlas.part-in-flight": 3}),
        pytest.raises(SettingsError, match=r"did you mean altlas\.parts-in-flight\?"),
    ):
        Settings.current()
    with dask.config.set({"altlas": None}), pytest.raises(SettingsError, match="mapping"):
        Settings.current()


def test_the_public_settings_are_attributes_of_the_module_and_follow_what_is_set():
    assert settings_module.DISCOVERY_INTERVAL == 30
    assert settings_module.HEARTBEAT_TIMEOUT == 10
    assert settings_module.DEFAULT_DISTRIBUTION_STRATEGY == "LEAST_LOADED"
    assert settings_module.DEFAULT_AGGREGATION_STRATEGY == "ALL_RESPONSES"
    with dask.config.set({"altlas.heartbeat-timeout": "3s"}):
        assert settings_module.HEARTBEAT_TIMEOUT == 3
    assert "DISCOVERY_INTERVAL" in dir(settings_module)
    with pytest.raises(AttributeError, match="NO_SUCH_SETTING"):
        _ = settings_module.NO_SUCH_SETTING


def test_folders_that_files_are_read_from_are_texts():
    with dask.config.set({"altlas.allowed-folders": ["clips", Path("/data")]}):
        assert Settings.current().allowed_folders == ("clips", "/data")
    with dask.config.set({"altlas.allowed-folders": [], "altlas.largest-file": "1 MiB"}):
        assert Settings.current().allowed_folders == ()
        assert Settings.current().largest_file == 2**20
