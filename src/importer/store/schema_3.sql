-- The control DB, from version 2 to 3: labels, and the start of a series of attempts.

-- The client's name for the import; null: none.
ALTER TABLE import ADD COLUMN label TEXT;
CREATE INDEX import_by_label ON import (label, sequence) WHERE label IS NOT NULL;  -- listings

-- Of the first attempt since the submission, or since the retry of an import that had ended.
ALTER TABLE import ADD COLUMN series_started_at TEXT;
UPDATE import SET series_started_at = started_at;
