"""`python -m sparkle_lite` is the console script `sparkle-lite`."""

import sys

from sparkle_lite.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
