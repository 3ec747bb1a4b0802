"""Benchmarks: altlas_flow beside what people use today. See README.md."""
