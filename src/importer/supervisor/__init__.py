"""Runs loaders: one attempt at a time for each import, cancel, cleanup, reconciliation."""
