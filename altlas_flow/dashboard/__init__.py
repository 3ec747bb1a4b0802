"""What people see of a cluster: counters, and pages of Bokeh and Tornado over them. No Dask."""
