// SPDX-License-Identifier: Apache-2.0
/*
 * QEMU's fw_cfg device, read from user space (docs/specs/fw_cfg.rst in QEMU): a port to select an item and a port to read
 * it byte by byte, used for the directory; and DMA page by page for the payload, which costs the guest no time.
 *
 * A machine that is restored from a snapshot has the items of its new command line, so a payload comes in without one
 * message from the host, whose time of arrival would be the host's.
 */
#define _GNU_SOURCE
#include "handover.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define FREEZE "opt/kernloop/freeze"
#define PAYLOAD "opt/kernloop/payload"

enum { SELECTOR = 0x510, DATA = 0x511, DMA_HIGH = 0x514, DMA_LOW = 0x518, PORTS = 12 };
enum { SIGNATURE = 0x0000, DIRECTORY = 0x0019 };
enum { DMA_ERROR = 1, DMA_READ = 2, DMA_SELECT = 8 };
enum { PAGE = 4096, NAME_MAX_FW = 56 };

struct item {
	uint32_t size;
	uint16_t select;
};

/* All big-endian. */
struct dma {
	uint32_t control, length;
	uint64_t address;
};

/* kernloop/vm/handover.py writes it; little-endian, an archive of `length` bytes follows. */
struct payload {
	char magic[8];
	uint64_t length;
	uint32_t adler;
	uint32_t delay_us;
	unsigned char entropy[ENTROPY];
};

static void complain(const char *what)
{
	fprintf(stderr, "kernloop-init: %s: %s\n", what, strerror(errno));
}

static void pio(uint16_t select, void *to, size_t len, bool again)
{
	if (!again)
		outw(select, SELECTOR);
	insb(DATA, to, len);
}

/* A micro-VM always has the device; a guest of another kind need not. */
static bool present(void)
{
	static int known = -1;
	char signature[4];

	if (known < 0) {
		known = 0;
		if (ioperm(SELECTOR, PORTS, 1)) {
			complain("fw_cfg's ports (X86_IOPL_IOPERM?)");
		} else {
			pio(SIGNATURE, signature, sizeof(signature), false);
			known = !memcmp(signature, "QEMU", sizeof(signature));
		}
	}
	return known;
}

static bool find(const char *name, struct item *item)
{
	uint32_t count;

	if (!present())
		return false;
	pio(DIRECTORY, &count, sizeof(count), false);
	for (count = be32toh(count); count; count--) {
		struct {
			uint32_t size;
			uint16_t select, reserved;
			char name[NAME_MAX_FW];
		} file;

		pio(DIRECTORY, &file, sizeof(file), true);
		if (strncmp(file.name, name, sizeof(file.name)))
			continue;
		item->size = be32toh(file.size);
		item->select = be16toh(file.select);
		return true;
	}
	return false;
}

/* The physical address of the page at `page`, 0 when the kernel does not tell. */
static uint64_t physical(int pagemap, const void *page)
{
	uint64_t entry;

	if (pread(pagemap, &entry, sizeof(entry), (uintptr_t)page / PAGE * sizeof(entry)) != sizeof(entry) ||
	    !(entry >> 63))
		return 0;
	return (entry & ((1ULL << 55) - 1)) * PAGE;
}

static bool dma(volatile struct dma *request, uint64_t where, uint32_t control, uint32_t len, uint64_t to)
{
	request->length = htobe32(len);
	request->address = htobe64(to);
	request->control = htobe32(control);
	outl(htobe32(where >> 32), DMA_HIGH);
	outl(htobe32((uint32_t)where), DMA_LOW);
	return !request->control;
}

/* The item's bytes in locked pages; NULL, and why on the console, when they cannot be had. */
static void *read_item(const struct item *item, size_t *mapped)
{
	size_t pages = (item->size + PAGE - 1) / PAGE;
	char *area = mmap(NULL, (pages + 1) * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	volatile struct dma *request;
	uint64_t where;
	bool ok;

	if (area == MAP_FAILED || pagemap < 0) {
		complain("memory for the payload");
		return NULL;
	}
	*mapped = (pages + 1) * PAGE;
	request = (void *)(area + pages * PAGE);
	request->control = 0;
	where = physical(pagemap, (void *)request);
	ok = where && dma(request, where, (uint32_t)item->select << 16 | DMA_SELECT, 0, 0);
	for (size_t i = 0; ok && i < pages; i++) {
		uint64_t to = physical(pagemap, area + i * PAGE);
		uint32_t len = i + 1 < pages ? PAGE : item->size - i * PAGE;

		ok = to && dma(request, where, DMA_READ, len, to);
	}
	close(pagemap);
	if (ok)
		return area;
	fprintf(stderr, "kernloop-init: the payload cannot be read by fw_cfg's DMA\n");
	munmap(area, *mapped);
	return NULL;
}

static uint32_t adler32(const unsigned char *data, size_t len)
{
	uint32_t a = 1, b = 0;

	while (len) {
		size_t some = len < 5552 ? len : 5552;

		len -= some;
		while (some--) {
			a += *data++;
			b += a;
		}
		a %= 65521;
		b %= 65521;
	}
	return b << 16 | a;
}

void stir(const void *entropy)
{
	struct {
		struct rand_pool_info info;
		unsigned char bytes[ENTROPY];
	} pool = { .info = { .entropy_count = ENTROPY * 8, .buf_size = ENTROPY } };
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);

	memcpy(pool.bytes, entropy, ENTROPY);
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
		complain("entropy");
	if (fd >= 0)
		close(fd);
}

static size_t hex(const char *text)
{
	char digits[9] = "";

	memcpy(digits, text, 8);
	return strtoul(digits, NULL, 16);
}

static bool write_file(const char *path, mode_t mode, const char *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	bool ok = fd >= 0;

	while (ok && len) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		ok = n > 0;
		data += n;
		len -= n;
	}
	return !(fd >= 0 && close(fd)) && ok;
}

/* cpio "newc": a header of hexadecimal fields, the name, the data, each padded to four bytes. */
static bool unpack(const char *at, const char *end)
{
	enum { HEADER = 110, MODE = 14, SIZE = 54, NAMESIZE = 94 };

	while (end - at > HEADER && !memcmp(at, "070701", 6)) {
		size_t size = hex(at + SIZE), namesize = hex(at + NAMESIZE);
		mode_t mode = hex(at + MODE);
		const char *name = at + HEADER, *data = at + ((HEADER + namesize + 3) & ~3UL);
		char path[4096];

		if (data > end || size > (size_t)(end - data) || !namesize || name[namesize - 1])
			return false;
		if (!strcmp(name, "TRAILER!!!"))
			return true;
		snprintf(path, sizeof(path), "/%s", name);
		if (S_ISDIR(mode) ? mkdir(path, mode & 07777) && errno != EEXIST :
		    S_ISREG(mode) ? !write_file(path, mode & 07777, data, size) : true)
			complain(path);
		at = data + ((size + 3) & ~3UL);
	}
	return false;
}

void freeze(void (*ready)(void))
{
	const struct timespec quiet = { .tv_sec = 1 }, moment = { .tv_nsec = 1000000 };
	struct item item;

	if (!find(FREEZE, &item))
		return;
	/* What the boot still has in the works (RCU, deferred probes, workers) comes to rest, and no CPU is busy. */
	nanosleep(&quiet, NULL);
	sync();
	ready();
	while (!find(PAYLOAD, &item))
		nanosleep(&moment, NULL);
}

void take_payload(void)
{
	const struct payload *payload;
	struct item item;
	size_t mapped;

	if (!find(PAYLOAD, &item) || !(payload = read_item(&item, &mapped)))
		return;
	if (item.size < sizeof(*payload) || memcmp(payload->magic, "KLOOP001", 8) ||
	    item.size - sizeof(*payload) != payload->length ||
	    adler32((const void *)(payload + 1), payload->length) != payload->adler) {
		fprintf(stderr, "kernloop-init: the payload is damaged\n");
	} else {
		const struct timespec delay = { .tv_sec = payload->delay_us / 1000000,
						.tv_nsec = payload->delay_us % 1000000 * 1000 };

		stir(payload->entropy);
		if (payload->length && !unpack((const char *)(payload + 1), (const char *)payload + item.size))
			fprintf(stderr, "kernloop-init: the payload's archive is damaged\n");
		nanosleep(&delay, NULL);
	}
	munmap((void *)payload, mapped);
}
