# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line for a micro-VM, made from a specification alone: no process, file or clock is touched here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kernloop.vm.topology import Topology

__all__ = [
    "DEFAULT_SHIFT",
    "ERST",
    "Channels",
    "MachineSpec",
    "Start",
    "VirtualTime",
    "attachments",
    "handed_over",
    "kernel_words",
    "qemu_argv",
]

# A panic waits for the debugger (panic=0 is for ever; QEMU pauses on pvpanic's event). SysRq is let through. nokaslr
# keeps addresses equal over runs; crypto self-tests and DAMON's statistics would only take CPU time from the boot.
_COMMAND_LINE = (
    "console=ttyS0 panic=0 {kaslr} sysrq_always_enabled cryptomgr.notests damon_stat.enabled=0 "
    "unknown_nmi_panic=1 rdinit=/init"
)
# Who wants random addresses says so: a kernel knows no word that takes nokaslr back.
_KASLR = "kaslr"

# A kernel that boots waits 40e9/HZ cycles of its TSC for five ticks, else it panics: "IO-APIC + timer doesn't work!"
# (timer_irq_works() of arch/x86/kernel/apic/io_apic.c). Under TCG the TSC is the host's: it goes on while QEMU waits
# for a CPU, and the ticks do not. On KVM Linux does not look either (kvm_guest_init()); virtual time is never late.
_HOST_TIME_WORDS = ("no_timer_check",)

# The port behind the console's; who waits for the debugger at boot says kgdbwait as well.
_KGDB_WORD = "kgdboc=ttyS1"
# A breakpoint from before the kernel protects its text can never be taken out again: kgdb_arch_set_breakpoint() of
# arch/x86/kernel/kgdb.c writes it directly, and the removal is the same write.
_TEXT_STAYS_WRITABLE = "rodata=off"

# The file that holds ERST, beside console.log: 31 records of 8 KiB.
ERST = "erst"
_ERST_KIB = 256

# Without the features that say string instructions are fast: with them Linux clears and copies pages by single bytes,
# and TCG does these one by one. A boot takes a fifth less without.
_TCG_CPU = "max,-erms,-fsrm,-fzrm,-fsrs,-fsrc"
# QEMU's model is an old AMD, on which Linux asks neither who shares an L2 nor where within a socket an L3 ends
# (__cache_amd_cpumap_setup() and cacheinfo_amd_init_llc_id() of arch/x86/kernel/cpu/cacheinfo.c); TCG has no TOPOEXT.
# An Intel is asked by leaf 4. Not beyond leaf 0x1b: reading all of leaf 0x1f ends QEMU 10 (encode_topo_cpuid1f()).
_TCG_CPU_WITH_CACHES = f"{_TCG_CPU},vendor=GenuineIntel,family=6,model=106,stepping=6,level=0x1b"
# On that one Linux would give the kernel page tables of its own: each switch costs TCG all it has translated.
_WITH_CACHES_WORDS = ("pti=off",)

# 62 million instructions a virtual second: CPU-time work is right to 0.3 %, ten busy seconds take two of the host.
DEFAULT_SHIFT = 4


@dataclass(frozen=True)
class VirtualTime:
    """icount: the guest's clock follows its instructions, 2**shift ns each, and jumps over idle time."""

    shift: int = DEFAULT_SHIFT


@dataclass(frozen=True)
class MachineSpec:
    """What machine to make; `memory` in MiB, `accelerator` "kvm" or "tcg", `append` more kernel arguments.

    With `kgdb` it has a second serial port, which the kernel gives to its own debugger.
    """

    topology: Topology = field(default_factory=Topology)
    memory: int = 512
    accelerator: str = "tcg"
    virtual_time: VirtualTime | None = None
    append: tuple[str, ...] = ()
    kgdb: bool = False

    @property
    def kaslr(self) -> bool:
        """Whether the kernel is to lie at random addresses: it must unpack itself then."""
        return _KASLR in self.append

    @property
    def ram(self) -> tuple[tuple[str, int], ...]:
        """The memory backends: id and MiB, one for each NUMA node."""
        if self.topology.nodes:
            return tuple((f"ram{number}", node.memory) for number, node in enumerate(self.topology.nodes))
        return (("ram", self.memory),)


@dataclass(frozen=True)
class Start:
    """How a machine begins. `initramfs` is None for one that is restored: the guest has read it long ago.

    `ram` is the folder of the files that hold the guest's memory; `private` maps them so that what the guest writes
    stays with it. Without `ram` the memory is anonymous. `payload` is handed over by fw_cfg; `freeze` asks the guest to
    get ready for a snapshot before it takes one.
    """

    initramfs: Path | None = None
    ram: Path | None = None
    private: bool = True
    payload: Path | None = None
    freeze: bool = False
    incoming: bool = False


@dataclass(frozen=True)
class Channels:
    """How QEMU is reached, by inherited descriptors: pipes (for its output, for its input) for console and agent, a
    connected socket for QMP; and the file that all console output is appended to. `kgdb` is a listening socket, for the
    debugger's serial port."""

    console: tuple[int, int]
    agent: tuple[int, int]
    qmp: int
    console_log: Path
    kgdb: int | None = None


def kernel_words(spec: MachineSpec) -> str:
    """The kernel command line."""
    caches = _WITH_CACHES_WORDS if spec.accelerator == "tcg" and spec.topology.shares_caches else ()
    waits = (_TEXT_STAYS_WRITABLE,) if "kgdbwait" in spec.append else ()
    kgdb = (_KGDB_WORD, *waits) if spec.kgdb else ()
    fixed = _COMMAND_LINE.format(kaslr=_KASLR if spec.kaslr else "nokaslr")
    timer = _HOST_TIME_WORDS if spec.virtual_time is None else ()
    return " ".join((fixed, *timer, *caches, *kgdb, *(word for word in spec.append if word != _KASLR)))


def qemu_argv(qemu: Path, spec: MachineSpec, kernel: Path, start: Start, channels: Channels) -> list[str]:
    """The argv. Descriptors are inherited: nothing in the file system names them, nothing is left when QEMU dies."""
    machine = "q35" if spec.topology.nodes else "q35,memory-backend=ram"
    return [
        str(qemu),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-machine",
        machine,
        *_timing(spec),
        "-smp",
        spec.topology.smp,
        "-m",
        f"{spec.memory}M",
        *_memory(spec, start),
        "-kernel",
        str(kernel),
        *(("-initrd", str(start.initramfs)) if start.initramfs else ()),
        "-append",
        kernel_words(spec),
        *handed_over(start),
        # Who pets it is one more task, whose turns would change the others'.
        *attachments(channels, watchdog=spec.virtual_time is None),
        *(("-incoming", "defer") if start.incoming else ()),
    ]


def attachments(channels: Channels, *, watchdog: bool) -> list[str]:
    """What makes any machine one that can be watched: console, agent, QMP, a panic that is seen and pauses it, and so
    does the end of all life in it, with `watchdog`; and a place for the kernel's last words."""
    return [
        "-action",
        "panic=pause,watchdog=pause",
        *(("-device", "i6300esb") if watchdog else ()),
        "-device",
        "pvpanic-pci",
        "-device",
        "vmcoreinfo",
        # What the kernel keeps of its log when it crashes (pstore), in a file that outlives the machine.
        "-object",
        f"memory-backend-file,id=erst,mem-path={_escape(channels.console_log.parent / ERST)},"
        f"share=on,size={_ERST_KIB}K",
        "-device",
        "acpi-erst,memdev=erst",
        "-chardev",
        f"{_pipes('console', channels.console)},logfile={_escape(channels.console_log)},logappend=on",
        "-serial",
        "chardev:console",
        *_kgdb(channels),
        "-chardev",
        _pipes("agent", channels.agent),
        # ioeventfd would hand the guest's kicks to another thread: in virtual time that makes their timing random.
        "-device",
        "virtio-serial-pci,ioeventfd=off",
        "-device",
        "virtserialport,chardev=agent,name=kernloop",
        "-chardev",
        f"socket,id=qmp,fd={channels.qmp}",
        "-mon",
        "chardev=qmp,mode=control",
        # A restored machine would announce itself to its network by a timer, which virtual time must not see.
        "-global",
        "migration.announce-rounds=0",
    ]


# What the kernel says while nobody is connected is lost: it does not wait.
def _kgdb(channels: Channels) -> list[str]:
    if channels.kgdb is None:
        return []
    return ["-chardev", f"socket,id=kgdb,fd={channels.kgdb},server=on,wait=off", "-serial", "chardev:kgdb"]


def handed_over(start: Start) -> list[str]:
    """The fw_cfg items that init looks for."""
    words = ["-fw_cfg", "name=opt/kernloop/freeze,string=1"] if start.freeze else []
    if start.payload is not None:
        words += ["-fw_cfg", f"name=opt/kernloop/payload,file={_escape(start.payload)}"]
    return words


# A full buffer of translated code is flushed, which ends the vCPUs' time slices; by default its size comes from the
# host's memory. This much is never full in a guest's life, and only what is used takes memory.
_CODE_MIB = 1024


# Multi-threaded TCG corrupts static keys in every QEMU up to 11.1 (Oops: int3), hence thread=single.
def _timing(spec: MachineSpec) -> list[str]:
    cpu = _TCG_CPU_WITH_CACHES if spec.topology.shares_caches else _TCG_CPU
    if spec.virtual_time is not None:
        return [
            "-accel",
            f"tcg,thread=single,tb-size={_CODE_MIB}",
            "-cpu",
            f"{cpu},-rdrand,-rdseed",
            "-icount",
            f"shift={spec.virtual_time.shift},sleep=off,align=off",
            "-rtc",
            "base=2020-01-01,clock=vm",
        ]
    if spec.accelerator == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=single", "-cpu", cpu]


def _memory(spec: MachineSpec, start: Start) -> list[str]:
    words = []
    for name, mebibytes in spec.ram:
        backend = "memory-backend-ram"
        if start.ram is not None:
            share = "off" if start.private else "on"
            backend = f"memory-backend-file,mem-path={_escape(start.ram / name)},share={share}"
        words += ["-object", f"{backend},id={name},size={mebibytes}M"]
    for number, node in enumerate(spec.topology.nodes):
        cpus = f",cpus={node.cpus[0]}-{node.cpus[1]}" if node.cpus else ""
        words += ["-numa", f"node,nodeid={number}{cpus},memdev=ram{number}"]
    for a, b, far in spec.topology.distances:
        words += ["-numa", f"dist,src={a},dst={b},val={far}"]
    return words


# The file chardev opens what it is given; append keeps it from truncating, which a pipe would refuse.
def _pipes(name: str, ends: tuple[int, int]) -> str:
    out, into = ends
    return f"file,id={name},path=/dev/fd/{out},append=on,input-path=/dev/fd/{into}"


def _escape(path: Path) -> str:
    return str(path).replace(",", ",,")
