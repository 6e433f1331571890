# SPDX-License-Identifier: Apache-2.0
"""Console lines and stack frames, freed of their prefixes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernloop.report.frames import Frame, base_name, guilty, parse_frame, rip_function, source_name
from kernloop.report.lines import Line, read_line


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ("plain text", Line("plain text")),
        ("[    5.123456] hello\r\n", Line("hello", 5.123456)),
        ("[    5.123456][  T123]  frame+0x1/0x2", Line(" frame+0x1/0x2", 5.123456, "T123")),
        ("[   12.000001][    C1] rcu: stall", Line("rcu: stall", 12.000001, "C1")),
        ("[    5.123456] [   T12] hello", Line("hello", 5.123456, "T12")),
        ("<6>[    5.123456] hello", Line("hello", 5.123456, None, 6)),
        ("<14>[    5.123456] facility", Line("facility", 5.123456, None, 6)),
        ("\x1b[0;32m[    5.123456]\x1b[0m hello", Line("hello", 5.123456)),
        ("half a line\r[    5.123456] hello", Line("hello", 5.123456)),
        ("[not a stamp] hello", Line("[not a stamp] hello")),
    ],
)
def test_prefixes_are_taken_off_and_kept_apart(raw: str, line: Line) -> None:
    assert read_line(raw) == line


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        (" vfs_read+0xcf/0x450", Frame("vfs_read", 0xCF, 0x450)),
        (" ? __die+0x1f/0x60", Frame("__die", 0x1F, 0x60, None, False)),
        (" foo.cold+0x1/0x2 [my-mod]", Frame("foo.cold", 1, 2, "my-mod")),
        (" foo+0x1/0x2 [mod 0123abcd]", Frame("foo", 1, 2, "mod")),
        (" [<ffffffff82d4e304>] __memset+0x24/0x30", Frame("__memset", 0x24, 0x30)),
    ],
)
def test_a_frame_is_read_in_all_its_spellings(text: str, frame: Frame) -> None:
    assert parse_frame(text) == frame


def test_user_mode_and_bare_addresses_are_no_kernel_function() -> None:
    assert rip_function("RIP: 0033:0x7f14111da350") is None
    assert rip_function("RIP: 0010:0x0") is None
    assert rip_function("RIP: 0010:foo+0x1/0x2") == Frame("foo", 1, 2)


def test_compiler_made_names_lose_their_tails() -> None:
    assert base_name("do_exit.cold") == "do_exit"
    assert base_name("foo.constprop.0.isra.0") == "foo"
    assert base_name("foo") == "foo"
    assert base_name("_RNvMs2_NtCs1a2B_2kl4nodeNtB5_4Node9kl_guilty") == "kl_guilty"


@pytest.mark.parametrize(
    "raw",
    [
        "kl login: [    5.123456][  T123] hello",
        "** 12 printk messages dropped ** [    5.123456][  T123] hello",
        "Nov 21 12:00:00 host kernel: [    5.123456][  T123] hello",
        "2026-11-21T12:00:00,123456+00:00 host kernel: [    5.123456][  T123] hello",
    ],
)
def test_what_stands_before_the_prefix_of_printk_goes(raw: str) -> None:
    assert read_line(raw) == Line("hello", 5.123456, "T123")


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("__x64_sys_read", "sys_read"),
        ("__se_sys_mremap", "mremap"),
        ("ksys_write", "write"),
        ("vfs_read", "vfs_read"),
    ],
)
def test_a_title_names_a_system_call_without_its_architecture(name: str, short: str) -> None:
    assert source_name(name) == short


def test_machinery_is_never_guilty() -> None:
    names = ["dump_stack_lvl", "panic", "__warn", "kasan_report", "handle_bug", "mutex_lock", "culprit", "caller"]
    assert guilty(Frame(name) for name in names) == "culprit"
    assert guilty([Frame("culprit", reliable=False)]) is None


@pytest.mark.parametrize(
    "name",
    # A helper's relatives bear its word: what holds for copy_from_user holds for all that copy.
    [
        "hlist_add_head",
        "nla_memcpy",
        "ext4_mb_clear_bits",
        "vfs_parse_fs_string",
        "sock_kmalloc",
        "mmap_read_lock_killable",
        "wb_wait_for_completion",
        "tty_flush_works",
        "bpf_strncmp",
        "ldsem_down_read_trylock",
        "platform_device_add_data",
        "__wake_up_on_current_cpu",
        "bitmap_zalloc_node",
        "dev_err_probe",
        "crc32c_le",
        "crc64_be_generic",
        "_copy_from_iter_full",
        "__memcg_slab_post_alloc_hook",
        "skb_header_pointer",
        "atomic64_fetch_add_relaxed",
    ],
)
def test_relatives_of_a_helper_are_no_culprits_either(name: str) -> None:
    assert guilty([Frame(name), Frame("culprit")]) == "culprit"


@pytest.mark.parametrize(
    "name",
    # Those that a helper's name is in by chance, or that do more than the helper.
    [
        "__down",
        "__lock_page",
        "mod_timer",
        "cancel_delayed_work_sync",
        "asm_exc_page_fault",
        "trace_event_raw_event_sched_switch",
        "ip_rt_bug",
        "__rt_mutex_slowlock",
        "vfree",
        "pipe_write",
        "do_exit",
        "try_to_wake_up",
    ],
)
def test_names_that_only_resemble_a_helper_may_be_guilty(name: str) -> None:
    assert guilty([Frame(name), Frame("caller")]) == name


@settings(deadline=None)
@given(st.text())
def test_any_line_can_be_read(raw: str) -> None:
    line = read_line(raw)
    assert "\x1b" not in line.text
    parse_frame(line.text)
    rip_function(line.text)
