"""Recognisable rows in the user's own tables.

::

    canaries = Canaries.of(["hallym", "korea"])
    filler = Filler(Base.metadata, shared_schemas=("reference",))
    with tenant_session("hallym") as session:
        filler.fill(session, canaries["hallym"])
    canaries.found_in(anything)  # frozenset({"hallym"})
"""

from mt_paas_db.isolation.rows.canary import Canary
from mt_paas_db.isolation.rows.errors import Failure, RowsError
from mt_paas_db.isolation.rows.factories import Factories, Factory, factory
from mt_paas_db.isolation.rows.filler import Filled, Filler
from mt_paas_db.isolation.rows.scan import Canaries

__all__ = ["Canaries", "Canary", "Factories", "Factory", "Failure", "Filled", "Filler", "RowsError", "factory"]
