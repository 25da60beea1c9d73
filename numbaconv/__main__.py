"""``python -m numbaconv`` is the command ``numbaconv``."""

import sys

from numbaconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
