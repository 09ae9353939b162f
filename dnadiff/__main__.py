"""``python -m dnadiff``, for machines where another program owns the name dnadiff."""

import sys

from dnadiff.cli.main import main

# Workers that import the parent's main module, as multiprocessing's do, must not run the command.
if __name__ == "__main__":
    sys.exit(main())
