"""What a server's backend holds in memory, as it was measured on PostgreSQL 15 to 18. For estimates only."""

from __future__ import annotations

MB = 1024 * 1024
"""As PostgreSQL counts, and all that is read and shown here."""

BACKEND_BYTES = 2_000_000
"""An idle backend that has served nobody: 1.9 MB."""

TABLE_BYTES = 20_000
"""Each table of each tenant that it has served: 12 to 27 kB, by columns and indexes (0.24 to 0.53 MB for 20 tables).
`mt-paas-db doctor --capacity` measures a service's own."""

TABLE_BYTES_AT_MOST = 53 * MB // 2_000
"""The higher end of that, 0.53 MB for 20 tables: for bounds, where it was not measured."""

CELL_BYTES = 48 * MB
"""What the tenants of one cell may take of each backend."""
