"""`python -m moescope.studies ...`: what `moescope study` does, for launchers that start a
module.
"""

import sys

from ..cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["study"]
    main()
