"""Models: the recipe, the runtimes, batching, and the host that keeps them."""
