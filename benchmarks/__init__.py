"""Benchmarks: ``python -m benchmarks NAME [--json FILE] [--plot FILE.svg] [sizes]``, one module per name."""
