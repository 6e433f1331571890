# SPDX-License-Identifier: Apache-2.0
"""A crash made readable with the kernel's own files: `decode(crash, lines, Images([vmlinux, folder]))`."""

from .decode import decode
from .decoded import Decoded, DecodedFrame, Excerpt, Instruction, Location, Note, SourceLine
from .images import Images

__all__ = [
    "Decoded",
    "DecodedFrame",
    "Excerpt",
    "Images",
    "Instruction",
    "Location",
    "Note",
    "SourceLine",
    "decode",
]
