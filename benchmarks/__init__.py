"""What `make bench` measures: the loader and others side by side, over sizes, dialects and networks, and the service."""
