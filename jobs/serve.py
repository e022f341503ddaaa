"""Entry point for `ray job submit -- python jobs/serve.py STUDY --host 0.0.0.0`: serves the models of studies until stopped.

Takes what `inoc-ray serve` takes, and exits as it does. The key for a host other than the loopback address,
INOC_RAY_API_KEY, has to be in the environment in which Ray was started on the nodes: Ray shows what comes with a job in
--runtime-env-json to whoever lists jobs.
"""

import sys

from inoc_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["inoc-ray", "serve", *sys.argv[1:]]
    main()
