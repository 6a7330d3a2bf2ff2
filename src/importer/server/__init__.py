"""The service's process: socket, signals, connections, and what it opens and closes."""
