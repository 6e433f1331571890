# SPDX-License-Identifier: Apache-2.0
"""Why a kernel did not take a module, from what kernels and busybox's insmod wrote."""

from __future__ import annotations

import pytest

from kernloop.suites.refusal import refusal

NOT_TAKEN = "insmod: can't insert '/kl/module/kl_fifo.ko': "


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            "[    2.1] kl_fifo: version magic '7.3.0 SMP preempt ' should be '7.3.4 SMP preempt '",
            "made for another kernel: 7.3.0 SMP preempt ",
        ),
        ("[    2.1] kl_fifo: Unknown symbol kl_nowhere (err -2)", "unknown symbol kl_nowhere"),
        ("[    2.1][   T55] kl_fifo: disagrees about version of symbol kmalloc", "another version of kmalloc"),
        (
            "[    2.1] module kl_fifo: .gnu.linkonce.this_module section size must match the kernel's built struct "
            "module size at run time",
            "made for another kernel: 7.3.0",
        ),
        ("[    2.1] Loading of unsigned module is rejected", "its signature is missing"),
        ("[    2.1] kl_fifo: no memory for the ring", "kl_fifo: no memory for the ring"),
        ("[    2.1] kl_other: Unknown symbol x (err -2)", "its init function failed: No such device"),
        ("[    2.1] kl_fifo: loading out-of-tree module taints kernel.", "its init function failed: No such device"),
    ],
)
def test_the_kernels_line_says_why(line: str, why: str) -> None:
    found = refusal("kl_fifo", "7.3.0", ["", line], 40, f"{NOT_TAKEN}No such device")
    assert found.why == why
    assert [number for number, _ in found.said] == ([] if "init function" in why else [41])
