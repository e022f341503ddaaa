"""Entry point for `ray job submit -- python jobs/finetune.py STUDY`: trains what is missing; samples and judges nothing.

Takes what `inoc-ray finetune` takes, and exits as it does.
"""

import sys

from inoc_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["inoc-ray", "finetune", *sys.argv[1:]]
    main()
