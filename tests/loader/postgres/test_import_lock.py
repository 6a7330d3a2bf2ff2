"""Who may load what: the import that a file belongs to, the lock on it, and the number of the attempt."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from uuid import UUID, uuid4

import msgspec
import pytest
from psycopg import errors as pg

from loader.cancellation import Interrupt, Stopped, StopReason
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.limits import DEFAULT_LIMITS
from loader.postgres import import_lock, ledger, staging
from loader.postgres.connection import Connection
from loader.postgres.import_lock import Target
from loader.postgres.ledger import Import

TARGET = Target(
    location="https://example.org/trips.csv",
    source_bytes=1000,
    validator='"1"',
    digest="abcd",  # of the head and the tail; of the head alone it would be "ab"
    data_start=10,
    column_count=24,
    mode="append",
    force=False,
)
OTHER_FILES: list[Mapping[str, object]] = [
    {"location": "https://example.org/others.csv"},
    {"source_bytes": 1001},
    {"source_bytes": None},
    {"validator": '"2"'},
    {"validator": None},
    {"digest": "abce"},
    {"digest": "ac"},
]
SAME_FILE: list[Mapping[str, object]] = [{}, {"digest": "ab"}, {"digest": "abcdef"}]


def changed(changes: Mapping[str, object]) -> Target:
    return msgspec.structs.replace(TARGET, **changes)


def published(connection: Connection, target: Target = TARGET) -> Import:
    """Publish an import without rows."""
    found = import_lock.find_or_insert(connection, None, target)
    staging.create_import_table(connection, found.import_key, Interrupt(), DEFAULT_LIMITS)
    connection.execute(
        f"ALTER TABLE trips ATTACH PARTITION loader.import_{found.import_key} FOR VALUES IN ({found.import_key})".encode()
    )
    set_state(connection, found, "published")
    return found


def set_state(connection: Connection, of: Import, state: str) -> None:
    receipt = "{}" if state == "published" else None
    connection.execute(
        "UPDATE loader.import SET state = %s, receipt = %s WHERE import_key = %s",
        [state, receipt, of.import_key],
    )


# Which import


def test_a_new_import_has_the_properties_that_the_probe_found(connection: Connection) -> None:
    import_id = uuid4()
    found = import_lock.find_or_insert(connection, import_id, TARGET)
    assert (found.id, found.state, found.attempt) == (import_id, "loading", 0)
    for field in ("location", "source_bytes", "validator", "digest", "data_start", "column_count", "mode"):
        assert getattr(found, field) == getattr(TARGET, field)
    assert import_lock.find_or_insert(connection, import_id, changed({"validator": '"2"'})) == found
    assert (
        import_lock.find_or_insert(connection, uuid4(), TARGET).import_key != found.import_key
    )  # it is named


def test_the_unfinished_import_of_the_same_file_is_resumed(connection: Connection) -> None:
    first = import_lock.find_or_insert(connection, None, TARGET)
    for changes in SAME_FILE:
        assert import_lock.find_or_insert(connection, None, changed(changes)) == first
    connection.execute("UPDATE loader.import SET digest = NULL")  # begun by version 1 of the ledger
    for changes in SAME_FILE:
        assert import_lock.find_or_insert(connection, None, changed(changes)).id == first.id
    second = import_lock.find_or_insert(connection, uuid4(), TARGET)
    assert import_lock.find_or_insert(connection, None, TARGET).id == first.id  # the oldest
    set_state(connection, first, "removing")
    assert import_lock.find_or_insert(connection, None, TARGET) == second


def test_another_file_or_mode_is_an_import_of_its_own(connection: Connection) -> None:
    first = import_lock.find_or_insert(connection, None, TARGET)
    for changes in (*OTHER_FILES, {"mode": "replace"}):
        assert import_lock.find_or_insert(connection, None, changed(changes)).id != first.id


def test_files_of_unknown_size_may_be_the_same_but_not_without_validator(
    connection: Connection,
) -> None:
    for validator, is_same in (('"1"', True), (None, False)):
        target = changed({"source_bytes": None, "validator": validator})
        first = import_lock.find_or_insert(connection, None, target)
        assert (import_lock.find_or_insert(connection, None, target).id == first.id) == is_same


# What is published already


def test_a_file_that_is_published_is_refused(connection: Connection) -> None:
    first = published(connection)
    for changes, import_id in itertools.product(SAME_FILE, (None, uuid4())):
        with pytest.raises(LoaderError) as caught:
            import_lock.find_or_insert(connection, import_id, changed(changes))
        assert caught.value.code is FailureCode.ALREADY_IMPORTED
        assert str(first.id) in caught.value.failure.message
    assert import_lock.find_or_insert(connection, first.id, TARGET).id == first.id
    import_lock.refuse_duplicate(connection, TARGET, first.import_key)  # by ourselves
    assert import_lock.duplicate_notes(connection, TARGET, first.import_key + 1) == []


def test_another_file_and_a_forced_import_are_not_refused(connection: Connection) -> None:
    first = published(connection)
    for changes in (*OTHER_FILES, {"force": True}, {"mode": "replace"}):
        assert import_lock.find_or_insert(connection, None, changed(changes)).id != first.id


def test_a_file_whose_import_left_trips_is_loaded_again_with_a_note(
    connection: Connection,
) -> None:
    first = published(connection)
    connection.execute(f"DROP TABLE loader.import_{first.import_key}".encode())
    again = import_lock.find_or_insert(connection, None, TARGET)
    assert again.id != first.id
    (note,) = import_lock.duplicate_notes(connection, TARGET, again.import_key)
    assert note.startswith(f"Import {first.id} of this file is published, but its table was dropped")
    assert import_lock.duplicate_notes(connection, TARGET, first.import_key) == []
    assert import_lock.duplicate_notes(connection, changed({"force": True}), again.import_key) == []


# Whether a named import may go on with a file


def known(**changes: object) -> Import:
    """Return an import of the target's file, but for the changes."""
    begun = {
        "import_key": 1,
        "id": UUID(int=1),
        "state": "loading",
        "attempt": 1,
        "created_at": "2024-02-01T12:00:00Z",
        "receipt": None,
        "table_oid": None,
    }
    return msgspec.convert({**begun, **msgspec.structs.asdict(TARGET), **changes}, Import)


ELSEWHERE = {"location": "https://example.org/copy.csv"}


@pytest.mark.parametrize(
    ("begun", "now"),
    [
        (known(), {}),
        (known(), ELSEWHERE),
        (known(digest="ab"), {}),
        (known(digest=None), {}),
        (known(), {"digest": "ab"}),
        (known(), {"digest": None}),
        (known(), {"force": True}),
        (known(validator=None), {"digest": "ac"}),
        (known(validator=None), {"validator": None, "digest": "ac"}),
    ],
)
def test_a_named_import_is_resumed_with_the_same_file(begun: Import, now: Mapping[str, object]) -> None:
    import_lock.refuse_other_file(begun, changed(now))


@pytest.mark.parametrize(
    ("begun", "now", "difference"),
    [
        (known(), {"source_bytes": 1001}, "its size was 1000 and is 1001"),
        (known(), {"data_start": 11}, "its header length was 10 and is 11"),
        (known(), {"column_count": 25}, "its number of columns was 24 and is 25"),
        (known(), {"validator": '"2"'}, 'its validator was "1" and is "2"'),
        (known(), {"validator": None}, 'its validator was "1" and is None'),
        (known(), {"digest": "abce"}, "its first or last bytes differ"),
        (known(validator=None), {"source_bytes": 1001}, "its size was 1000 and is 1001"),
    ],
)
@pytest.mark.parametrize("place", [{}, ELSEWHERE], ids=["there", "elsewhere"])
def test_a_named_import_is_not_resumed_with_another_file(
    begun: Import, now: Mapping[str, object], difference: str, place: Mapping[str, object]
) -> None:
    with pytest.raises(LoaderError) as caught:
        import_lock.refuse_other_file(begun, changed({**now, **place}))
    failure = caught.value.failure
    assert failure.code is FailureCode.SOURCE_CHANGED
    assert failure.message.startswith(
        f"Import {begun.id} was started with another file at {TARGET.location}: {difference}"
    )
    assert f"loader drop {begun.id}" in failure.hint


def test_a_file_at_another_url_must_be_proven_to_be_the_same() -> None:
    with pytest.raises(LoaderError, match="without a validator"):
        import_lock.refuse_other_file(known(validator=None), changed(ELSEWHERE))


def test_a_named_import_stays_in_its_mode() -> None:
    with pytest.raises(LoaderError) as caught:
        import_lock.refuse_other_file(known(), changed({"mode": "replace"}))
    assert caught.value.code is FailureCode.USAGE
    assert "--mode append, not replace" in caught.value.failure.message


def test_the_location_of_a_file_and_its_longer_digest_are_recorded(connection: Connection) -> None:
    bystander = import_lock.find_or_insert(connection, None, changed(ELSEWHERE))
    for before, seen, noted in (
        ("abcd", "ab", "abcd"),
        ("ab", "abcd", "abcd"),
        (None, "ab", "ab"),
        ("abcd", "ac", "ac"),
    ):
        begun = import_lock.find_or_insert(connection, uuid4(), changed({"digest": before}))
        import_lock.update_source(
            connection, begun, changed({"location": "new", "validator": '"2"', "digest": seen})
        )
        now = ledger.get_import(connection, begun.id)
        assert (now.location, now.validator, now.digest) == ("new", '"2"', noted)
    assert ledger.get_import(connection, bystander.id) == bystander


# Locks


def test_one_session_at_a_time_locks_an_import(connection: Connection, other: Connection) -> None:
    assert import_lock.try_lock(connection, 1)
    assert not import_lock.try_lock(other, 1)
    assert import_lock.try_lock(other, 2)
    import_lock.unlock(connection, 1)
    assert import_lock.try_lock(other, 1)


def test_a_lock_is_waited_for_until_the_other_loader_releases_it(
    connection: Connection, other: Connection
) -> None:
    found = import_lock.find_or_insert(connection, None, TARGET)
    interrupt = Interrupt()
    import_lock.lock(connection, found, interrupt, 10)
    waiting = threading.Thread(target=import_lock.lock, args=[other, found, interrupt, 10])
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    import_lock.unlock(connection, found.import_key)
    waiting.join()
    assert not import_lock.try_lock(connection, found.import_key)


def test_a_wait_for_a_lock_ends_after_its_limit_or_at_a_stop(
    connection: Connection, other: Connection
) -> None:
    found = import_lock.find_or_insert(connection, None, TARGET)
    interrupt = Interrupt()
    import_lock.lock(connection, found, interrupt, 10)
    with pytest.raises(LoaderError) as caught:
        import_lock.lock(other, found, interrupt, 0.05)
    assert caught.value.code is FailureCode.IMPORT_BUSY
    assert str(found.id) in caught.value.failure.message
    interrupt.request(StopReason.TERMINATED)
    with pytest.raises(Stopped):
        import_lock.lock(other, found, interrupt, 0.05)


def test_transactions_that_select_imports_of_one_location_run_one_by_one(
    connection: Connection, other: Connection
) -> None:
    with connection.transaction():
        import_lock.find_or_insert(connection, None, TARGET)
        with pytest.raises(pg.LockNotAvailable):
            import_lock.find_or_insert(other, None, TARGET)
        import_lock.find_or_insert(other, None, changed(ELSEWHERE))
    import_lock.find_or_insert(other, None, TARGET)


# Attempts


def test_the_number_of_an_attempt_fences_off_the_one_before(connection: Connection) -> None:
    bystander = import_lock.find_or_insert(connection, None, changed(ELSEWHERE))
    key = import_lock.find_or_insert(connection, None, TARGET).import_key
    assert [import_lock.begin_attempt(connection, key) for _ in range(2)] == [1, 2]
    import_lock.check_attempt(connection, key, 2)
    for import_key, attempt in ((key, 1), (key, 3), (bystander.import_key, 2)):
        with pytest.raises(LoaderError) as caught:
            import_lock.check_attempt(connection, import_key, attempt)
        assert caught.value.code is FailureCode.IMPORT_BUSY
    assert ledger.get_import(connection, bystander.id) == bystander


@pytest.mark.parametrize("state", ["published", "removing"])
def test_an_import_that_is_not_loading_gets_no_new_attempt(connection: Connection, state: str) -> None:
    found = import_lock.find_or_insert(connection, None, TARGET)
    import_lock.begin_attempt(connection, found.import_key)
    set_state(connection, found, state)
    assert import_lock.begin_attempt(connection, found.import_key) is None
    with pytest.raises(LoaderError):
        import_lock.check_attempt(connection, found.import_key, 1)


def test_a_new_attempt_waits_for_a_part_of_the_one_before_in_commit(
    connection: Connection, other: Connection
) -> None:
    key = import_lock.find_or_insert(connection, None, TARGET).import_key
    import_lock.begin_attempt(connection, key)
    with connection.transaction():
        import_lock.check_attempt(connection, key, 1)
        import_lock.check_attempt(other, key, 1)  # other parts commit meanwhile
        with pytest.raises(pg.LockNotAvailable):
            import_lock.begin_attempt(other, key)
    assert import_lock.begin_attempt(other, key) == 2
