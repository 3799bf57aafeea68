"""What a process tells of its sessions: metrics and spans through OpenTelemetry, names for the server, Prometheus text.

OpenTelemetry is never imported here unless somebody has: without its API, or without a provider, nothing is recorded,
and a session pays for one look at an attribute.
"""
