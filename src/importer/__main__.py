"""`python -m importer`: the same as the command `importer`."""

from importer.cli.main import main

main()
