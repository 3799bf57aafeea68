"""A SCRAM-SHA-256 verifier that is the same each time (RFC 5802, 7677). Pure.

A pooler that looks verifiers up keeps what it made of one, and is locked out when the salt changes under it. So the
salt of a tenant's own login follows from its password and name, and to set the password again changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

_ITERATIONS = 4096  # PostgreSQL's own default, `scram_iterations`
_FORM = re.compile(
    r"SCRAM-SHA-256\$(?P<iterations>\d{1,9}):(?P<salt>[A-Za-z0-9+/]+=*)\$[A-Za-z0-9+/]+=*:[A-Za-z0-9+/]+=*"
)


def stable_verifier(login: str, password: str) -> str:
    """Return what PostgreSQL stores for `password`, which must be ASCII: others would have to be normalised."""
    salt = hmac.new(password.encode("ascii"), login.encode(), hashlib.sha256).digest()[:16]
    return _verifier(password, salt, _ITERATIONS)


def is_verifier_of(verifier: str, password: str) -> bool | None:
    """Return whether `verifier` was made of `password`; None where that cannot be said: it is not SCRAM, or not ASCII.

    ``pg_authid`` holds it, and costs as much as a login to compare.
    """
    found = _FORM.fullmatch(verifier)
    if found is None or not password.isascii():
        return None
    made = _verifier(password, base64.b64decode(found["salt"]), int(found["iterations"]))
    return hmac.compare_digest(made, verifier)


def _verifier(password: str, salt: bytes, iterations: int) -> str:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, iterations)
    stored = hashlib.sha256(hmac.new(salted, b"Client Key", hashlib.sha256).digest()).digest()
    server = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations}:{salt64}${stored64}:{server64}"
