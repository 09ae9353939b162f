"""``python -m dnadiff``, for machines where another program owns the name dnadiff."""

import sys

from dnadiff.cli.main import main

sys.exit(main())
