"""The history of tasks: one row a task in an SQLite file, each with a checksum. Pure files, no Dask."""
