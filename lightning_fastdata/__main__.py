"""Run the command line: ``python -m lightning_fastdata``."""

import sys

from lightning_fastdata.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
