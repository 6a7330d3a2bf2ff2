"""A database as people see it: its name, host and port, or the folder of the embedded server; no user, no password."""

from __future__ import annotations

from pathlib import Path

from loader.embedded.cluster import data_folder_of


def embedded_text(data_folder: Path) -> str:
    """Return the text for the embedded server of a folder."""
    return f"embedded, in {data_folder}"


def database_text(host: str, port: int | str, name: str) -> str:
    """Return the text for a database at a host, which may be the folder of a socket; an empty port is not known."""
    if (data_folder := data_folder_of(Path(host))) is not None:
        return embedded_text(data_folder)
    if host.startswith(("/", "@")):
        return f"{name} at {host}, port {port}"
    shown = f"[{host}]" if ":" in host else host
    return f"{name} at {shown}:{port}" if port else f"{name} at {shown}"
