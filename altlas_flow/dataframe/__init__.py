"""A model over a DataFrame: lazily or at once (`mapping`), or as a checkpointed job (`job`)."""
