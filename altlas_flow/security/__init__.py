"""Certificates with roles in them, and who may do what: no Dask."""
