-- The control DB, from version 1 to 2: the table import is rebuilt, as SQLite can't change a CHECK
-- (https://www.sqlite.org/lang_altertable.html#making_other_kinds_of_table_schema_changes). Foreign keys are off
-- during a migration: with them on, DROP TABLE would delete all attempts.

-- One row an import, until it is removed or pruned. The columns are the fields of model.Import, and `submitted`.
CREATE TABLE import_2 (
    sequence        INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of submission; never reused
    id              TEXT NOT NULL UNIQUE,               -- UUIDv7
    idempotency_key TEXT UNIQUE,                        -- of the submitting request; null: it had none
    job             TEXT NOT NULL,                      -- JSON; its URL contains secrets
    submitted       TEXT,                               -- JSON of the submitted job, if a retry has changed it since;
                                                        -- null: `job` is unchanged
    -- Each transition is one UPDATE guarded by the state it starts from; see model.TRANSITIONS.
    state           TEXT NOT NULL CHECK (state IN
                        ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled', 'removing')),
    version         INTEGER NOT NULL CHECK (version >= 1),  -- incremented by each change
    phase           TEXT CHECK (phase IN ('probing', 'loading', 'indexing', 'publishing', 'rolling_back')),
                                                        -- null: not known
    progress        TEXT,                               -- JSON; null: no report
    attempt_count   INTEGER NOT NULL,                   -- loaders that were started
    retry_count     INTEGER NOT NULL,                   -- failed attempts that were followed by another, since the
                                                        -- submission or the last retry request
    locked_count    INTEGER NOT NULL CHECK (locked_count >= 0),  -- consecutive attempts that failed with table_locked
    keeps_staging   INTEGER NOT NULL CHECK (keeps_staging IN (0, 1)),  -- 1: it failed, and its staging is kept for a
                                                        -- retry
    created_at      TEXT NOT NULL,
    started_at      TEXT,                               -- of the first attempt
    finished_at     TEXT,
    not_before      TEXT,                               -- of the next attempt; null: as soon as a slot is free
    error           TEXT,                               -- JSON; why it failed, waits for its next attempt or for the
                                                        -- database, or can't be cleaned up yet
    receipt         TEXT,                               -- JSON

    CHECK (retry_count BETWEEN 0 AND attempt_count),
    CHECK (state NOT IN ('running', 'cancelling', 'succeeded') OR attempt_count > 0),
    CHECK (phase IS NULL OR state IN ('running', 'cancelling')),
    CHECK ((started_at IS NOT NULL) = (attempt_count > 0)),
    CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled', 'removing'))),
    CHECK (not_before IS NULL OR state = 'queued'),
    CHECK (error IS NULL OR state IN ('queued', 'running', 'cancelling', 'failed', 'removing')),
    CHECK (error IS NOT NULL OR state <> 'failed'),
    CHECK (keeps_staging = 0 OR state = 'failed'),
    CHECK (receipt IS NULL OR state IN ('succeeded', 'removing')),
    CHECK (receipt IS NOT NULL OR state <> 'succeeded')
) STRICT;
-- Version 1 kept the staging of retryable failures.
INSERT INTO import_2 (sequence, id, idempotency_key, job, state, version, phase, progress, attempt_count, retry_count,
                      locked_count, keeps_staging, created_at, started_at, finished_at, not_before, error, receipt)
    SELECT sequence, id, idempotency_key, job, state, version, phase, progress, attempt_count, retry_count,
           0, state = 'failed' AND json_extract(error, '$.retryable'),
           created_at, started_at, finished_at, not_before, error, receipt
    FROM import;
-- The counter of AUTOINCREMENT, which also covers deleted rows.
DELETE FROM sqlite_sequence WHERE name = 'import_2';
INSERT INTO sqlite_sequence (name, seq) SELECT 'import_2', seq FROM sqlite_sequence WHERE name = 'import';
DROP TABLE import;
ALTER TABLE import_2 RENAME TO import;
CREATE INDEX import_by_state ON import (state, sequence);  -- the queue, recovery, listings, counts
CREATE INDEX import_by_time ON import (not_before) WHERE not_before IS NOT NULL;  -- when the next import is due
