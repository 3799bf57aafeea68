"""Sessions of one tenant: the pin, the drivers that carry it, and the door ``tenant_session``."""
