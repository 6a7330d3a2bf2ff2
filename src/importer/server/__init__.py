"""The service's process: socket, signals, client connections, start and stop."""
