"""`python -m loader`: the same as the command `loader`."""

from loader.cli.main import main

main()
