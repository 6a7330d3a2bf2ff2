"""Programs that load the same file, and how each is set up."""
