"""`python -m sft.doctor`: see the package."""

import sys

from sft.doctor import main

if __name__ == "__main__":
    sys.exit(main())
