# SPDX-License-Identifier: Apache-2.0
"""What a run in virtual time was made of, so that anyone can repeat it bit for bit: recipe.json and the payload."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from kernloop import runs
from kernloop.errors import UsageError
from kernloop.runs import Run
from kernloop.vm.argv import DEFAULT_SHIFT, MachineSpec, VirtualTime, kernel_words
from kernloop.vm.guest import Guest
from kernloop.vm.topology import of_json

__all__ = ["FILE", "PAYLOAD", "Recipe", "read", "write"]

FILE = "recipe.json"
PAYLOAD = "payload"


@dataclass(frozen=True)
class Recipe:
    """All that decides what a virtual-time guest does: the seed and the job are in the payload.

    `kernel` is the reference it was asked for by, `initramfs` and `snapshot` are keys of the cache.
    """

    kernel: str
    kernel_digest: str
    release: str
    initramfs: str
    qemu: str
    toolset: str
    command_line: str
    snapshot: str
    payload_sha256: str
    spec: MachineSpec


def write(run: Run, guest: Guest, payload: bytes) -> None:
    """Keep in `run` what `guest` with `payload` is made of."""
    recipe = Recipe(
        guest.kernel.ref,
        guest.kernel.digest,
        guest.kernel.release,
        guest.initramfs.parent.name,
        guest.qemu_version,
        guest.toolset,
        kernel_words(guest.spec),
        guest.key(),
        hashlib.sha256(payload).hexdigest(),
        guest.spec,
    )
    run.write(FILE, asdict(recipe))


def read(folder: Path) -> Recipe:
    """The recipe in the run directory `folder`. Raises UsageError when there is none, or its payload was changed."""
    value = runs.read_json(folder / FILE)
    if not value:
        raise UsageError(
            f"{folder.name} was not in virtual time, so it cannot be repeated",
            hint="verify always is; run is with --seed N",
        )
    payload = folder / PAYLOAD
    if not payload.exists() or hashlib.sha256(payload.read_bytes()).hexdigest() != value["payload_sha256"]:
        raise UsageError(f"the payload of {folder.name} is gone or was changed", hint="run it anew")
    spec = value["spec"]
    virtual = VirtualTime((spec["virtual_time"] or {}).get("shift", DEFAULT_SHIFT))
    machine = MachineSpec(
        of_json(spec["topology"]), spec["memory"], spec["accelerator"], virtual, tuple(spec["append"])
    )
    return Recipe(**{**value, "spec": machine})
