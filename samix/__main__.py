"""``python -m samix``."""

import sys

from samix.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
