# SPDX-License-Identifier: Apache-2.0
"""The server `code` with a real kernel tree: edit, build, error, fix, test; as an agent goes through it."""

from __future__ import annotations

import pytest
from agent import Agent, again, anyio_backend, finished, here

import trees
from kernloop import runs
from support import ROOT

__all__ = ["anyio_backend"]

pytestmark = [pytest.mark.anyio, pytest.mark.vm]
FILE = "kernel/ksyms_common.c"


async def test_why_a_symbol_is_off_is_told_to_the_unmet_dependency() -> None:
    tree = str(trees.linux())
    async with here("code") as client:
        agent = Agent(client)
        found = await again(agent, "config", tree=tree, profile="tiny", why=["EXT4_FS", "CONFIG_KASAN", "NOSUCH"])
        off, free, strange = found["symbols"]
        assert (off["symbol"], off["value"]) == ("EXT4_FS", "n")
        assert "BLOCK [=n]" in off["why"]
        assert free["why"] == "nothing keeps it off: config=['KASAN=y']"
        assert "no such symbol" in strange["why"]
        refused = await again(agent, "config", tree=tree, profile="tiny", config=["EXT4_FS=y"], why=[])
        assert refused["verdict"] == "build-failed"
        assert refused["dropped"] == ["EXT4_FS=y came out as n: BLOCK [=n] fs/ext4/Kconfig:3"]
        assert refused["next"].endswith("config('DIR', why=['EXT4_FS'])")


async def test_a_build_names_the_line_of_an_error_and_goes_on_when_it_is_mended() -> None:
    kernel = trees.kernel()
    how = {
        "tree": str(trees.linux()),
        "profile": "tiny",
        "fragments": list(trees.FRAGMENTS),
        "config": ["=".join(setting) for setting in trees.SETTINGS],
    }
    async with here("code") as client:
        agent = Agent(client)
        done = await finished(agent, await agent.call("build", **how))
        assert list(done)[:3] == ["verdict", "summary", "next"]
        assert (done["verdict"], done["kernel"]["build_id"]) == ("pass", kernel.build_id)
        assert done["next"] == f"run('uname -a', kernel='tree:{trees.linux()}')"
        with trees.appended(FILE, "\nint kernloop_wrong(void)\n{\n\treturn nothing_of_that_name;\n}\n") as file:
            failed = await finished(agent, await agent.call("build", **how))
            assert failed["verdict"] == "build-failed"
            first = failed["diagnostics"][0]
            line = file.read_text().count("\n") - 1
            assert (first["file"], first["line"], first["function"]) == (FILE, line, "kernloop_wrong")
            assert "nothing_of_that_name" in first["message"]
            assert await agent.call("wait") == failed
        mended = await finished(agent, await agent.call("build", **how))
        assert (mended["verdict"], mended["kernel"]["build_id"]) == ("pass", kernel.build_id)


async def test_kunit_of_that_kernel_passes_and_is_told() -> None:
    trees.kernel()
    async with here("code") as client:
        agent = Agent(client)
        begun = await agent.call("selftest", suite="kunit", tests=["example*"], kernel=f"tree:{trees.linux()}")
        done = await finished(agent, begun)
        assert done["verdict"] == "pass", done
        assert "failed" not in done["totals"] and done["totals"]["passed"] > 2
        assert runs.listing()[0].verb == "kunit"


async def test_a_driver_with_a_mistake_is_an_oops_and_the_sound_one_passes() -> None:
    trees.kernel()
    how = {
        "tree": str(trees.linux()),
        "profile": "tiny",
        "fragments": list(trees.FRAGMENTS),
        "config": ["=".join(setting) for setting in trees.SETTINGS],
        "command": "echo 1073741824 > /sys/module/kl_fifo/parameters/size; echo x > /dev/kl_fifo",
    }
    async with here("code") as client:
        agent = Agent(client)
        drivers = ROOT / "examples/drivers"
        broken = await finished(agent, await agent.call("build", module=str(drivers / "broken"), **how))
        assert broken["verdict"] == "oops"
        assert "kl_fifo_write" in broken["summary"]
        how["command"] = "echo hello > /dev/kl_fifo"
        sound = await finished(agent, await agent.call("build", module=str(drivers / "kl_fifo"), **how))
        assert sound["verdict"] == "pass", sound
        assert "are for a module" in await agent.refused("build", **how)
