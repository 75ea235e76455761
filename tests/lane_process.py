"""A process of `gpu.lanes`: each task is what it is to do."""

from __future__ import annotations

import json
import os
import sys
import time

from gpu.lanes import SPENT

for line in sys.stdin:
    task = json.loads(line)
    if task["do"] == "hang":
        time.sleep(600)
    elif task["do"] == "die":
        os._exit(3)
    result = {"pid": os.getpid(), SPENT: task["do"] == "spoil"}
    print(json.dumps(result), flush=True)
