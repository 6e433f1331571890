# SPDX-License-Identifier: Apache-2.0
"""From a kernel reference, as users write it, to a Kernel.

`debian:7.2` the newest 7.2.x of Debian's cloud kernels, `debian:7.2.13` exactly that, `debian:newest` the newest with
SCHED_CLASS_EXT; `host` the kernel this machine runs; `path:FILE` a bzImage; `tree:DIR` what `kernel build` made last of
a source tree; `sha256:DIGEST` one that is cached.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from kernloop.errors import HarnessError, UsageError
from kernloop.host.cache import ensure
from kernloop.host.paths import cache_dir
from kernloop.kernel import debian, kernel
from kernloop.kernel.kernel import Kernel

__all__ = ["DEFAULT", "by_build_id", "cached", "resolve"]

DEFAULT = "debian:newest"


def resolve(ref: str) -> Kernel:
    """The kernel that `ref` names, fetched if it must be. Raises UsageError for a reference that names none."""
    kind, _, rest = ref.partition(":")
    if kind == "debian" and re.fullmatch(r"newest|\d+\.\d+(\.\d+)?", rest):
        return _debian(rest)
    if kind == "host" and not rest:
        return _host()
    if kind == "path" and rest:
        return _path(ref, Path(rest).expanduser(), None)
    if kind == "tree" and rest:
        return _tree(Path(rest))
    if kind == "sha256" and re.fullmatch(r"[0-9a-f]{6,64}", rest):
        return _digest(rest)
    raise UsageError(
        f"{ref!r} is no kernel reference",
        hint="debian:7.2  debian:newest  host  tree:DIR  path:arch/x86/boot/bzImage; see: kernloop kernel list",
    )


def cached() -> list[Kernel]:
    """Every kernel in the cache, Debian's by version first."""
    others = sorted((cache_dir() / "kernels").glob("*/kernel.json"))
    folders = [path.parent for path in others if path.parent.name.startswith(("image-", "tree-"))]
    return [*debian.cached(), *map(kernel.load, folders)]


def by_build_id(build_id: str) -> Kernel | None:
    """The kernel of the cache with this build-id."""
    return next((found for found in cached() if found.build_id == build_id), None)


def _tree(path: Path) -> Kernel:
    # What knows source trees takes as long to import as a small scheduler takes to check.
    from kernloop.kernel import changes
    from kernloop.kernel.tree import open_tree

    tree = open_tree(path)
    pointer = tree.last / "kernloop/kernel" if tree.last else None
    try:
        name = pointer.read_text().strip() if pointer else ""
    except OSError:
        name = ""
    folder = cache_dir() / "kernels" / name
    if not name or not folder.is_dir():
        raise UsageError(f"{tree.path} has not been built", hint=f"kernloop kernel build {path}")
    found = kernel.load(folder)
    # What was tested would not be what was written.
    if found.build is not None and (edited := changes.edited_since(found.build, tree.path)):
        more = f" and {len(edited) - 1} more" if len(edited) > 1 else ""
        raise UsageError(
            f"{edited[0]}{more} of {tree.path} was edited since it was built",
            hint=f"kernloop kernel build {path}, or take what was built then: --kernel sha256:{found.digest[:12]}",
        )
    return replace(found, ref=f"tree:{tree.path}")


def _debian(wanted: str) -> Kernel:
    try:
        return debian.newest() if wanted == "newest" else debian.fetch(debian.pick(wanted, debian.releases()))
    except HarnessError as error:
        # Without the archive what is cached still serves, the newest that fits.
        if isinstance(error, UsageError):
            raise
        fitting = [
            found for found in debian.cached() if (found.has_sched_ext if wanted == "newest" else _fits(found, wanted))
        ]
        if not fitting:
            raise
        return fitting[-1]


def _fits(found: Kernel, wanted: str) -> bool:
    prefix = tuple(int(part) for part in wanted.split("."))
    return debian.version_of(found.release)[: len(prefix)] == prefix


def _host() -> Kernel:
    import platform  # slow to import, seldom needed

    release = platform.release()
    places = [Path(f"/boot/vmlinuz-{release}"), Path(f"/usr/lib/modules/{release}/vmlinuz")]
    for place in places:
        if place.exists():
            modules = Path(f"/lib/modules/{release}")
            return _path("host", place, modules if (modules / "kernel").exists() else None)
    raise UsageError(
        f"the image of this machine's kernel {release} is not there ({' or '.join(map(str, places))})",
        hint="a container or a cloud machine often has none: use debian:newest or path:BZIMAGE",
    )


# Known by its digest, so an image that was built anew under the same name is another kernel.
def _path(ref: str, image: Path, modules: Path | None) -> Kernel:
    image = image.absolute()
    try:
        data = image.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the kernel image {image}: {error.strerror}",
            hint="path: takes a bzImage, arch/x86/boot/bzImage in a built tree",
        ) from None
    digest = hashlib.sha256(data).hexdigest()
    folder = cache_dir() / "kernels" / f"image-{digest[:16]}{'-modules' if modules else ''}"
    if not folder.exists():
        # As in kernel.store: slow to import, seldom needed.
        from kernloop.kernel.image import read

        read(image)

    def make(staging: Path) -> None:
        (staging / "bzImage").write_bytes(data)
        kernel.store(
            staging,
            ref=ref,
            bzimage=staging / "bzImage",
            modules=modules,
            config=_config_beside(image),
            source_version=None,
        )

    return replace(kernel.load(ensure(folder, make, what=f"reading {image}")), ref=ref)


# A distribution keeps it as config-RELEASE beside vmlinuz-RELEASE, a build tree as .config at its top.
def _config_beside(image: Path) -> Path | None:
    tree = image.parents[3] / ".config" if len(image.parents) > 3 else None
    named = image.with_name(image.name.replace("vmlinuz", "config"))
    for place in (named if named != image else None, image.with_name("config"), tree):
        if place is not None and place.exists():
            return place
    return None


def _digest(prefix: str) -> Kernel:
    fitting = [found for found in cached() if found.digest.startswith(prefix)]
    different = len({found.digest for found in fitting})
    if different != 1:
        raise UsageError(
            f"{different} cached kernels have the digest {prefix}...", hint="kernloop kernel list shows them"
        )
    return fitting[0]
