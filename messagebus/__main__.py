"""Run the command line as ``python -m messagebus``."""

import sys

from messagebus.cli import main

if __name__ == "__main__":
    sys.exit(main())
