"""The cluster: the only code that knows ``dask.distributed``."""
