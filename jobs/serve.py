"""Entry point for `ray job submit -- python jobs/serve.py STUDY --host 0.0.0.0`: serves a study's finished adapters until stopped.

Takes what `inoc-ray serve` takes, and exits as it does. The key for a host other than the loopback address comes with the job:
--runtime-env-json '{"env_vars": {"INOC_RAY_API_KEY": "…"}}'.
"""

import sys

from inoc_ray.cli import main

if __name__ == "__main__":
    sys.argv = ["inoc-ray", "serve", *sys.argv[1:]]
    main()
