"""Entry point for `ray job submit -- python jobs/build_data.py SETTING --out FILE.jsonl …`: makes training rows.

Takes what `inoc-ray data build` takes. Submitted again after an interruption, it goes on where it stopped; --out must then be
a file that every node mounts.
"""

import sys

from inoc_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["inoc-ray", "data", "build", *sys.argv[1:]]
    main()
