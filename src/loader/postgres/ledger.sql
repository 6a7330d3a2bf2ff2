-- The ledger, version 2: what is loaded, and nothing else says it. Made once per database, in one transaction.

-- One row: the version of these tables, and the database whose object identifiers (OIDs) they hold.
CREATE TABLE loader.ledger (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version   integer NOT NULL,
    oid_scope text NOT NULL  -- system identifier, database and ledger table; a restored backup has another one
);
INSERT INTO loader.ledger (version, oid_scope) VALUES (2, '');

-- One row an import, until it is rolled back or removed.
CREATE TABLE loader.import (
    import_key   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- trips.import_key of its rows
    id           uuid NOT NULL UNIQUE,
    -- loading -> published -> removing, or loading -> removing; each move is one guarded UPDATE
    state        text NOT NULL DEFAULT 'loading' CHECK (state IN ('loading', 'published', 'removing')),
    attempt      integer NOT NULL DEFAULT 0,  -- counts loaders; a part of an older one can't commit
    mode         text NOT NULL CHECK (mode IN ('append', 'replace')),
    location     text NOT NULL,               -- without credentials and query
    source_bytes bigint,                      -- as transferred; null: not announced
    validator    text,                        -- ETag, Last-Modified, or what a file system tells; null: none
    data_start   bigint NOT NULL,             -- bytes of the header
    column_count smallint NOT NULL,           -- fields of a record
    created_at   timestamptz NOT NULL DEFAULT now(),
    receipt      jsonb,                       -- of a published import
    digest       text,                        -- SHA-256 of the bytes that the probe reads; null: of version 1
    table_oid    oid,                         -- of loader.import_<import_key> as made here; null: not made yet
    CHECK ((state = 'published') <= (receipt IS NOT NULL))
);

-- Numbers parts over all imports and attempts: what a dying loader still holds never has the name of a new part.
CREATE SEQUENCE loader.part_number AS integer;

-- One row a committed part: the table loader.import_<import_key>_part_<part>.
CREATE TABLE loader.part (
    part         integer PRIMARY KEY DEFAULT nextval('loader.part_number'),  -- trips.part of its rows
    import_key   integer NOT NULL REFERENCES loader.import,
    row_count    bigint,                      -- as the server counted them; null only within the part's transaction
    committed_at timestamptz NOT NULL DEFAULT now(),
    table_oid    oid                          -- of that table; null only within the part's transaction
);
CREATE INDEX ON loader.part (import_key);

-- One row a block: which bytes of the decompressed file are in which part.
CREATE TABLE loader.block (
    import_key    integer NOT NULL,
    part          integer NOT NULL REFERENCES loader.part ON DELETE CASCADE,
    byte_start    bigint NOT NULL,
    byte_end      bigint NOT NULL CHECK (byte_end > byte_start),
    line_count    bigint NOT NULL,            -- physical lines in it
    row_count     bigint NOT NULL,            -- rows sent to the server
    reject_count  bigint NOT NULL,
    record_count  bigint,                     -- records counted while cutting, before anything is encoded
    PRIMARY KEY (import_key, byte_start)      -- no byte is loaded twice
);
CREATE INDEX ON loader.block (part);

-- One row a reject. Kept with its import.
CREATE TABLE loader.reject (
    import_key  integer NOT NULL,
    part        integer NOT NULL REFERENCES loader.part ON DELETE CASCADE,
    line        bigint NOT NULL,              -- physical line of the file; the header is line 1
    byte_offset bigint NOT NULL,              -- of the record, in the decompressed file
    column_name text,                         -- null: the whole row is at fault
    value       text,                         -- the field, or the row, at fault: its beginning
    reason      text NOT NULL,
    original    bytea NOT NULL,               -- the record's bytes, without its line end
    PRIMARY KEY (import_key, byte_offset)     -- a table without a key can't be deleted from once it is published
);
CREATE INDEX ON loader.reject (part);
