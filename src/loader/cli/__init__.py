"""The command line `loader`."""
