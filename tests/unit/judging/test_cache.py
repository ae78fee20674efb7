"""The verdict cache: what a key depends on, many writers, and files that went bad."""

import dataclasses
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rubric_rl.judging.cache import CacheContext, CachedVerdict, VerdictCache, verdict_key
from rubric_rl.types import VerdictValue

MET, UNMET, UNKNOWN = VerdictValue.MET, VerdictValue.UNMET, VerdictValue.UNKNOWN

CONTEXT = CacheContext(
    prompt_hash="p",
    response_hash="r",
    judge_id="judge-1",
    template_hash="t",
    mode="all",
    sampling="text temperature=0",
)


def _verdict(reason: str = "because", value: VerdictValue = MET) -> CachedVerdict:
    return CachedVerdict(
        value=value, reason=reason, probability=None, votes=(), tokens=12.5, cost_usd=0.25
    )


def _set_aside(directory: Path) -> list[Path]:
    return sorted(directory.glob("verdicts-set-aside-*.sqlite3"))


# ----------------------------------------------------------------------------
# Keys and values


def test_a_key_changes_with_every_field_of_the_context_and_with_the_criterion() -> None:
    keys = {verdict_key(CONTEXT, "Says hello.")}
    for field in dataclasses.fields(CacheContext):
        changed = dataclasses.replace(CONTEXT, **{field.name: "other"})
        keys.add(verdict_key(changed, "Says hello."))
    keys.add(verdict_key(CONTEXT, "Says hello!"))
    assert len(keys) == 8
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)


def test_a_key_does_not_confuse_where_one_field_ends_and_the_next_begins() -> None:
    one = dataclasses.replace(CONTEXT, prompt_hash="ab", response_hash="c")
    other = dataclasses.replace(CONTEXT, prompt_hash="a", response_hash="bc")
    assert verdict_key(one, "x") != verdict_key(other, "x")


def test_a_key_is_the_same_in_every_process_and_takes_any_text() -> None:
    # The first is fixed: another one would orphan every cache on disk.
    assert verdict_key(CONTEXT, "Says hello.") == (
        "4e1a55739e91c7672e5a5f0b8dce55c522a5415d5e444053304066a91e4acef5"
    )
    assert verdict_key(CONTEXT, "half a pair: \ud800") != verdict_key(CONTEXT, "half a pair: ?")


def test_unknown_can_not_be_stored() -> None:
    with pytest.raises(ValueError, match="UNKNOWN verdict can't be cached"):
        _verdict(value=UNKNOWN)


def test_what_is_put_is_what_a_later_process_gets(tmp_path: Path) -> None:
    verdict = CachedVerdict(
        value=UNMET,
        reason='quotes " and half a pair \ud800 and \n lines',
        probability=0.125,
        votes=(MET, UNMET, UNMET),
        tokens=301.75,
        cost_usd=1.5e-7,
    )
    first = VerdictCache(tmp_path)
    first.put({"k": verdict})
    first.close()
    assert VerdictCache(tmp_path).get(["k", "absent"]) == {"k": verdict}


def test_the_first_verdict_stands(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    cache.put({"k": _verdict("first")})
    cache.put({"k": _verdict("second"), "other": _verdict("new")})
    got = cache.get(["k", "other"])
    assert {key: verdict.reason for key, verdict in got.items()} == {"k": "first", "other": "new"}


def test_an_empty_cache_has_no_size_and_a_filled_one_has_its_file_s(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "not" / "there" / "yet")
    assert cache.size_bytes == 0
    cache.put({"k": _verdict()})
    assert cache.size_bytes == cache.path.stat().st_size > 0


def test_a_closed_cache_finds_nothing_and_does_not_raise(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    cache.put({"k": _verdict()})
    cache.close()
    assert cache.get(["k"]) == {}
    cache.put({"k2": _verdict()})
    assert (cache.num_failed, VerdictCache(tmp_path).get(["k2"])) == (2, {})


# ----------------------------------------------------------------------------
# Many at once

_WRITER = """
import sys
from pathlib import Path
from rubric_rl.judging.cache import CachedVerdict, VerdictCache
from rubric_rl.types import VerdictValue

directory, name, batches = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
cache = VerdictCache(directory)
for batch in range(batches):
    keys = [f"shared-{batch}", *(f"{name}-{batch}-{i}" for i in range(7))]
    cache.put({
        key: CachedVerdict(value=VerdictValue.MET, reason=name, probability=None, votes=(),
                           tokens=1.0, cost_usd=0.0)
        for key in keys
    })
    assert len(cache.get(keys)) == 8
    print(batch, flush=True)
assert cache.num_failed == 0
"""


def _writer(directory: Path, name: str, batches: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, str(directory), name, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    names, batches = ("a", "b", "c"), 25
    writers = [_writer(tmp_path, name, batches) for name in names]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    own = [f"{name}-{batch}-{i}" for name in names for batch in range(batches) for i in range(7)]
    cache = VerdictCache(tmp_path)
    assert {key: v.reason for key, v in cache.get(own).items()} == {key: key[0] for key in own}
    shared = cache.get([f"shared-{batch}" for batch in range(batches)])
    assert len(shared) == batches
    assert {verdict.reason for verdict in shared.values()} <= set(names)
    assert _set_aside(tmp_path) == []


def test_threads_share_one_cache(tmp_path: Path) -> None:
    cache, found = VerdictCache(tmp_path), []

    def work(name: int) -> None:
        for batch in range(20):
            cache.put({f"{name}-{batch}": _verdict()})
            found.append(len(cache.get([f"{name}-{batch}"])))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [1] * 80
    assert len(cache.get([f"{n}-{b}" for n in range(4) for b in range(20)])) == 80


def test_a_writer_that_is_killed_leaves_everything_that_it_had_finished(tmp_path: Path) -> None:
    writer = _writer(tmp_path, "a", 100_000)
    assert writer.stdout is not None
    for _ in range(20):
        finished = int(writer.stdout.readline())
    writer.kill()
    writer.wait(60)
    cache = VerdictCache(tmp_path)
    keys = [f"a-{batch}-{i}" for batch in range(finished + 1) for i in range(7)]
    assert len(cache.get(keys)) == len(keys)
    cache.put({"after": _verdict()})
    assert len(cache.get(["after"])) == 1
    assert _set_aside(tmp_path) == []


_KILLED_INSIDE_A_TRANSACTION = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=TRUNCATE")
connection.execute("PRAGMA synchronous=OFF")
connection.execute("PRAGMA cache_size=1")  # pages reach the file before the commit
connection.execute("BEGIN IMMEDIATE")
for i in range(500):
    connection.execute("INSERT INTO verdicts VALUES (?, ?, ?)", (f"half-{i}", b"x" * 500, b""))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_between_begin_and_commit_is_undone_by_the_next_reader(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    cache.put({f"k{i}": _verdict() for i in range(50)})
    cache.close()
    before = cache.path.stat().st_size
    command = [sys.executable, "-c", _KILLED_INSIDE_A_TRANSACTION, str(cache.path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert cache.path.stat().st_size > before + 100_000  # it really was in the middle
    after = VerdictCache(tmp_path)
    assert len(after.get([f"k{i}" for i in range(50)])) == 50
    assert after.get(["half-0", "half-499"]) == {}
    assert _set_aside(tmp_path) == []


# ----------------------------------------------------------------------------
# Files that are not what we wrote


def _filled(directory: Path, num: int = 400) -> Path:
    cache = VerdictCache(directory)
    cache.put({f"k{i}": _verdict("a reason of some length " * 4) for i in range(num)})
    cache.close()
    return cache.path


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def _truncate_inside_a_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def _random_bytes(path: Path) -> None:
    path.write_bytes(bytes(i * 7919 % 251 for i in range(20_000)))


def _damage_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(bytes(content))


def _alter_a_verdict(path: Path) -> None:
    content = path.read_bytes()
    assert content.count(b'["met"') == 400
    path.write_bytes(content.replace(b'["met"', b'["Met"'))


def _sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def _other_version(path: Path) -> None:
    _sql(path, "PRAGMA user_version=999")


def _other_application(path: Path) -> None:
    path.unlink()
    _sql(path, "CREATE TABLE people (name TEXT)")


def _other_tables(path: Path) -> None:
    _sql(path, "DROP TABLE verdicts", "CREATE TABLE verdicts (a, b)")


DAMAGES = [
    _truncate,
    _truncate_inside_a_page,
    _random_bytes,
    _damage_the_middle,
    _alter_a_verdict,
    _other_version,
    _other_application,
    _other_tables,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_went_bad_is_set_aside_and_a_new_one_started(
    damage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _filled(tmp_path)
    damage(path)
    damaged = path.read_bytes()
    cache = VerdictCache(tmp_path)
    assert cache.get([f"k{i}" for i in range(400)]) == {}
    (aside,) = _set_aside(tmp_path)
    assert aside.read_bytes() == damaged
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert str(path) in warning
    assert str(aside) in warning
    cache.put({"k": _verdict()})
    assert len(VerdictCache(tmp_path).get(["k"])) == 1
    assert cache.num_failed == 0


def test_writing_also_notices_a_bad_file(tmp_path: Path) -> None:
    _random_bytes(_filled(tmp_path))
    cache = VerdictCache(tmp_path)
    cache.put({"k": _verdict()})
    assert (len(cache.get(["k"])), len(_set_aside(tmp_path))) == (1, 1)


def test_a_file_that_goes_bad_under_two_users_is_set_aside_once(tmp_path: Path) -> None:
    one, two = VerdictCache(tmp_path), VerdictCache(tmp_path)
    keys = [f"k{i}" for i in range(400)]
    one.put({key: _verdict("a reason of some length " * 4) for key in keys})
    assert len(two.get(keys)) == 400
    _sql(one.path, "UPDATE verdicts SET payload = x'00'")
    assert one.get(keys) == {}
    one.put({"new": _verdict("one")})
    assert two.get(keys) == {}
    two.put({"newer": _verdict("two")})
    assert set(one.get(["new", "newer"])) == {"new", "newer"}
    assert len(_set_aside(tmp_path)) == 1


def test_the_journal_of_a_killed_writer_is_set_aside_with_its_file(tmp_path: Path) -> None:
    path = _filled(tmp_path)
    command = [sys.executable, "-c", _KILLED_INSIDE_A_TRANSACTION, str(path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    journal = path.with_name(f"{path.name}-journal")
    assert journal.stat().st_size > 0
    journal.write_bytes(b"\xff" * journal.stat().st_size)  # no longer undoes anything
    cache = VerdictCache(tmp_path)
    cache.get([f"k{i}" for i in range(400)] + ["half-1"])
    cache.put({"k": _verdict()})
    assert len(VerdictCache(tmp_path).get(["k"])) == 1
    assert len(_set_aside(tmp_path)) == 1


def test_a_folder_that_is_removed_under_a_running_cache_is_made_anew(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "verdicts")
    cache.put({"k": _verdict()})
    for path in cache.path.parent.iterdir():
        path.unlink()
    cache.path.parent.rmdir()
    cache.put({"k2": _verdict()})
    assert len(VerdictCache(tmp_path / "verdicts").get(["k2"])) == 1


# ----------------------------------------------------------------------------
# Disks that don't do their part


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _unusable_folder(tmp_path: Path) -> Path:
    """Tests may run as a user whom no permission stops: a file in the place of the folder."""
    (tmp_path / "file").write_text("not a folder")
    return tmp_path / "file" / "verdicts"


def test_a_cache_without_a_disk_misses_with_one_warning_and_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = _Clock()
    cache = VerdictCache(_unusable_folder(tmp_path), clock=clock)
    for _ in range(3):
        cache.put({"k": _verdict()})
        assert cache.get(["k"]) == {}
        clock.now += 100.0
    assert cache.num_failed == 6
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert str(cache.path) in warning
    assert "judge.cache.enabled=false" in warning


def test_a_cache_rests_after_a_failure_and_then_tries_again(tmp_path: Path) -> None:
    clock = _Clock()
    cache = VerdictCache(_unusable_folder(tmp_path), clock=clock)
    cache.put({"k": _verdict()})
    (tmp_path / "file").unlink()
    cache.put({"k": _verdict()})
    assert not cache.path.exists()  # within the rest: not even tried
    clock.now += 61.0
    cache.put({"k": _verdict()})
    assert len(cache.get(["k"])) == 1
    assert cache.num_failed == 2


def _full(connection: sqlite3.Connection) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count={pages}")


def test_a_full_disk_keeps_what_is_there_readable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = VerdictCache(tmp_path)
    cache.put({"k": _verdict()})
    assert cache._connection is not None
    _full(cache._connection)  # SQLite's own way to have no room left
    cache.put({f"k{i}": _verdict("x" * 1000) for i in range(100)})
    assert cache.num_failed == 1
    assert "full" in caplog.text
    assert set(cache.get(["k", "k0", "k99"])) == {"k"}


def test_a_lock_that_is_never_released_turns_the_cache_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rubric_rl.judging.cache._BUSY_TIMEOUT_S", 0.05)
    path = _filled(tmp_path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    cache = VerdictCache(tmp_path)
    cache.put({"k": _verdict()})
    assert cache.get(["k0"]) == {}
    assert cache.num_failed == 2
    assert "locked" in caplog.text
    holder.close()
    assert len(VerdictCache(tmp_path).get(["k0"])) == 1
    assert _set_aside(tmp_path) == []
