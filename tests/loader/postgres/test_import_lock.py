"""Who may load what: the import that a file belongs to, the lock on it, and the number of the attempt."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Generator, Mapping
from uuid import UUID, uuid4

import msgspec
import pytest
from psycopg import errors as pg

from loader.cancellation import Interrupt, Stopped, StopReason
from loader.contract import FailureCode
from loader.errors import LoaderError
from loader.limits import DEFAULT_LIMITS
from loader.postgres import import_lock, ledger, publish, target_table
from loader.postgres.connection import Connection, Database
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


@pytest.fixture
def connection(database_url: str) -> Generator[Connection]:
    """A loader's connection to a database that has trips and a ledger."""
    with Database(database_url).connection("test") as connection:
        target_table.prepare(connection)
        yield connection


@pytest.fixture
def other(database_url: str) -> Generator[Connection]:
    """Another loader's, which waits for no lock."""
    with Database(database_url).connection("other") as other:
        other.execute("SET lock_timeout = '50ms'")
        yield other


def published(connection: Connection, target: Target = TARGET) -> Import:
    """Publish an import without rows."""
    found = import_lock.find_or_insert(connection, None, target)
    publish.create_import_table(connection, found.import_key, Interrupt(), DEFAULT_LIMITS)
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


def test_a_new_import_is_entered_in_the_ledger_as_the_probe_saw_its_file(connection: Connection) -> None:
    import_id = uuid4()
    found = import_lock.find_or_insert(connection, import_id, TARGET)
    assert (found.id, found.state, found.attempt) == (import_id, "loading", 0)
    for field in ("location", "source_bytes", "validator", "digest", "data_start", "column_count", "mode"):
        assert getattr(found, field) == getattr(TARGET, field)
    assert import_lock.find_or_insert(connection, import_id, changed({"validator": '"2"'})) == found
    assert (
        import_lock.find_or_insert(connection, uuid4(), TARGET).import_key != found.import_key
    )  # it is named


def test_the_unfinished_import_of_the_very_file_is_gone_on_with(connection: Connection) -> None:
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


def test_files_of_unknown_size_may_be_the_same_and_without_validator_never_are(
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


def test_what_is_another_file_or_is_to_be_loaded_again_is_not_refused(connection: Connection) -> None:
    first = published(connection)
    for changes in (*OTHER_FILES, {"force": True}, {"mode": "replace"}):
        assert import_lock.find_or_insert(connection, None, changed(changes)).id != first.id


def test_a_file_whose_import_is_no_longer_in_trips_is_loaded_again_with_a_note(
    connection: Connection,
) -> None:
    first = published(connection)
    connection.execute(f"DROP TABLE loader.import_{first.import_key}".encode())
    again = import_lock.find_or_insert(connection, None, TARGET)
    assert again.id != first.id
    (note,) = import_lock.duplicate_notes(connection, TARGET, again.import_key)
    assert note.startswith(f"Import {first.id} of this very file is published, but its table was dropped")
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
def test_a_named_import_goes_on_with_the_same_file(begun: Import, now: Mapping[str, object]) -> None:
    import_lock.refuse_other_file(begun, changed(now))


@pytest.mark.parametrize(
    ("begun", "now", "difference"),
    [
        (known(), {"source_bytes": 1001}, "its size was 1000 and is 1001"),
        (known(), {"data_start": 11}, "its header length was 10 and is 11"),
        (known(), {"column_count": 25}, "its number of columns was 24 and is 25"),
        (known(), {"validator": '"2"'}, 'its validator was "1" and is "2"'),
        (known(), {"validator": None}, 'its validator was "1" and is None'),
        (known(), {"digest": "abce"}, "its first or last bytes are others"),
        (known(validator=None), {"source_bytes": 1001}, "its size was 1000 and is 1001"),
    ],
)
@pytest.mark.parametrize("place", [{}, ELSEWHERE], ids=["there", "elsewhere"])
def test_a_named_import_is_not_gone_on_with_by_another_file(
    begun: Import, now: Mapping[str, object], difference: str, place: Mapping[str, object]
) -> None:
    with pytest.raises(LoaderError) as caught:
        import_lock.refuse_other_file(begun, changed({**now, **place}))
    failure = caught.value.failure
    assert failure.code is FailureCode.SOURCE_CHANGED
    where = f" at {TARGET.location}" if place else ""
    assert failure.message.startswith(f"Import {begun.id} was begun with another file{where}: {difference}")
    assert ("What it had loaded is removed" in failure.hint) == (not place)


def test_a_file_at_another_address_must_be_proven_to_be_the_same() -> None:
    with pytest.raises(LoaderError, match="no validator that would prove"):
        import_lock.refuse_other_file(known(validator=None), changed(ELSEWHERE))


def test_a_named_import_stays_in_its_mode() -> None:
    with pytest.raises(LoaderError) as caught:
        import_lock.refuse_other_file(known(), changed({"mode": "replace"}))
    assert caught.value.code is FailureCode.USAGE
    assert "--mode append, not replace" in caught.value.failure.message


def test_the_place_of_a_file_and_the_longer_digest_are_noted(connection: Connection) -> None:
    bystander = import_lock.find_or_insert(connection, None, changed(ELSEWHERE))
    for before, seen, noted in (
        ("abcd", "ab", "abcd"),
        ("ab", "abcd", "abcd"),
        (None, "ab", "ab"),
        ("abcd", "ac", "ac"),
    ):
        begun = import_lock.find_or_insert(connection, uuid4(), changed({"digest": before}))
        import_lock.note_file(
            connection, begun, changed({"location": "new", "validator": '"2"', "digest": seen})
        )
        now = ledger.get_import(connection, begun.id)
        assert (now.location, now.validator, now.digest) == ("new", '"2"', noted)
    assert ledger.get_import(connection, bystander.id) == bystander


# Locks


def test_an_import_has_one_holder_at_a_time(connection: Connection, other: Connection) -> None:
    assert import_lock.try_lock(connection, 1)
    assert not import_lock.try_lock(other, 1)
    assert import_lock.try_lock(other, 2)
    import_lock.unlock(connection, 1)
    assert import_lock.try_lock(other, 1)


def test_who_waits_for_an_import_gets_it_when_its_holder_lets_go(
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


def test_who_waits_for_an_import_gives_up_or_is_stopped(connection: Connection, other: Connection) -> None:
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


def test_claims_of_one_location_take_turns(connection: Connection, other: Connection) -> None:
    with connection.transaction():
        import_lock.find_or_insert(connection, None, TARGET)
        with pytest.raises(pg.LockNotAvailable):
            import_lock.find_or_insert(other, None, TARGET)
        import_lock.find_or_insert(other, None, changed(ELSEWHERE))
    import_lock.find_or_insert(other, None, TARGET)


# Attempts


def test_each_attempt_has_a_number_that_defeats_the_one_before(connection: Connection) -> None:
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
def test_an_import_that_is_not_loading_has_no_attempts(connection: Connection, state: str) -> None:
    found = import_lock.find_or_insert(connection, None, TARGET)
    import_lock.begin_attempt(connection, found.import_key)
    set_state(connection, found, state)
    assert import_lock.begin_attempt(connection, found.import_key) is None
    with pytest.raises(LoaderError):
        import_lock.check_attempt(connection, found.import_key, 1)


def test_no_attempt_begins_while_a_part_of_the_one_before_commits(
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
