"""A SCRAM-SHA-256 verifier that is the same each time (RFC 5802, 7677). Pure.

A pooler that looks verifiers up keeps what it made of one, and is locked out when the salt changes under it. So the
salt of a tenant's own login follows from its password and name, and to set the password again changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

_ITERATIONS = 4096  # PostgreSQL's own default, `scram_iterations`


def stable_verifier(login: str, password: str) -> str:
    """Return what PostgreSQL stores for `password`, which must be ASCII: others would have to be normalised."""
    salt = hmac.new(password.encode("ascii"), login.encode(), hashlib.sha256).digest()[:16]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.new(salted, b"Client Key", hashlib.sha256).digest()).digest()
    server = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt64}${stored64}:{server64}"
