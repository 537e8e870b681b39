"""`python -m moescope.trainer RECIPE ...`: what `moescope train` does, for launchers that start a
module.
"""

import sys

from ..cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
