# SPDX-License-Identifier: Apache-2.0
"""ssh, scp and rsync into a guest that has no network: an sshd per connection, spoken to through the agent.

The agent runs `BRIDGE` with the client's bytes as its stdin and stdout: dropbear on a socket of its own. Nothing
listens, in the guest or here. Keys belong to one VM and lie in its run directory; the guest's host key is known before
the first connection, so the client checks it strictly.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Sequence
from pathlib import Path

from kernloop.host import bundle, process
from kernloop.vm import guest_programs

__all__ = ["BRIDGE", "CONFIG", "UNPACK", "archive", "config", "programs", "write"]

CONFIG = "ssh_config"
_CLIENT_KEY, _HOST_KEY, _KNOWN_HOSTS = "ssh_key", "ssh_host_key", "ssh_known_hosts"
_GUEST = "/run/kernloop/ssh"
_BUNDLE = bundle.Bundle(
    "ssh-in-guests",
    ("dropbear-bin", "openssh-sftp-server", "rsync"),
    ("usr/sbin/dropbear", "usr/bin/dropbearconvert", "usr/lib/openssh/sftp-server", "usr/bin/rsync"),
    home=_GUEST,
)

# Unpacks `archive` from its stdin. dropbear trusts no key below a folder that others may write to, as the root of an
# initramfs is. Two programs are looked for in fixed places: dropbear has the path of sftp-server
# built in, and a client asks for rsync by name. What the guest has of its own stays.
UNPACK = (
    "sh",
    "-c",
    f"umask 022 && chmod go-w / && mkdir -p {_GUEST} && tar -x -C {_GUEST} && mkdir -p /usr/lib /usr/bin"
    f" && {{ [ -e /usr/lib/sftp-server ] || ln -sf {_GUEST}/sftp-server /usr/lib/; }}"
    f" && {{ command -v rsync >/dev/null || ln -sf {_GUEST}/rsync /usr/bin/; }}",
)
# One connection's server: keys only (-s), no forwarding from the guest to the host (-k), -W the largest useful window.
BRIDGE = (
    f"{_GUEST}/socketed",
    f"{_GUEST}/dropbear",
    *("-i", "-s", "-k", "-m", "-e", "-W", "1048576", "-r", f"{_GUEST}/host_key", "-D", _GUEST),
)


def write(run: Path, name: str, proxy: Sequence[str]) -> Path:
    """Make the keys of VM `name` and its client's configuration in `run`; `ssh -F` takes the path that is returned.

    `proxy` is a command that connects its stdin and stdout with `BRIDGE` in the guest. Raises HarnessError.
    """
    for key in (_CLIENT_KEY, _HOST_KEY):
        (run / key).unlink(missing_ok=True)
        process.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"kernloop {name}", "-f", run / key],
            seconds=30,
            what="making a key",
        )
    public = (run / f"{_HOST_KEY}.pub").read_text()
    (run / _KNOWN_HOSTS).write_text(f"{name} {public}")
    path = run / CONFIG
    path.write_text(config(run, name, proxy))
    return path


def config(run: Path, name: str, proxy: Sequence[str]) -> str:
    """The text for ssh_config(5): all that a client needs to know, nothing of the user's own."""
    options = {
        "User": "root",
        "HostKeyAlias": name,
        "IdentityFile": _quote(run / _CLIENT_KEY),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": _quote(run / _KNOWN_HOSTS),
        "GlobalKnownHostsFile": "/dev/null",
        "UpdateHostKeys": "no",
        "ProxyCommand": shlex.join(proxy).replace("%", "%%"),
    }
    return f"Host {name}\n" + "".join(f"    {option} {value}\n" for option, value in options.items())


def archive(run: Path) -> bytes:
    """What `UNPACK` takes: the server, its libraries and this VM's keys, as a tar. Raises HarnessError."""
    folder = programs()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for file in sorted(folder.iterdir()):
            _add(tar, file.name, file.read_bytes(), 0o755)
        _add(tar, "socketed", _socketed().read_bytes(), 0o755)
        _add(tar, "host_key", _for_dropbear(folder, run / _HOST_KEY), 0o600)
        _add(tar, "authorized_keys", (run / f"{_CLIENT_KEY}.pub").read_bytes(), 0o600)
    return out.getvalue()


def programs() -> Path:
    """The folder of programs made for guests. Raises HarnessError."""
    return bundle.get(_BUNDLE)


def _socketed() -> Path:
    return guest_programs.build("socketed", [guest_programs.GUEST / "socketed.c"])


# The bundle is made for a place in the guest, so here its programs need to be shown their loader and libraries.
def _for_dropbear(folder: Path, key: Path) -> bytes:
    made = key.with_suffix(".dropbear")
    loader = (str(folder / "ld-linux-x86-64.so.2"), "--library-path", str(folder))
    words = (*loader, str(folder / "dropbearconvert"), "openssh", "dropbear", str(key), str(made))
    process.run(words, seconds=30, what="converting a key")
    return made.read_bytes()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    tar.addfile(member, io.BytesIO(data))


# ssh_config(5): arguments may be in double quotes, and % begins a token.
def _quote(path: Path) -> str:
    return '"' + str(path).replace("%", "%%") + '"'
