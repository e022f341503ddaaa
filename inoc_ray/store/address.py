"""Which file system the address of a storage names: a folder, or a bucket with a prefix."""

from __future__ import annotations

import os
import re
from pathlib import Path

from inoc_ray.errors import shown
from inoc_ray.store.connection import SCHEMES
from inoc_ray.store.filesystem import Filesystem, LocalFilesystem
from inoc_ray.store.object_filesystem import ObjectFilesystem

_URI = re.compile(r"[a-z][a-z0-9+.-]*:/|\w[\w+.-]*://|(s3|gs|az|abfss?):")
"""The address of a storage that is no folder, or was to be one."""
_VARIABLE = re.compile(r"(^|/)\$\{?[A-Za-z_]|\$\{")
"""What a shell would put in, as in /scratch/$USER/runs; a folder that is really called so is one."""
_FORMS = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX"


def is_bucket(address: str) -> bool:
    """Return True for the address of an object store, False for a folder."""
    return _URI.match(address) is not None


def check_storage(address: str) -> str:
    """Return the address of a storage as it is. Raises ValueError for an empty one, and for one that names no storage."""
    if not address.strip():
        raise ValueError("the name of the folder is empty; write a folder or s3://BUCKET/PREFIX")
    if _VARIABLE.search(address) and (is_bucket(address) or not os.path.isdir(address)):
        raise ValueError(
            f"{shown(address)}: nothing is put in for a variable; write the path out, or ~ for your home folder"
        )
    if not is_bucket(address):
        return address
    scheme, _, rest = address.partition("://")
    bucket, _, prefix = rest.partition("/")
    if not rest and (named := address.partition(":")[0]) in SCHEMES and address != f"{named}://":
        meant = f"{named}://{address.partition(':')[2].lstrip('/')}"
        raise ValueError(f"{shown(_without_secrets(address))}: no storage; write {shown(_without_secrets(meant))}")
    if scheme not in SCHEMES and scheme.lower() in SCHEMES:
        raise ValueError(
            f"{shown(_without_secrets(address))}: no storage; write {shown(_without_secrets(f'{scheme.lower()}://{rest}'))}"
        )
    if scheme not in SCHEMES or not bucket:
        raise ValueError(
            f"{shown(_without_secrets(address))}: no storage; write a folder (local or a shared mount) or one of {_FORMS}"
        )
    if re.search(r"[@?#:\s]", bucket if scheme in ("s3", "gs", "az") else "") or re.search(r"[?#\s]", prefix):
        raise ValueError(
            f"{shown(_without_secrets(address))}: holds more than a bucket and a prefix; credentials and endpoint belong in the "
            "environment, and neither has a '?', a '#' or white space"
        )
    if any(part in ("", ".", "..") for part in prefix.rstrip("/").split("/")) and prefix:
        raise ValueError(f"{shown(_without_secrets(address))}: a prefix has no empty parts, '.' or '..'")
    return address


def _without_secrets(address: str) -> str:
    # A key may have a slash in it, as those of AWS do.
    return re.sub(r"[?#].*", "?…", re.sub(r"//.*@", "//…@", address))


def open_filesystem(address: Path | str) -> Filesystem:
    """Return the file system that an address names. Nothing is read or written, and nobody is asked."""
    text = str(address) if isinstance(address, str) else os.fspath(address)
    if isinstance(address, str) and is_bucket(text):
        return ObjectFilesystem(check_storage(text).rstrip("/"))
    # The function leaves an unknown `~user` unchanged; the method would raise.
    return LocalFilesystem(Path(os.path.expanduser(text)).absolute())
