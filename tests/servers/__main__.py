"""Say where `python -m tests.servers [MAJOR]` would get its server from; exit 1 where there is none."""

from __future__ import annotations

import sys

from tests.servers.supply import Supply

supply = Supply.look("auto", int(sys.argv[1]) if len(sys.argv) > 1 else None)
print(supply)
sys.exit(supply.choice is None)
