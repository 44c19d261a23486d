"""`python -m service.cli` is `cangate`."""

from service.cli.main import main

main()
