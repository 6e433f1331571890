# SPDX-License-Identifier: Apache-2.0
"""What a kernel kept in pstore, from the bytes of its two stores: ACPI's ERST (as QEMU lays it out) and ramoops.

Bytes go in, records come out; what is damaged is left out, and nothing raises. Layouts: docs/specs/acpi_erst.rst of
QEMU and drivers/acpi/apei/erst.c for ERST, fs/pstore/ram.c and ram_core.c for ramoops, fs/pstore/platform.c for the
text in a record of either.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .crash import Crash
from .engine import parse_console

__all__ = ["Layout", "Record", "dumps", "erst_count", "layout_of", "lost", "plain", "read_erst", "read_ramoops"]

# A compressed record is bounded by its store; what it unpacks to is bounded here.
_UNPACKED_MAX = 1 << 20

_ERST = struct.Struct("<QIIHHI")
_ERST_MAGIC = 0x524F545354535245
_NO_RECORDS = (0, 0xFFFFFFFFFFFFFFFF)
# struct cper_record_header: the signature, the whole length and the time; then struct cper_section_descriptor.
_CPER = struct.Struct("<4s16xI8s")
_CPER_CREATOR_AT, _CPER_SECTION_AT, _CPER_TYPE_AT = 64, 128, 16
_CPER_DATA_AT = _CPER_SECTION_AT + 72
_CREATOR_PSTORE = bytes.fromhex("e374a575 5250 294b 8a8ebe2c6490b89d")
_DMESG = bytes.fromhex("4ee097c1 45d5 704a 9c17a5549419eb12")
_DMESG_Z = bytes.fromhex("0787114f dd04 5540 b5dd956d34ddfac6")

_RAMOOPS = struct.Struct("<III")
_RAMOOPS_SIGNATURE = 0x43474244
_ECC_BLOCK, _ECC_BYTES = 128, 16
_KMSG_HEADER = re.compile(rb"====(\d+\.\d{6})-([CD])\n")
_USING = re.compile(r"ramoops: using 0x(?P<size>[0-9a-f]+)@0x(?P<address>[0-9a-f]+), ecc: (?P<ecc>\d+)")
_MIN_MEM_SIZE = 4096

# Its parameters for the sizes of its zones end in _size.
_ZONES = ("record", "console", "pmsg", "ftrace")

# "Oops#1 Part2", by which pstore_dump begins each record, and the level that it puts before each line.
_PART = re.compile(r"(?P<why>[\w ]+)#(?P<count>\d+) Part(?P<part>\d+)\n")
_LEVEL = re.compile(r"^<\d+>", re.MULTILINE)
# What printk puts before a message, none of which tells messages apart but the time.
_PREFIX = re.compile(r"^(?:<\d+>)?\s*\[\s*(?P<time>\d+\.\d+)\](?:\[\s*[TC]\d+\])?\s*")


@dataclass(frozen=True)
class Record:
    """One record. `store` is erst or ramoops, `kind` dmesg, console or pmsg; `time` in seconds since the epoch, 0 when
    it is not kept. `why`, `count` and `part` are the kernel's own words on a dmesg record: Panic or Oops, which of
    them, and which piece of its log (1 is the last)."""

    store: str
    kind: str
    text: str
    time: float = 0.0
    why: str = ""
    count: int = 0
    part: int = 0
    compressed: bool = False

    @property
    def name(self) -> str:
        """As the pstore file system would call it, without the number: dmesg-erst, console-ramoops."""
        return f"{self.kind}-{self.store}"


@dataclass(frozen=True)
class Layout:
    """Where ramoops lies in the guest's memory, and the sizes of its zones in bytes; `ecc` bytes for each block."""

    address: int
    size: int
    record: int = _MIN_MEM_SIZE
    console: int = _MIN_MEM_SIZE
    pmsg: int = _MIN_MEM_SIZE
    ftrace: int = _MIN_MEM_SIZE
    ecc: int = 0


def erst_count(data: bytes) -> int:
    """How many records an ERST store says it holds; 0 for one that is not set up."""
    if len(data) < _ERST.size:
        return 0
    magic, *_, count = _ERST.unpack_from(data)
    return int(count) if magic == _ERST_MAGIC else 0


def read_erst(data: bytes) -> list[Record]:
    """The kernel's log in an ERST store, the oldest record first. Records of others (machine checks) are left out."""
    if not erst_count(data):
        return []
    _, size, begin, *_ = _ERST.unpack_from(data)
    if size < _CPER_DATA_AT or begin % size:
        return []
    found = []
    for slot in range(begin // size, len(data) // size):
        [ident] = struct.unpack_from("<Q", data, _ERST.size + 8 * slot)
        record = data[slot * size : (slot + 1) * size]
        signature, length, seconds = _CPER.unpack_from(record)
        section = record[_CPER_SECTION_AT + _CPER_TYPE_AT :][:16]
        if ident in _NO_RECORDS or signature != b"CPER" or length > size:
            continue
        if record[_CPER_CREATOR_AT:][:16] != _CREATOR_PSTORE or section not in (_DMESG, _DMESG_Z):
            continue
        time = float(int.from_bytes(seconds, "little"))
        found.append((ident, _dmesg("erst", record[_CPER_DATA_AT:length], time, section == _DMESG_Z)))
    return [record for _, record in sorted(found, key=lambda one: one[0])]


def layout_of(words: Sequence[str], console: Iterable[str]) -> Layout | None:
    """Where a kernel started with these `words` keeps ramoops, which it says on its console; None when it has none."""
    given = {
        name.removeprefix("ramoops.").replace("-", "_"): value
        for name, _, value in (word.partition("=") for word in words)
        if name.startswith("ramoops.")
    }
    if "mem_address" not in given and "mem_name" not in given:
        return None
    said = next((match for line in console if "ramoops" in line and (match := _USING.search(line))), None)
    address = int(said["address"], 16) if said else _number(given, "mem_address", 0)
    size = int(said["size"], 16) if said else _number(given, "mem_size", 0)
    if not address or not size:
        return None
    ecc = int(said["ecc"]) if said else _number(given, "ecc", 0)
    record, log, pmsg, ftrace = (_power(_number(given, f"{name}_size", _MIN_MEM_SIZE)) for name in _ZONES)
    return Layout(address, size, record, log, pmsg, ftrace, _ECC_BYTES if ecc == 1 else ecc)


def read_ramoops(data: bytes, layout: Layout) -> list[Record]:
    """The records in the memory of a ramoops area: the kernel's log of each crash, the console, what programs wrote to
    /dev/pmsg0. Traces of functions are left out."""
    dumped = layout.size - layout.console - layout.pmsg - layout.ftrace
    found = []
    at = 0
    count = dumped // layout.record if layout.record else 0
    # The zones share out all there is (ramoops_init_przs).
    zone = dumped // count & ~1 if count else 0
    for _ in range(count):
        body = _zone(data[at : at + zone], layout.ecc)
        if header := _KMSG_HEADER.match(body):
            found.append(_dmesg("ramoops", body[header.end() :], float(header[1]), header[2] == b"C"))
        at += zone
    for kind, size in (("console", layout.console), ("pmsg", layout.pmsg)):
        if size and (body := _zone(data[at : at + size], layout.ecc)):
            found.append(Record("ramoops", kind, body.decode(errors="replace")))
        at += size
    return sorted(found, key=lambda record: (record.kind != "dmesg", record.time))


def dumps(records: Iterable[Record]) -> list[Record]:
    """Records of the log of one crash put together, in the order of the crashes; others as they are."""
    logs: dict[tuple[str, int], list[Record]] = {}
    others = []
    for record in records:
        if record.kind == "dmesg":
            logs.setdefault((record.store, record.count), []).append(record)
        else:
            others.append(record)
    whole = []
    for (store, count), parts in sorted(logs.items()):
        parts.sort(key=lambda record: -record.part)
        text = "".join(record.text if record.text.endswith("\n") else record.text + "\n" for record in parts)
        last = parts[-1]
        whole.append(Record(store, "dmesg", text, last.time, last.why, count, 0, last.compressed))
    return [*whole, *others]


def plain(text: str) -> str:
    """The lines of a record without the levels that pstore keeps: what a console at the highest level would show."""
    return _LEVEL.sub("", text)


def lost(console: Sequence[str], texts: Mapping[str, str]) -> list[tuple[str, Crash]]:
    """The crashes in `texts` (by name) that the lines of `console` do not have, each once: where it is found first, or
    where it has become a panic.

    A crash is on the console if the line that begins it is: message and time are those that the kernel gave it.
    """
    shown = {key for line in console if (key := _key(line))}
    found: dict[tuple[str, str], tuple[str, Crash]] = {}
    for name, text in texts.items():
        lines = text.split("\n")
        for crash in parse_console(lines):
            key = _key(lines[crash.start_line - 1]) or (name, str(crash.start_line))
            if key not in shown and (key not in found or (crash.panicked and not found[key][1].panicked)):
                found[key] = (name, crash)
    return list(found.values())


def _key(line: str) -> tuple[str, str] | None:
    line = line.rstrip("\r\n")
    match = _PREFIX.match(line)
    return (match["time"], line[match.end() :].rstrip()) if match else None


def _dmesg(store: str, data: bytes, time: float, compressed: bool) -> Record:
    if compressed:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _UNPACKED_MAX)
        except zlib.error:
            data = b""
    text = data.decode(errors="replace")
    head = _PART.match(text)
    if head is None:
        return Record(store, "dmesg", text, time, compressed=compressed)
    count, part = int(head["count"][:9]), int(head["part"][:9])
    return Record(store, "dmesg", text[head.end() :], time, head["why"], count, part, compressed)


# The bytes in a zone, the oldest first: `start` is where the next will go once it has been full.
def _zone(zone: bytes, ecc: int) -> bytes:
    if len(zone) <= _RAMOOPS.size:
        return b""
    signature, start, size = _RAMOOPS.unpack_from(zone)
    room = len(zone) - _RAMOOPS.size
    if ecc:
        room -= (-(-(room - ecc) // (_ECC_BLOCK + ecc)) + 1) * ecc
    if signature != _RAMOOPS_SIGNATURE or size > room or start > size:
        return b""
    body = zone[_RAMOOPS.size : _RAMOOPS.size + size]
    return body[start:] + body[:start]


# As the kernel reads a size: decimal, 0x, and K, M, G behind it (lib/cmdline.c, memparse).
def _number(given: Mapping[str, str], name: str, otherwise: int) -> int:
    match = re.fullmatch(r"(0x[0-9a-fA-F]+|\d+)([KMGkmg]?)", given.get(name, ""))
    if match is None:
        return otherwise
    return int(match[1], 16 if match[1].startswith("0x") else 10) << " KMG".index(match[2].upper() or " ") * 10


def _power(size: int) -> int:
    return 1 << size.bit_length() - 1 if size else 0
