-- Upgrades a ledger of version 1 to version 2, in one transaction. ledger.sql describes each column.
CREATE TABLE loader.ledger (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version   integer NOT NULL,
    oid_scope text NOT NULL
);
INSERT INTO loader.ledger (version, oid_scope) VALUES (2, '');

ALTER TABLE loader.import ADD digest text, ADD table_oid oid;
ALTER TABLE loader.part ADD table_oid oid;

-- Version 1 did not count records while cutting: by its proof each record is a row or a reject.
ALTER TABLE loader.block ADD record_count bigint;
UPDATE loader.block SET record_count = row_count + reject_count;

ALTER TABLE loader.reject ADD PRIMARY KEY (import_key, byte_offset);
DROP INDEX loader.reject_import_key_line_idx;
