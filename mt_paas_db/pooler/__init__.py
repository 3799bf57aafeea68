"""PgBouncer before the fleet: its configuration from the catalog, its reload, and what any pooler really does."""
