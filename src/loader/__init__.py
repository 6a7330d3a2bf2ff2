"""Imports one huge CSV into Postgres: fetch, encode, stage, publish."""
