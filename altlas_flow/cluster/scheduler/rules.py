"""Who may ask the scheduler for what, where certificates have roles: all else is for operators.

Lists of what is allowed, and not of what is not: what a later Dask adds is for operators until it is
looked at here.
"""

from __future__ import annotations

#: For whoever has a role: what Dask's clients need to submit, gather, scatter and look, and the scheduler's
#: answers to our own. Nodes are among them, since a task may be a client (`distributed.get_client`).
#: Not here, though it only looks: ``feed``, which runs a function of whoever asks.
FOR_ALL = frozenset(
    {
        # submitting, gathering, scattering
        *("register-client", "scatter", "gather", "update_data", "retry"),
        *("start_task_metadata", "stop_task_metadata"),
        # looking
        *("identity", "echo", "versions", "who_has", "has_what", "nbytes", "ncores", "ncores_running"),
        *("processing", "call_stack", "profile", "performance_report", "events", "get_metadata", "get_story"),
        *("get_task_status", "get_task_stream", "get_task_stream_index", "get_task_prefix_states"),
        *("get_runspec", "get_error_cause", "memory_sampler_start", "memory_sampler_stop"),
        # an event under a topic that is not ours (see `Guard`)
        "log_event",
        # what clients share: queues, variables, events, semaphores and locks, published data sets
        *("queue_create", "queue_put", "queue_get", "queue_qsize", "variable_set", "variable_get"),
        *("event_wait", "event_set", "event_clear", "event_is_set"),
        *("semaphore_register", "semaphore_acquire", "semaphore_release", "semaphore_close"),
        *("semaphore_refresh_leases", "semaphore_value", "multi_lock_acquire", "multi_lock_release"),
        *("publish_list", "publish_put", "publish_get", "publish_delete"),
        # ours; a strategy by code is for operators (see `Guard.code`)
        *("altlas_info", "altlas_ready", "altlas_register", "altlas_models", "altlas_eligible"),
        *("altlas_strategy", "altlas_open", "altlas_lost"),
    }
)

#: For workers and their nannies, and for operators.
FOR_NODES = frozenset(
    {
        *("altlas_words", "heartbeat_worker", "unregister", "add_keys", "set_resources"),
        "retire_workers",  # a worker that ends gracefully retires itself
        *("shuffle_barrier", "shuffle_get", "shuffle_get_or_create", "shuffle_restrict_task"),
    }
)

#: These look at the certificate themselves, and answer as workers and nannies expect it.
JOINING = frozenset({"register-worker", "register_nanny"})

#: These go on as a stream: whoever is refused would wait for it.
STREAMS = frozenset({"register-client", "connection_stream", "altlas_words", "feed"})

#: What a client may say on its stream.
OF_CLIENTS = frozenset(
    {
        *("update-graph", "client-desires-keys", "client-releases-keys", "cancel-keys", "report-key"),
        *("update-data", "heartbeat-client", "close-client", "subscribe-topic", "unsubscribe-topic"),
        *("publish_flush_batched_send", "queue-future-release", "queue_release"),
        *("variable-future-received-confirm", "variable_delete"),
        *("altlas-report", "altlas-cancel", "altlas-leave", "altlas-listen", "altlas-over", "altlas-told"),
        "altlas-taught",
        "altlas-job",
    }
)

#: What a worker may say on its stream.
OF_WORKERS = frozenset(
    {
        *("task-finished", "task-erred", "release-worker-data", "add-keys", "long-running", "reschedule"),
        *("keep-alive", "log-event", "worker-status-change", "request-refresh-who-has", "steal-response"),
        "altlas-taught",  # of models that it chose for rows and stages
    }
)

#: What workers are asked for by whoever has a role: results to fetch, inputs to keep, and to look.
#: Actors are asked by whoever has their future.
ON_WORKERS = frozenset(
    {
        *("identity", "echo", "ping", "versions", "get_data", "gather", "update_data", "keys"),
        *("actor_execute", "actor_attribute", "call_stack", "profile", "profile_metadata"),
        *("get_monitor_info", "get_story"),
    }
)
#: What workers ask of one another, beside that; all else the scheduler asks, or an operator.
BETWEEN_WORKERS = frozenset({"shuffle_receive", "shuffle_inputs_done"})
#: What nannies are asked for by whoever has a role; and by their workers.
ON_NANNIES = frozenset({"identity", "echo"})
FROM_WORKERS = frozenset({"close_gracefully"})

#: How topics of events begin that hosts and the scheduler plugin say themselves.
OUR_TOPICS = "altlas-"

#: How the ids begin under which Dask keeps what is shared, as if these were clients.
SHARED = ("published-", "queue-", "variable-", "fire-and-forget")
#: What a client may say for another: that a task is to run though nobody waits for it.
FOR_NOBODY = ("client-desires-keys", "fire-and-forget")

#: What operations do, for messages; others by their names.
WORDS = {
    "register_node": "registering a node",
    "unregister_node": "unregistering a node",
    "node_status": "setting a node's status",
    "node_models": "setting a node's models",
    "drain": "draining a node",
    "load": "loading a model on a node",
    "unload": "unloading a model from a node",
    "cancel_task": "cancelling a task of somebody else",
    "strategy": "a strategy by its code",
    "altlas_words": "saying what a host does",
    "altlas-cancel": "cancelling requests of somebody else",
    "altlas-listen": "listening to requests of somebody else",
    "cancel-keys": "cancelling tasks of somebody else",
    "broadcast": "sending something to all workers",
    "connection_stream": "a stream that is neither a client's nor a worker's",
    "dump_cluster_state_to_url": "writing the cluster's state to a file",
    "feed": "running code on the scheduler",
    "get_logs": "reading logs",
    "worker_logs": "reading logs",
    "heartbeat_worker": "a worker's heartbeat",
    "kill": "ending a worker's process",
    "log_event": "an event of the cluster's own",
    "log-event": "an event of the cluster's own",
    "proxy": "asking a worker in the scheduler's name",
    "register_nanny_plugin": "putting a plugin on nannies",
    "register_scheduler_plugin": "putting a plugin on the scheduler",
    "register_worker_plugin": "putting a plugin on workers",
    "restart": "restarting workers",
    "restart_workers": "restarting workers",
    "retire_workers": "retiring workers",
    "run": "running code there",
    "run_coroutine": "running code there",
    "run_function": "running code on the scheduler",
    "set_metadata": "setting metadata",
    "terminate": "ending it",
    "unregister": "removing a worker",
    "worker-status-change": "setting a worker's status",
}


def in_words(name: str) -> str:
    """What an operation does, for messages."""
    return WORDS.get(name) or WORDS.get(name.removeprefix("altlas_")) or f"the operation {name}"
