-- The control DB, version 1: imports and their attempts. Times are ISO 8601 text in UTC with
-- microseconds and +00:00, so that they sort; JSON is that of loader/contract.py. Never edited: files of this version exist.
-- schema_2.sql has the present table import.

-- One row an import, until it is removed or pruned. The columns are the fields of model.Import.
CREATE TABLE import (
    sequence        INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of submission; never reused
    id              TEXT NOT NULL UNIQUE,               -- UUIDv7
    idempotency_key TEXT UNIQUE,                        -- of the submitting request; null: it had none
    job             TEXT NOT NULL,                      -- JSON; its URL contains secrets
    -- Each transition is one UPDATE guarded by the state it starts from; see model.TRANSITIONS.
    state           TEXT NOT NULL CHECK (state IN
                        ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled', 'removing')),
    version         INTEGER NOT NULL CHECK (version >= 1),  -- incremented by each change
    phase           TEXT CHECK (phase IN ('probing', 'loading', 'publishing', 'rolling_back')),  -- null: not known
    progress        TEXT,                               -- JSON; null: no report
    attempt_count   INTEGER NOT NULL,                   -- loaders that were started
    retry_count     INTEGER NOT NULL,                   -- failed attempts that were followed by another, since the
                                                        -- submission or the last retry request
    created_at      TEXT NOT NULL,
    started_at      TEXT,                               -- of the first attempt
    finished_at     TEXT,
    not_before      TEXT,                               -- of the next attempt; null: as soon as a slot is free
    error           TEXT,                               -- JSON; why it failed, waits for its next attempt, or can't
                                                        -- be cleaned up yet
    receipt         TEXT,                               -- JSON

    CHECK (retry_count BETWEEN 0 AND attempt_count),
    CHECK (state NOT IN ('running', 'cancelling', 'succeeded') OR attempt_count > 0),
    CHECK (phase IS NULL OR state IN ('running', 'cancelling')),
    CHECK ((started_at IS NOT NULL) = (attempt_count > 0)),
    CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled', 'removing'))),
    CHECK (not_before IS NULL OR state = 'queued'),
    CHECK (error IS NULL OR state IN ('queued', 'cancelling', 'failed', 'removing')),
    CHECK (error IS NOT NULL OR state <> 'failed'),
    CHECK (receipt IS NULL OR state IN ('succeeded', 'removing')),
    CHECK (receipt IS NOT NULL OR state <> 'succeeded')
) STRICT;
CREATE INDEX import_by_state ON import (state, sequence);  -- the queue, recovery, listings, counts
CREATE INDEX import_by_time ON import (not_before) WHERE not_before IS NOT NULL;  -- when the next import is due

-- One row a loader that was started.
CREATE TABLE attempt (
    import_sequence INTEGER NOT NULL REFERENCES import ON DELETE CASCADE,
    number          INTEGER NOT NULL CHECK (number >= 1),  -- import.attempt_count when it was started
    started_at      TEXT NOT NULL,
    finished_at     TEXT,                               -- null: it runs, or ran when the service was killed
    exit_code       INTEGER,                            -- negative: a signal's number; null: not known
    error           TEXT,                               -- JSON; null: none
    log             TEXT NOT NULL DEFAULT '',           -- the end of its stderr
    PRIMARY KEY (import_sequence, number),
    CHECK (finished_at IS NOT NULL OR (exit_code IS NULL AND error IS NULL))
) STRICT;
CREATE UNIQUE INDEX attempt_running ON attempt (import_sequence) WHERE finished_at IS NULL;  -- one loader an import
