"""What a cluster knows of its nodes and of who may join: pure, no Dask, no clock, no I/O."""
