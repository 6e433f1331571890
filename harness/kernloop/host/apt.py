# SPDX-License-Identifier: Apache-2.0
"""Debian's archive through apt with a state of its own: any suite, signature-checked, the system left alone.

apt reads our sources list, keeps its lists in our cache, and believes that nothing is installed; so no root is needed
and no configuration of the machine changes. The mirror is the one that the machine itself uses.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kernloop.errors import HarnessError
from kernloop.host import process, progress
from kernloop.host.cache import exclusive, need_space
from kernloop.host.paths import cache_dir

__all__ = [
    "KEYRING",
    "SUITES",
    "Package",
    "available",
    "candidates",
    "download",
    "download_release",
    "download_with_dependencies",
    "mirror",
    "refresh",
]

SUITES = ("bookworm", "trixie", "trixie-backports", "sid")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_MAX_AGE = 24 * 3600.0
_RETRY = 600.0
_MIB_NEEDED = 150
_OFFLINE = re.compile(r"Could not resolve|Temporary failure|Could not connect|Failed to fetch|Network is unreachable")


@dataclass(frozen=True)
class Package:
    """One version of a binary package in the archive; `size` is the download in bytes."""

    name: str
    version: str
    source: str
    source_version: str
    size: int


def available() -> str | None:
    """Why Debian's archive cannot be used on this machine; None when it can."""
    for tool in ("apt-get", "dpkg-deb"):
        if not any((Path(folder) / tool).exists() for folder in ("/usr/bin", "/bin")):
            return f"{tool} is not installed (not a Debian or Ubuntu machine?)"
    if not KEYRING.exists():
        return "the package debian-archive-keyring is not installed"
    if mirror() is None:
        return "no Debian mirror in apt's sources; set KERNLOOP_DEBIAN_MIRROR to its address"
    return None


def mirror() -> str | None:
    """The machine's own Debian mirror, from one-line (sources.list(5)) and deb822 entries; None without one."""
    if asked := os.environ.get("KERNLOOP_DEBIAN_MIRROR"):
        return asked.rstrip("/")
    etc = Path("/etc/apt")
    for file in [
        *sorted(etc.glob("sources.list.d/*.sources")),
        etc / "sources.list",
        *etc.glob("sources.list.d/*.list"),
    ]:
        with contextlib.suppress(OSError):
            text = file.read_text(errors="replace")
            entries = re.split(r"\n\s*\n", text) if file.suffix == ".sources" else text.splitlines()
            if found := next(filter(None, map(_debian_in, entries)), None):
                return found
    return None


# A third party's repository may lie under /debian as well, but signs with its own key or has other components.
def _debian_in(entry: str) -> str | None:
    lines = [line for line in entry.splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines)
    signed = re.search(r"signed-by[:=]\s*([^\s\]]+)", text, re.I)
    if re.search(r"^Enabled:\s*no", text, re.I | re.M) or not re.search(r"\bmain\b", text):
        return None
    if signed and "debian-archive" not in signed[1]:
        return None
    address = re.search(r"^(?:deb\s.*?|URIs:\s*.*?)(\w+://\S+/debian)/?(?:\s|$)", text, re.M)
    return address[1] if address else None


def refresh(*, max_age: float = _MAX_AGE) -> None:
    """Fetch the suites' lists unless they are younger than `max_age` seconds. Raises HarnessError."""
    stamp = _root() / "fresh"
    with _locked("fetching Debian's package lists"):
        if _age(stamp) < max_age:
            return
        progress.say("fetching Debian's package lists")
        try:
            need_space(_root(), _MIB_NEEDED, "fetching Debian's package lists")
            _configure()
            _apt("apt-get", "update", what="fetching Debian's package lists", seconds=300)
        except HarnessError:
            if not stamp.exists():
                raise
            # Old lists serve as well as new ones for what they name; the network is asked again later.
            os.utime(stamp, (time.time(), time.time() - max_age + _RETRY))
            return
        stamp.write_text(f"{time.time():.0f}\n")


def candidates(pattern: str) -> list[Package]:
    """All versions of all packages whose whole name matches the regex `pattern`; remembered until the next refresh."""
    refresh()
    with _locked("reading Debian's package lists"):
        memo = _root() / f"memo-{hashlib.sha256(pattern.encode()).hexdigest()[:12]}.json"
        if memo.exists() and memo.stat().st_mtime >= (_root() / "fresh").stat().st_mtime:
            return [Package(**fields) for fields in json.loads(memo.read_text())]
        names = [
            name
            for name in _apt("apt-cache", "pkgnames", what="apt-cache", seconds=60).split()
            if re.fullmatch(pattern, name)
        ]
        text = _apt("apt-cache", "show", *names, what="apt-cache", seconds=60) if names else ""
        found = sorted(
            {_package(block) for block in text.split("\n\n") if block.strip()}, key=lambda p: (p.name, p.version)
        )
        staged = memo.with_suffix(".new")
        staged.write_text(json.dumps([asdict(package) for package in found]))
        staged.rename(memo)
    return found


def download(packages: Sequence[Package], folder: Path) -> list[Path]:
    """Fetch the .debs of exactly these packages into `folder`."""
    with _locked("downloading packages"):
        wanted = [f"{package.name}={package.version}" for package in packages]
        _apt(
            "apt-get",
            "download",
            *wanted,
            what=f"downloading {' '.join(p.name for p in packages)}",
            seconds=1200,
            cwd=folder,
        )
    return sorted(folder.glob("*.deb"))


def download_release(name: str, suite: str, folder: Path) -> None:
    """Fetch the .deb of `name` alone, as `suite` has it, into `folder`."""
    with _locked("downloading packages"):
        _apt("apt-get", "download", f"{name}/{suite}", what=f"downloading {name}", seconds=600, cwd=folder)


def download_with_dependencies(names: Sequence[str], suite: str, folder: Path) -> list[Path]:
    """Fetch the .debs of `names` and of all they depend on from `suite` into `folder`."""
    refresh()
    (folder / "partial").mkdir(parents=True, exist_ok=True)
    with _locked("downloading packages"):
        _apt(
            "apt-get",
            "-y",
            "-d",
            "-t",
            suite,
            "-o",
            f"Dir::Cache::archives={folder}",
            "install",
            *names,
            what=f"downloading {' '.join(names)}",
            seconds=1200,
        )
    return sorted(folder.glob("*.deb"))


def _root() -> Path:
    return cache_dir() / "apt"


def _age(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return float("inf")


@contextlib.contextmanager
def _locked(what: str) -> Iterator[None]:
    with exclusive("apt", what=what, seconds=1800):
        yield


def _configure() -> None:
    address = mirror()
    reason = available()
    if reason or address is None:
        raise HarnessError(f"Debian's archive cannot be used here: {reason}", hint="kernloop doctor has the cure")
    root = _root()
    for folder in ("lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    (root / "sources.list").write_text(
        "".join(f"deb [signed-by={KEYRING}] {address} {suite} main\n" for suite in SUITES)
    )
    options: dict[str, object] = {
        "Dir::State::Lists": root / "lists",
        "Dir::State::status": root / "status",
        "Dir::State::extended_states": root / "extended_states",
        "Dir::Etc::SourceList": root / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        # Whatever the machine has set (hooks, unsigned repositories) is not for us, but for the way to the network.
        "Dir::Etc::Parts": "/dev/null",
        "Dir::Etc::Main": "/dev/null",
        **_proxies(),
        "Dir::Cache": root / "cache",
        "Dir::Log": root,
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        # A mirror that stands still for a while is still signed; what is fetched from it only ever runs in a guest
        # or from a private prefix.
        "Acquire::Check-Valid-Until": "false",
    }
    (root / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in options.items()))


def _proxies() -> dict[str, str]:
    text = process.run(["apt-config", "dump", "Acquire"], seconds=20, what="apt-config", check=False).stdout
    return dict(re.findall(r'^(Acquire::https?::\S*Proxy\S*) "([^"]*)";$', text, re.M))


def _apt(tool: str, *arguments: str, what: str, seconds: float, cwd: Path | None = None) -> str:
    done = process.run(
        [tool, "-q", *arguments],
        seconds=seconds,
        what=what,
        cwd=cwd,
        check=False,
        env={"APT_CONFIG": str(_root() / "apt.conf"), "LC_ALL": "C.UTF-8"},
    )
    # `apt-get update` exits 0 when a list could not be fetched.
    bad = [line for line in done.stderr.splitlines() if line.startswith(("E:", "Err:", "W: Failed", "W: Some index"))]
    if done.status == 0 and not bad:
        return done.stdout
    text = " | ".join(bad[:3]) or f"exit {done.status}"
    if process.disk_full(done.stderr) or "enough free space" in done.stderr:
        raise HarnessError(f"{what}: the disk is full ({_root()})", hint="free some space, or move XDG_CACHE_HOME")
    if re.search(r"\b404\s+Not Found", done.stderr):
        (_root() / "fresh").unlink(missing_ok=True)
        raise HarnessError(
            f"{what}: the mirror no longer has it: {text}",
            hint="the package lists were old; they are renewed on the next call: run it again",
        )
    if _OFFLINE.search(done.stderr):
        raise HarnessError(
            f"{what}: no network, or the mirror does not answer: {text}",
            hint="check the network; what is cached already still works: kernloop kernel list",
        )
    raise HarnessError(f"{what}: {text}", hint="kernloop doctor checks apt and its keyring")


def _package(block: str) -> Package:
    fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
    name, _, version = fields.get("Source", fields["Package"]).partition(" ")
    built = re.search(r"\(= (\S+)\)", fields.get("Built-Using", ""))
    return Package(
        fields["Package"],
        fields["Version"],
        name,
        built[1] if built else version.strip("()") or fields["Version"],
        int(fields.get("Size", "0")),
    )
