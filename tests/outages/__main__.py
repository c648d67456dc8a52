"""``python -m tests.outages BROKER FAULT``: play one fault in short, and print the cell.

For a cut, in a network of its own: ``unshare --net``, or as anybody but root
``unshare --user --map-root-user --net``.
"""

import json
import sys
from dataclasses import asdict

from tests.outages.cells import SHORT, run_cell

if __name__ == "__main__":
    cell = run_cell(sys.argv[1], sys.argv[2], SHORT)
    sys.stdout.write(json.dumps(asdict(cell)) + "\n")
    sys.exit(not cell.is_clean)
