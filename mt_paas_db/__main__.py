"""``python -m mt_paas_db`` is ``mt-paas-db``."""

from __future__ import annotations

import sys

from mt_paas_db.cli import main

sys.exit(main())
