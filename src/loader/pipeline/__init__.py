"""One import: probe, lock, load what is missing, publish or roll back."""
