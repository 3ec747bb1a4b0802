"""On the scheduler: the plugin that places, leases, watches, and keeps the catalog."""
