"""The world of the state machine: all steps there are, each a method. A script calls them one after the other."""

from __future__ import annotations

from mt_paas_db.isolation.machine.around import Around
from mt_paas_db.isolation.machine.sessions import Sessions


class World(Sessions, Around):
    """Tenants red, green and blue, each with one row, on few connections of one route; and what can be done."""
