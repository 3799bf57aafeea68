"""A comment behind a statement that says whose it is, in the format of sqlcommenter. Pure.

The specification (open-telemetry.github.io/opentelemetry-sqlcommenter): keys and values URL-encoded, values in single
quotes, pairs sorted by key and separated by commas, the whole in one comment at the end; a statement that has a comment
already is left alone. URL encoding leaves neither a quote nor a slash, so that nothing in a value ends the comment.
"""

from __future__ import annotations

from urllib.parse import quote


def sqlcomment(**fields: str | None) -> str:
    """Return ``/*application='...',tenant='...'*/`` of the fields that are there; empty where there is none."""
    pairs = sorted((quote(key, safe=""), quote(value, safe="")) for key, value in fields.items() if value)
    written = ",".join(f"{key}='{value}'" for key, value in pairs)
    return f"/*{written}*/" if written else ""


def commented(statement: str, comment: str) -> str:
    """Return `statement` with `comment` behind it, or as it is where it holds a comment, or looks as if."""
    if not comment or "/*" in statement or "--" in statement:
        return statement
    return f"{statement} {comment}"
