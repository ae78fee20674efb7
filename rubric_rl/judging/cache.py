"""Verdicts on disk, so that none is paid for twice.

    verdict_key(context, criterion text) --> 64 hex digits --> CachedVerdict

One SQLite file in a folder, used at the same time by all judge workers of all
runs that name the folder, also over a network file system whose locks work:

- Rollback journal, not WAL: a write-ahead log needs memory that all readers
  share, and hosts share none. TRUNCATE saves the removal of a file at each commit.
- synchronous=OFF: a killed process loses nothing, and what a power cut can tear
  are verdicts that can be asked for again. Each entry carries a checksum, so
  that a torn one is noticed.
- The first verdict on a key stands: whoever asks later gets what the others got.

The cache only ever saves money, so it is never a reason to stop. A file that is
damaged or not ours is set aside and a new one started. A disk that is full, read-only
or locked for long makes the cache miss; it is tried again after a while.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast

from rubric_rl.types import VerdictValue

logger = logging.getLogger(__name__)

FILE_NAME = "verdicts.sqlite3"
SCHEMA_VERSION = 1
# "RRLV" as a number: tells our files from other SQLite files.
_APPLICATION_ID = 0x52524C56
_KEY_FORMAT = "rubric_rl.verdict/1"

_BUSY_TIMEOUT_S = 10.0
_OFF_S = 60.0
"""How long the cache rests after a failure, so that a bad disk doesn't slow every verdict."""
_ATTEMPTS = 3
_LOCK_POLL_S = 0.02

# Codes that say the content is not what we wrote. Our statements are fixed, so
# SQLITE_ERROR can only mean other tables or columns.
_NOT_OURS = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheContext:
    """All that a verdict depends on beside the text of its criterion."""

    prompt_hash: str
    """Of the conversation, and of the reference answer where the judge sees it."""
    response_hash: str
    judge_id: str
    template_hash: str
    mode: str
    """How many criteria a call asks for, as `all`, `each` or `chunk:4`."""
    sampling: str
    """Contract, temperature, votes: whatever else of the request can change a verdict."""


def verdict_key(context: CacheContext, criterion_text: str) -> str:
    """SHA-256 (hex) over all of it. Id, weight and polarity of the criterion don't matter."""
    text = json.dumps([_KEY_FORMAT, *astuple(context), criterion_text], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedVerdict:
    """A verdict as it was given, with its share of what the call took.

    Raises ValueError for UNKNOWN: a failure is asked again, never remembered.
    """

    value: VerdictValue
    reason: str
    probability: float | None
    votes: tuple[VerdictValue, ...]
    tokens: float
    cost_usd: float
    grade: float | None = None

    def __post_init__(self) -> None:
        if self.value is VerdictValue.UNKNOWN:
            raise ValueError("an UNKNOWN verdict can't be cached: it is a failure, not a verdict")


class _DamagedError(Exception):
    """The file holds something that we didn't write."""


class VerdictCache:
    """The cache of one folder. For one process, any number of its threads."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Touches no disk; the file is opened when it is first used."""
        self._path = directory / FILE_NAME
        self._clock = clock
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        """Of the file that is open; stale, never too new."""
        self._closed = False
        # Reading goes on where only writing fails, as in a shared folder without write access.
        self._off_until: dict[Literal["get", "put"], float] = {}
        self._num_failed = 0

    @property
    def path(self) -> Path:
        return self._path

    @property
    def size_bytes(self) -> int:
        """Size of the file on disk; 0 if there is none."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    @property
    def num_failed(self) -> int:
        """Gets and puts that failed, or weren't tried because an earlier one had failed."""
        return self._num_failed

    def get(self, keys: Sequence[str]) -> dict[str, CachedVerdict]:
        """The verdicts that are there, by key; none if the cache can't be read."""
        return self._run("get", lambda connection: _select(connection, keys), {})

    def put(self, verdicts: Mapping[str, CachedVerdict]) -> None:
        """Add verdicts in one transaction. Keys that are there keep what they have."""
        if not verdicts:
            return
        rows = [(key, *_encoded(key, verdict)) for key, verdict in verdicts.items()]
        self._run("put", lambda connection: _insert(connection, rows), None)

    def close(self) -> None:
        """Close the file. Later gets find nothing and later puts do nothing."""
        with self._lock:
            self._closed = True
            self._disconnect()

    # ------------------------------------------------------------------------
    # What can go wrong

    def _run(
        self,
        kind: Literal["get", "put"],
        operation: Callable[[sqlite3.Connection], _T],
        otherwise: _T,
    ) -> _T:
        with self._lock:
            if self._closed or self._clock() < self._off_until.get(kind, float("-inf")):
                self._num_failed += 1
                return otherwise
            try:
                return self._attempt(operation)
            except (sqlite3.Error, OSError, _DamagedError) as err:
                self._turn_off(kind, err)
                return otherwise

    def _turn_off(self, kind: Literal["get", "put"], err: Exception) -> None:
        self._disconnect()
        level = logging.INFO if self._num_failed else logging.WARNING
        self._num_failed += 1
        self._off_until[kind] = self._clock() + _OFF_S
        what = "read" if kind == "get" else "written"
        logger.log(
            level,
            "the verdict cache %s can't be %s (%s): going on without it, every %g s it is tried "
            "again. Free the disk or correct judge.cache.dir, or set judge.cache.enabled=false",
            self._path,
            what,
            err,
            _OFF_S,
        )

    def _attempt(self, operation: Callable[[sqlite3.Connection], _T]) -> _T:
        for remaining in reversed(range(_ATTEMPTS)):
            try:
                return operation(self._opened())
            except (sqlite3.Error, _DamagedError) as err:
                self._disconnect()
                if remaining == 0:
                    raise
                if _is_not_ours(err):
                    self._set_aside(err)
                elif _code(err) != sqlite3.SQLITE_READONLY_DBMOVED:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _set_aside(self, err: Exception) -> None:
        """Give the file another name, unless another process already did."""
        stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        target = self._path.with_name(f"verdicts-set-aside-{stamp}.sqlite3")
        with self._exclusive():
            if not self._path.exists() or self._path.stat().st_ino != self._inode:
                return
            os.rename(self._path, target)
            # The journal belongs to the old file: it must never be replayed into a new one.
            with contextlib.suppress(FileNotFoundError):
                os.rename(_journal(self._path), _journal(target))
        logger.warning(
            "the verdict cache %s can't be used (%s): it was set aside as %s and a new one started",
            self._path,
            err,
            target,
        )

    @contextlib.contextmanager
    def _exclusive(self) -> Generator[None]:
        """Hold the right to create or rename the file, among all processes.

        SQLite's own locks are on the file itself, so they can't guard its name.
        """
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        with self._path.with_suffix(".lock").open("ab") as file:
            while True:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(_LOCK_POLL_S)
            yield

    # ------------------------------------------------------------------------
    # Opening

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            if not self._path.exists():
                self._create()
            # Before it is opened: if another process replaces it in between, what we know is
            # older than what we have, and we look again rather than set a good file aside.
            self._inode = self._path.stat().st_ino
            self._connection = _connect(self._path)
            _prepare(self._connection)
        return self._connection

    def _create(self) -> None:
        """An empty file, which SQLite takes for a new database."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            if not self._path.exists():
                # Left by a process that ended while it set the old file aside.
                _journal(self._path).unlink(missing_ok=True)
                self._path.touch()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",  # never creates: that is done under a lock
        uri=True,
        timeout=_BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )


def _prepare(connection: sqlite3.Connection) -> None:
    """Make sure that the file is ours, and make a new one so.

    Raises:
        _DamagedError: it is another application's, or of another version.
    """
    if _identity(connection) == (0, 0):
        connection.execute("PRAGMA journal_mode=TRUNCATE")
        with _transaction(connection):
            if _identity(connection) == (0, 0) and not _num_tables(connection):
                connection.execute(
                    "CREATE TABLE verdicts (key TEXT PRIMARY KEY, payload BLOB NOT NULL, "
                    "checksum BLOB NOT NULL) WITHOUT ROWID"
                )
                connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    application, version = _identity(connection)
    if application != _APPLICATION_ID:
        raise _DamagedError("it is not a verdict cache")
    if version != SCHEMA_VERSION:
        raise _DamagedError(f"its schema version is {version}, want {SCHEMA_VERSION}")
    connection.execute("PRAGMA journal_mode=TRUNCATE")
    connection.execute("PRAGMA synchronous=OFF")


def _identity(connection: sqlite3.Connection) -> tuple[int, int]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def _num_tables(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return count


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None]:
    # IMMEDIATE: two that start as readers and both want to write would block each other.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors have rolled back already.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")


def _code(err: Exception) -> int | None:
    # Errors that Python itself raises carry none.
    return getattr(err, "sqlite_errorcode", None)


def _is_not_ours(err: Exception) -> bool:
    code = _code(err)
    return isinstance(err, _DamagedError) or (code is not None and code & 0xFF in _NOT_OURS)


# ----------------------------------------------------------------------------
# Rows


def _select(connection: sqlite3.Connection, keys: Sequence[str]) -> dict[str, CachedVerdict]:
    rows = connection.execute(
        "SELECT key, payload, checksum FROM verdicts WHERE key IN (SELECT value FROM json_each(?))",
        (json.dumps(list(keys)),),
    ).fetchall()
    return {key: _decoded(key, payload, checksum) for key, payload, checksum in rows}


def _insert(connection: sqlite3.Connection, rows: Sequence[tuple[str, bytes, bytes]]) -> None:
    with _transaction(connection):
        connection.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", rows)


def _encoded(key: str, verdict: CachedVerdict) -> tuple[bytes, bytes]:
    """Payload and checksum. ASCII, as a judge's reason may hold half a surrogate pair."""
    # Without a grade an entry is as it was before there were grades, for whoever shares the file.
    fields = astuple(verdict) if verdict.grade is not None else astuple(verdict)[:-1]
    text = json.dumps(fields, ensure_ascii=True, allow_nan=False)
    return text.encode(), _checksum(key, text.encode())


def _decoded(key: str, payload: object, checksum: object) -> CachedVerdict:
    if not isinstance(payload, bytes) or checksum != _checksum(key, payload):
        raise _DamagedError(f"the entry {key[:16]} was altered")
    value, reason, probability, votes, tokens, cost_usd, *grade = json.loads(payload)
    return CachedVerdict(
        value=VerdictValue(value),
        reason=cast("str", reason),
        probability=cast("float | None", probability),
        votes=tuple(VerdictValue(vote) for vote in votes),
        tokens=cast("float", tokens),
        cost_usd=cast("float", cost_usd),
        grade=cast("float", grade[0]) if grade else None,
    )


def _checksum(key: str, payload: bytes) -> bytes:
    """Against a bad disk, not against a person."""
    return hashlib.blake2b(key.encode() + payload, digest_size=8).digest()
