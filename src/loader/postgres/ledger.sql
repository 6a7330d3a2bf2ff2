-- The ledger, version 2: the only record of what is loaded. Created once per database, in one transaction.

-- One row: the version of these tables, and the database whose object identifiers (OIDs) they store.
CREATE TABLE loader.ledger (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version   integer NOT NULL,
    oid_scope text NOT NULL  -- system identifier, database, ledger table; a restored backup has other values
);
INSERT INTO loader.ledger (version, oid_scope) VALUES (2, '');

-- One row per import, until it is rolled back or removed.
CREATE TABLE loader.import (
    import_key   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- trips.import_key of its rows
    id           uuid NOT NULL UNIQUE,
    -- loading -> published -> removing, loading -> removing, and back to published if it can't be removed;
    -- each transition is one compare-and-set UPDATE
    state        text NOT NULL DEFAULT 'loading' CHECK (state IN ('loading', 'published', 'removing')),
    attempt      integer NOT NULL DEFAULT 0,  -- the fencing token: a part of an older attempt can't commit
    mode         text NOT NULL CHECK (mode IN ('append', 'replace')),
    location     text NOT NULL,               -- without credentials and query
    source_bytes bigint,                      -- as transferred; null: not announced
    validator    text,                        -- ETag, Last-Modified, or a path's inode and time; null: none
    data_start   bigint NOT NULL,             -- size of the header
    column_count smallint NOT NULL,           -- fields per record
    created_at   timestamptz NOT NULL DEFAULT now(),
    receipt      jsonb,                       -- of a published import
    digest       text,                        -- SHA-256 of the bytes that the probe reads; null: ledger version 1
    table_oid    oid,                         -- of loader.import_<import_key>; null: not created yet
    CHECK ((state = 'published') <= (receipt IS NOT NULL))
);

-- Numbers parts over all imports and attempts, so that a killed loader's open part never has a new part's name.
CREATE SEQUENCE loader.part_number AS integer;

-- One row per committed part: the table loader.import_<import_key>_part_<part>.
CREATE TABLE loader.part (
    part         integer PRIMARY KEY DEFAULT nextval('loader.part_number'),  -- trips.part of its rows
    import_key   integer NOT NULL REFERENCES loader.import,
    row_count    bigint,                      -- counted by the server; null only within the part's transaction
    committed_at timestamptz NOT NULL DEFAULT now(),
    table_oid    oid                          -- of that table; null only within the part's transaction
);
CREATE INDEX ON loader.part (import_key);

-- One row per block: which bytes of the decompressed file are in which part.
CREATE TABLE loader.block (
    import_key    integer NOT NULL,
    part          integer NOT NULL REFERENCES loader.part ON DELETE CASCADE,
    byte_start    bigint NOT NULL,
    byte_end      bigint NOT NULL CHECK (byte_end > byte_start),
    line_count    bigint NOT NULL,            -- physical lines in it
    row_count     bigint NOT NULL,            -- rows sent to the server
    reject_count  bigint NOT NULL,
    record_count  bigint,                     -- counted while cutting, before the encoder reads a field
    PRIMARY KEY (import_key, byte_start)      -- no byte is loaded twice
);
CREATE INDEX ON loader.block (part);

-- One row per reject. Kept with its import.
CREATE TABLE loader.reject (
    import_key  integer NOT NULL,
    part        integer NOT NULL REFERENCES loader.part ON DELETE CASCADE,
    line        bigint NOT NULL,              -- physical line of the file; the header is line 1
    byte_offset bigint NOT NULL,              -- of the record, in the decompressed file
    column_name text,                         -- null: the whole row is invalid
    value       text,                         -- the beginning of the invalid field or row
    reason      text NOT NULL,
    original    bytea NOT NULL,               -- the record's bytes, without its line end
    PRIMARY KEY (import_key, byte_offset)     -- a publication forbids DELETE on a table without a key
);
CREATE INDEX ON loader.reject (part);
