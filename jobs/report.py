"""Entry point for `ray job submit -- python jobs/report.py STUDY`: writes the report of what is stored.

Takes what `inoc-ray report` takes, and exits as it does.
"""

import sys

from inoc_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["inoc-ray", "report", *sys.argv[1:]]
    main()
