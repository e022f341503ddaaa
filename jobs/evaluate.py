"""Entry point for `ray job submit -- python jobs/evaluate.py STUDY`: samples and judges what is missing; trains nothing.

Takes what `inoc-ray evaluate` takes, and exits as it does.
"""

import sys

from inoc_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["inoc-ray", "evaluate", *sys.argv[1:]]
    main()
