"""Several models, one request: sent to all of them at once, and answered by a verdict."""
