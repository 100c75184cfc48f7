"""The offline Python API: `from deploykit import pipeline`; import from its modules."""
