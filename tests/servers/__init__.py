"""Real servers for tests, benchmarks and examples: started on free loopback ports, stopped by process id."""

from tests.servers.pgbouncer import PgBouncer, find_pgbouncer
from tests.servers.postgres import PostgresBinaries, PostgresServer, find_postgres

__all__ = ["PgBouncer", "PostgresBinaries", "PostgresServer", "find_pgbouncer", "find_postgres"]
