"""The control DB: imports and attempts in SQLite."""
