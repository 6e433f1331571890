# SPDX-License-Identifier: Apache-2.0
"""Virtual machines: specification, QEMU's argv, the micro initramfs, console, guest agent, the run itself."""
