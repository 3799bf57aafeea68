"""The ground everything stands on: names, settings, values, and the registry of tenants with its SQL."""
