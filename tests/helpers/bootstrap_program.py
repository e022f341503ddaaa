"""What `ray up FILE` does before it talks to a machine: complete the file, prepare the account, write the head's own file.

python bootstrap_program.py FILE
"""

import shutil
import sys
from pathlib import Path

import boto3
import yaml
from ray.autoscaler._private.commands import _bootstrap_config, _set_up_config_for_head_node
from ray.autoscaler._private.providers import _get_node_provider

ACCOUNT = "123456789012"


def main(path: Path) -> None:
    """Fill in a user's values, make what the user has made before, and go on as `ray up` does."""
    image = boto3.client("ec2", "us-east-1").describe_images()["Images"][0]["ImageId"]
    text = path.read_text().replace("ami-REPLACE", image).replace("iam::REPLACE:", f"iam::{ACCOUNT}:")
    iam = boto3.client("iam")
    for side in ("head", "worker"):
        iam.create_instance_profile(InstanceProfileName=f"inoc-ray-{side}")
    config = _bootstrap_config(yaml.safe_load(text), no_config_cache=True)
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    _, written = _set_up_config_for_head_node(config, provider, False)
    shutil.copy(written.name, Path("~/ray_bootstrap_config.yaml").expanduser())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
