"""Files that this library writes, and knows again: whole or not at all, and never over somebody else's.

The first line carries a digest of the rest. A file without it is not ours; one whose digest does not fit was changed
since. Comments begin with ``;`` in PgBouncer's configuration and user list, with ``--`` in SQL.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mt_paas_db.errors import ConfigurationError, ForeignFileError

_MARK = re.compile(r"(?:;|--) written by mt-paas-db, (?P<digest>[0-9a-f]{16}): (?P<note>.*)\n")
_SECRET = re.compile(r'(?<=" ")(?:[^"]|"")*(?="$)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OurFile:
    """A file to be written. `body` is its text without the first line; `secret` whether it holds what a diff hides."""

    name: str
    body: str
    comment: str = ";"
    secret: bool = False

    @property
    def text(self) -> str:
        """The whole file."""
        return f"{self.comment} written by mt-paas-db, {_digest(self.body)}: changes here are lost\n{self.body}"


def changed(folder: Path, files: Sequence[OurFile]) -> list[OurFile]:
    """Return those that are not in the folder as they shall be."""
    return [file for file in files if _read(folder / file.name) != file.text]


def diff(folder: Path, files: Sequence[OurFile]) -> str:
    """Return what would change, as a unified diff that shows secrets by a fingerprint."""
    lines: list[str] = []
    for file in files:
        now, then = _read(folder / file.name) or "", file.text
        if file.secret:
            now, then = _SECRET.sub(_fingerprint, now), _SECRET.sub(_fingerprint, then)
        path = str(folder / file.name)
        lines += difflib.unified_diff(now.splitlines(keepends=True), then.splitlines(keepends=True), path, path)
    return "".join(lines)


def write(folder: Path, files: Sequence[OurFile], *, force: bool = False) -> list[OurFile]:
    """Write those that differ, each at once under its name, readable by its owner alone; return them.

    The folder is made where it is missing. Written by root, a file belongs to whom the folder belongs to.

    Raises:
        ForeignFileError: A file in the way is not ours, or was changed, and not `force`; nothing was written.
        ConfigurationError: The folder cannot be written to.
    """
    to_write = changed(folder, files)
    if not force:
        for file in to_write:
            _check_ours(folder / file.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in to_write:
            _replace(folder / file.name, file.text)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror or error}") from error
    return to_write


def _replace(path: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if os.geteuid() == 0:
            owner = path.parent.stat()
            os.chown(temporary, owner.st_uid, owner.st_gid)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _check_ours(path: Path) -> None:
    text = _read(path)
    if text is None:
        return
    mark = _MARK.match(text)
    if mark is None:
        raise ForeignFileError(str(path), "was not written by mt-paas-db")
    if mark["digest"] != _digest(text[mark.end() :]):
        raise ForeignFileError(str(path), "was changed since mt-paas-db wrote it")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from error


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _fingerprint(secret: re.Match[str]) -> str:
    return f"<{_digest(secret[0])}>"
