# SPDX-License-Identifier: Apache-2.0
"""What changed since the last build, and what will be rebuilt: with a small tree and .cmd files like kbuild's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernloop.kernel import changes, depend

RECIPE = "word bzImage"
HEADERS = {
    "kernel/fork.o": ("include/linux/sched.h", "include/linux/mm.h"),
    "kernel/sched/build_policy.o": ("include/linux/sched.h", "kernel/sched/ext.c"),
    "fs/ext4/hash.o": ("include/linux/mm.h", "fs/ext4/ext4.h"),
    "fs/ext4/inode.o": ("fs/ext4/ext4.h",),
    "fs/mbcache.o": ("include/linux/mbcache.h",),
}
SYMBOLS = {"kernel/fork.o": ("SMP",), "fs/ext4/inode.o": ("FS_ENCRYPTION",)}


@dataclass(frozen=True)
class Build:
    tree: Path
    folder: Path

    def remember(self) -> None:
        changes.remember(self.folder, self.tree, changes.survey(self.tree, self.folder), RECIPE)

    def changed(self, recipe: str = RECIPE) -> changes.Changes:
        return changes.changed(self.folder, self.tree, recipe)

    def nothing(self) -> bool:
        return changes.nothing_changed(self.folder, self.tree, RECIPE)

    def rebuilt(self) -> depend.Rebuild:
        return changes.will_rebuild(self.folder, self.tree, self.changed())


# `spell` is how the build names a file of the tree.
def make(tree: Path, folder: Path, spell: Callable[[str], str]) -> Build:
    sources = {name.replace(".o", ".c"): f"// {name}\n" for name in HEADERS}
    sources |= {header: f"/* {header} */\n" for headers in HEADERS.values() for header in headers}
    sources |= {"Makefile": "all:\n", "init/Kconfig": "config SMP\n", "Documentation/a/b.rst": "b\n"}
    sources |= {"arch/arm/kernel/a.c": "a\n", "arch/x86/kernel/a.c": "a\n", "scripts/mkversion": "#!\n"}
    for name, text in sources.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    for target, headers in HEADERS.items():
        lines = [f"savedcmd_{target} := gcc -c -o {target}", "", f"source_{target} := {spell(target[:-1] + 'c')}", ""]
        lines += [f"deps_{target} := \\", *(f"  {spell(header)} \\" for header in headers)]
        lines += [f"    $(wildcard include/config/{symbol}) \\" for symbol in SYMBOLS.get(target, ())]
        lines += ["  include/generated/bounds.h \\", "", f"{target}: $(deps_{target})", "", f"$(deps_{target}):"]
        made = folder / target
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(b"\x7fELF")
        made.with_name(f".{made.name}.cmd").write_text("\n".join(lines) + "\n")
    (folder / "modules.order").write_text("fs/mbcache.o\nfs/ext4/ext4.o\n")
    (folder / "fs/ext4/ext4.mod").write_text("fs/ext4/hash.o\nfs/ext4/inode.o\n")
    (folder / ".config").write_text("CONFIG_SMP=y\n# CONFIG_FS_ENCRYPTION is not set\n")
    build = Build(tree, folder)
    build.remember()
    return build


@pytest.fixture
def build(tmp_path: Path) -> Build:
    tree = tmp_path / "linux"
    return make(tree, tmp_path / "build", lambda name: f"{tree}/{name}")


def edit(path: Path) -> None:
    path.write_text(path.read_text() + "x\n")


def test_after_a_good_build_nothing_changed(build: Build) -> None:
    assert build.nothing()
    assert build.rebuilt().summary() == "nothing"


def test_a_folder_without_a_good_build_is_never_up_to_date(build: Build, tmp_path: Path) -> None:
    changes.forget(build.folder)
    assert not build.nothing()
    assert build.rebuilt().everything == "there is no good build yet"
    (tmp_path / "empty").mkdir()
    assert not changes.nothing_changed(tmp_path / "empty", build.tree, RECIPE)


def test_an_edited_header_names_the_objects_made_of_it(build: Build) -> None:
    edit(build.tree / "include/linux/sched.h")
    assert build.changed().edited == ("include/linux/sched.h",)
    found = build.rebuilt()
    assert found.objects == ("kernel/fork.o", "kernel/sched/build_policy.o")
    assert (found.links, found.modules) == (True, ())
    assert found.summary() == (
        "2 objects: include/linux/sched.h → kernel/fork.o, kernel/sched/build_policy.o; then vmlinux"
    )


def test_a_source_of_a_module_rebuilds_the_module_and_not_the_kernel(build: Build) -> None:
    edit(build.tree / "fs/ext4/hash.c")
    edit(build.tree / "fs/mbcache.c")
    found = build.rebuilt()
    assert (found.objects, found.links) == (("fs/ext4/hash.o", "fs/mbcache.o"), False)
    assert found.modules == ("fs/ext4/ext4.ko", "fs/mbcache.ko")


def test_a_file_that_only_moved_in_time_is_no_change_but_make_would_rebuild_it(build: Build) -> None:
    os.utime(build.tree / "include/linux/mm.h")
    assert build.nothing()
    assert build.changed().moved == ("include/linux/mm.h",)
    assert build.rebuilt().objects == ("fs/ext4/hash.o", "kernel/fork.o")


def test_an_edit_that_keeps_size_and_time_is_seen_when_the_file_was_replaced(build: Build) -> None:
    path = build.tree / "kernel/fork.c"
    before = path.stat()
    other = path.with_name("new.c")
    other.write_text(path.read_text().replace("fork", "knif"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert build.changed().edited == ("kernel/fork.c",)
    # make goes by time and would see nothing.
    assert depend.overlooked(build.folder, build.tree, build.rebuilt()) == (build.folder / "kernel/fork.o",)


def test_what_is_edited_while_make_runs_is_a_change_the_next_time(build: Build) -> None:
    before = changes.survey(build.tree, build.folder)
    edit(build.tree / "kernel/fork.c")
    changes.remember(build.folder, build.tree, before, RECIPE)
    assert build.changed().edited == ("kernel/fork.c",)
    assert not build.nothing()


@pytest.mark.parametrize("name", ["Makefile", "init/Kconfig", "scripts/mkversion", "arch/x86/kernel/a.c"])
def test_a_file_that_no_object_names_is_left_to_make(build: Build, name: str) -> None:
    edit(build.tree / name)
    assert not build.nothing()
    assert build.rebuilt().unknown == (name,)
    assert build.rebuilt().summary() == f"0 objects: make decides about {name}"


def test_new_and_removed_files_count(build: Build) -> None:
    (build.tree / "kernel/sched/new.c").write_text("x")
    (build.tree / "fs/ext4/ext4.h").unlink()
    found = build.changed()
    assert (found.added, found.removed) == (("kernel/sched/new.c",), ("fs/ext4/ext4.h",))
    assert build.rebuilt().objects == ("fs/ext4/hash.o", "fs/ext4/inode.o")


@pytest.mark.parametrize(
    "name", ["Documentation/a/b.rst", "arch/arm/kernel/a.c", "kernel/.fork.c.swp", "kernel/fork.c~"]
)
def test_what_no_build_reads_does_not_count(build: Build, name: str) -> None:
    (build.tree / name).write_text("another text")
    assert build.nothing()


def test_a_symbol_of_the_configuration_names_the_objects_that_mention_it(build: Build) -> None:
    (build.folder / ".config").write_text("CONFIG_SMP=y\nCONFIG_FS_ENCRYPTION=y\n")
    assert build.changed().symbols == (("FS_ENCRYPTION", "n", "y"),)
    assert not build.nothing()
    (cause,) = build.rebuilt().causes
    assert (cause.what, cause.objects) == ("CONFIG_FS_ENCRYPTION", ("fs/ext4/inode.o",))


def test_another_command_or_compiler_may_rebuild_everything(build: Build) -> None:
    found = build.changed(RECIPE + "\nword LLVM=1")
    assert (found.recipe, found.nothing) == (("word LLVM=1",), False)
    assert changes.will_rebuild(build.folder, build.tree, found).everything


def test_a_recipe_knows_programs_environment_and_commit(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "cc"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    def recipe() -> str:
        return changes.recipe(["-j2"], [str(program)], build.tree)

    seen = [recipe()]
    program.write_text("#!/bin/sh -e\n")
    seen.append(recipe())
    monkeypatch.setenv("KCFLAGS", "-O3")
    seen.append(recipe())
    (build.tree / ".git/refs/heads").mkdir(parents=True)
    (build.tree / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (build.tree / ".git/refs/heads/main").write_text("0123\n")
    seen.append(recipe())
    program.unlink()
    seen.append(recipe())
    assert len(set(seen)) == len(seen)
    assert seen[-1] == recipe()


def test_a_result_that_somebody_removed_or_changed_is_built_again(build: Build) -> None:
    (build.folder / "kernel/fork.o").unlink()
    (build.folder / "modules.order").write_text("")
    assert build.changed().outputs == ("kernel/fork.o", "modules.order")
    assert build.rebuilt().summary() == "0 objects: 2 files of the build are gone or changed"
    assert not build.nothing()


def test_a_damaged_memory_is_no_good_build(build: Build) -> None:
    for name in ("outputs", "tree", "hashes", "config", "recipe"):
        path = build.folder / "kernloop/built" / name
        good = path.read_bytes()
        path.write_bytes(b"\xff\n \n")
        build.changed()
        assert name == "hashes" or not build.nothing(), name
        path.write_bytes(good)
    assert build.nothing()


def test_a_build_folder_in_the_tree_and_a_tree_behind_a_link_are_understood(tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    inside = make(tree, tree / "build", lambda name: f"../{name}")
    edit(tree / "fs/ext4/ext4.h")
    assert inside.rebuilt().objects == ("fs/ext4/hash.o", "fs/ext4/inode.o")
    assert inside.changed().edited == ("fs/ext4/ext4.h",)
    shutil.rmtree(tree)
    tree.mkdir()
    (tmp_path / "link").symlink_to(tree)
    linked = make(tmp_path / "link", tmp_path / "build", lambda name: f"{tree}/{name}")
    os.utime(tree / "fs/mbcache.c")
    assert linked.nothing()
    assert linked.rebuilt().modules == ("fs/mbcache.ko",)


def test_a_change_of_objtool_rebuilds_what_is_checked_by_it(build: Build) -> None:
    path = build.folder / "fs/.mbcache.o.cmd"
    path.write_text(
        path.read_text().replace("mbcache.h \\\n", "mbcache.h \\\n  $(wildcard ./tools/objtool/objtool) \\\n")
    )
    found = depend.will_rebuild(build.folder, build.tree, files=["tools/objtool/check.c"])
    assert found.objects == ("fs/mbcache.o",)
