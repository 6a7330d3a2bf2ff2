"""The command line `importer`."""
