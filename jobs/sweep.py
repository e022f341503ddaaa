"""Entry point for `ray job submit -- python jobs/sweep.py STUDY`: trains, evaluates and compares what is missing.

Takes what `inoc-ray run` takes, and exits as it does.
"""

import sys

from inoc_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["inoc-ray", "run", *sys.argv[1:]]
    main()
