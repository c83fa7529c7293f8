"""Inspect this machine: versions, packages, settings, the mirror. Creates nothing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cas_cache.config.settings import expanded
from cas_cache.config.urls import EXTRAS, PACKAGES, is_url, without_credentials
from cas_cache.display import pluralize
from cas_cache.doctor.report import Status
from cas_cache.errors import CasCacheError
from cas_cache.mirror import Mirror

if TYPE_CHECKING:
    from cas_cache.config.settings import Settings
    from cas_cache.doctor.report import DoctorReport

LITTLE_ROOM = 10**9
"""Free bytes on the mirror's disk below which a pull may fail: a million rows of 768 float16 are 1.5 GB."""

NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.gcsfuse", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "glusterfs",
    "fuse.glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs",
}  # fmt: skip
"""Network file systems, by their names in /proc/mounts."""

MOUNTS = Path("/proc/mounts")


def examine_machine(report: DoctorReport, settings: Settings, url: str | None) -> None:
    """Check versions, packages and settings.

    Args:
        report: The report that collects findings.
        settings: The settings in force.
        url: The repository's URL; None without a repository.
    """
    report.ok(
        "version", f"cas_cache {_version('cas-cache')}, Python {platform.python_version()}, {platform.platform()}."
    )
    _packages(report, url)
    shown = None if settings.remote is None else without_credentials(settings.remote)
    switches = [name for name in ("offline", "read_only") if getattr(settings, name)]
    report.ok(
        "settings",
        f"CAS_CACHE_DIR={settings.directory}, CAS_CACHE_REMOTE={shown or 'not set'}; "
        f"{' and '.join(f'CAS_CACHE_{name.upper()}' for name in switches) or 'no switch'} on.",
    )


def examine_mirror(report: DoctorReport, directory: Path) -> str | None:
    """Check the mirror: its marker, its permissions, and its disk.

    Returns:
        The id of the repository that it belongs to; None if it was never connected to one.
    """
    directory = expanded(directory).absolute()
    repository = None
    if _is_used(directory):
        repository = _examine_existing(report, directory)
    else:
        _examine_new(report, directory)
    _examine_disk(report, _nearest(directory))
    return repository


def _packages(report: DoctorReport, url: str | None) -> None:
    versions = {name: _version(name) for name in ("fsspec", "zarr", "numpy", "s3fs", "gcsfs", "adlfs", "mteb")}
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    protocol = url.partition("://")[0].lower() if url is not None and is_url(url) else ""
    extra = EXTRAS.get(protocol)
    if extra is not None and not versions[PACKAGES[extra]]:
        report.add(
            "packages",
            Status.FAIL,
            f"{protocol}:// needs {PACKAGES[extra]}, which is not installed; there are {shown}.",
            "The repository cannot be reached.",
            f"pip install {PACKAGES[extra]}",
        )
    else:
        report.ok("packages", f"{shown}.")


def _examine_existing(report: DoctorReport, directory: Path) -> str | None:
    try:
        mirror = Mirror(directory, create=False)
        repository, met = mirror.repository, mirror.repository_url
        count = len(mirror.ids())
    except CasCacheError as err:
        report.error("mirror", err, "Nothing can be looked up or kept here.")
        return None
    except OSError as err:
        report.add(
            "mirror",
            Status.FAIL,
            f"{directory} could not be read ({err}).",
            "Nothing can be looked up or kept here.",
            "Make it readable, or name another CACHE.",
        )
        return None
    if not _writable(directory):
        report.add(
            "mirror",
            Status.FAIL,
            f"{directory} is a mirror that you may not write.",
            "Nothing can be encoded or pulled into it.",
            "Make it yours (chown), or set CAS_CACHE_DIR to a directory of your own.",
        )
    else:
        belongs = f"belongs to the repository {repository[:8]}, met at {met}" if repository else "has met no repository"
        report.ok("mirror", f"{directory}: {pluralize(count, 'namespace')}, readable, writable, {belongs}.")
    return repository


def _examine_new(report: DoctorReport, directory: Path) -> None:
    nearest = _nearest(directory)
    if nearest.is_dir() and _writable(nearest):
        report.ok("mirror", f"{directory} is not there yet; the first run makes it.")
    else:
        report.add(
            "mirror",
            Status.FAIL,
            f"{directory} is not there, and you may not make it in {nearest}.",
            "Nothing can be kept.",
            "Set CAS_CACHE_DIR, or name as CACHE, a directory that you may write.",
        )


def _examine_disk(report: DoctorReport, directory: Path) -> None:
    try:
        free = shutil.disk_usage(directory).free
    except OSError as err:
        report.note("mirror-disk", f"The disk of {directory} does not say how much room there is ({err}).")
        return
    file_system = file_system_of(directory)
    shown = f"{directory} is on {file_system or 'a file system of unknown kind'}, {free / 1e9:.1f} GB free."
    if file_system in NETWORK:
        report.add(
            "mirror-disk",
            Status.WARN,
            shown,
            "Another machine serves it: look-ups wait for the network, and its locks may not hold between machines.",
            "Set CAS_CACHE_DIR to a local disk; colleagues share the repository, not the mirror.",
        )
    elif free < LITTLE_ROOM:
        report.add("mirror-disk", Status.WARN, shown, "A pull may not fit.", "Make room, or set CAS_CACHE_DIR.")
    else:
        report.ok("mirror-disk", shown)


def file_system_of(directory: Path) -> str:
    """Return the kind of file system that a directory is on; empty if the system does not report it."""
    try:
        lines = [line.split() for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return ""
    resolved, file_system, longest = directory.resolve(), "", -1
    for fields in lines:
        mounted = Path(fields[1].replace(r"\040", " "))
        # If two file systems are mounted at one path, the later one is visible.
        if resolved.is_relative_to(mounted) and len(mounted.parts) >= longest:
            file_system, longest = fields[2], len(mounted.parts)
    return file_system


def _is_used(directory: Path) -> bool:
    """Return True if a path is unreadable, or is anything but a directory without visible files."""
    try:
        return directory.exists() and not (
            directory.is_dir() and all(path.name.startswith(".") for path in directory.iterdir())
        )
    except OSError:
        return True


def _nearest(directory: Path) -> Path:
    for path in (directory, *directory.parents):
        try:
            if path.exists():
                return path
        except OSError:
            continue
    return directory


def _writable(directory: Path) -> bool:
    return os.access(directory, os.R_OK | os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def may_fork() -> bool:
    """Return True if a process with threads can fork safely. On macOS, system libraries end the child."""
    return sys.platform.startswith("linux")
