"""What `tracking_uri` may name: a server or a database; known without asking anybody."""

from __future__ import annotations

from inoc_ray.errors import hide_password

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
"""Kinds of databases that MLflow keeps its runs in."""


def kind_of(tracking_uri: str) -> str:
    """Return the scheme without a driver (`mysql` of `mysql+pymysql://…`); empty for what is no address."""
    scheme, separator, _ = tracking_uri.strip().partition("://")
    return scheme.partition("+")[0] if separator else ""


def check_kind(tracking_uri: str) -> str:
    """Return the value. Raises ValueError, which shows no password, unless it names a server or a database."""
    if kind_of(tracking_uri) not in ("http", "https", *DATABASES):
        databases = ", ".join(f"{name}://" for name in DATABASES)
        raise ValueError(
            f"{hide_password(tracking_uri)!r} cannot store MLflow runs; give the address of a tracking server (http://HOST:5000) "
            f"or a database ({databases}…), or leave it out for an SQLite file in the storage"
        )
    return tracking_uri
