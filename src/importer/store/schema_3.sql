-- The control DB, from version 2 to 3: labels.

-- The client's name for the import; null: none.
ALTER TABLE import ADD COLUMN label TEXT;
CREATE INDEX import_by_label ON import (label, sequence) WHERE label IS NOT NULL;  -- listings
