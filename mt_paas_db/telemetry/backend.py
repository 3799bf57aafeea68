"""What a server's backend holds in memory, as it was measured on PostgreSQL 15 to 18. For estimates only."""

from __future__ import annotations

BACKEND_BYTES = 2_000_000
"""An idle backend that has served nobody: 1.9 MiB."""

TABLE_BYTES = 20_000
"""Each table of each tenant that it has served: 13 to 26 kB (0.27 to 0.53 MB for 20 tables, each with its primary key).
`mt-paas-db doctor --capacity` measures a service's own."""
