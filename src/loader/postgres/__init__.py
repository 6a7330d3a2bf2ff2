"""Everything in SQL: connections, the ledger, the target table, publish and removal."""
