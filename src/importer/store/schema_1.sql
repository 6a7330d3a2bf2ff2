-- The control DB, version 1: what was asked for, and where it stands. Times are ISO 8601 text in UTC with
-- microseconds and +00:00, so that they sort; JSON is that of loader/contract.py. Never edited: files of this version exist.
-- schema_2.sql has the present table import.

-- One row an import, until it is removed or pruned. The columns are the fields of imports.Import.
CREATE TABLE import (
    sequence        INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of submission; a number is never used again
    id              TEXT NOT NULL UNIQUE,               -- UUIDv7
    idempotency_key TEXT UNIQUE,                        -- of the request that submitted it; null: none was sent
    job             TEXT NOT NULL,                      -- JSON; the whole URL, with what is secret in it
    -- Each move is one UPDATE guarded by the state it starts from; imports.MOVES lists them.
    state           TEXT NOT NULL CHECK (state IN
                        ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled', 'removing')),
    version         INTEGER NOT NULL CHECK (version >= 1),  -- grows with each change
    phase           TEXT CHECK (phase IN ('probing', 'loading', 'publishing', 'rolling_back')),  -- null: not known
    progress        TEXT,                               -- JSON; null: nothing was reported
    attempt_count   INTEGER NOT NULL,                   -- loaders that were started
    retry_count     INTEGER NOT NULL,                   -- attempts that failed and were put back into the queue, since
                                                        -- the import was submitted or somebody asked for a retry
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
CREATE INDEX import_by_time ON import (not_before) WHERE not_before IS NOT NULL;  -- when to look at the queue again

-- One row a loader that was started.
CREATE TABLE attempt (
    import_sequence INTEGER NOT NULL REFERENCES import ON DELETE CASCADE,
    number          INTEGER NOT NULL CHECK (number >= 1),  -- import.attempt_count when it was started
    started_at      TEXT NOT NULL,
    finished_at     TEXT,                               -- null: it runs, or nobody has looked since the service ended
    exit_code       INTEGER,                            -- negative: a signal's number; null: nobody saw it end
    error           TEXT,                               -- JSON; null: none
    log             TEXT NOT NULL DEFAULT '',           -- the end of its stderr
    PRIMARY KEY (import_sequence, number),
    CHECK (finished_at IS NOT NULL OR (exit_code IS NULL AND error IS NULL))
) STRICT;
CREATE UNIQUE INDEX attempt_running ON attempt (import_sequence) WHERE finished_at IS NULL;  -- one loader an import
