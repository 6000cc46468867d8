"""`python -m DWISuperResLib` is `dwi-superres`."""

import sys

from .apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
