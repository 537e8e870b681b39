"""The process that comes after a run's death: brings in what lies in its journal, as the service
does.

Run as `python a_successor.py URL HOME [URL HOME ...]`; prints one line for each journal that it
found, `FOLDER True` where nothing is left in it.
"""

import sys
from pathlib import Path

from moescope.platform.catch_up import catch_up, journals_left_behind
from moescope.platform.sql_sink import SqlSink

if __name__ == "__main__":
    words = sys.argv[1:]
    for url, home in zip(words[::2], words[1::2], strict=True):
        for folder in journals_left_behind(Path(home)):
            is_done = catch_up(folder, lambda name, url=url: SqlSink(url), 60.0)
            sys.stdout.write(f"{folder} {is_done}\n")
