"""On the worker: the plugin that owns the host, and what it is sent."""
