"""`python -m sft.doctor`: see the package."""

import sys

from sft.doctor import main

sys.exit(main())
