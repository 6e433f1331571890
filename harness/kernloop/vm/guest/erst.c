// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "erst.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEVICES "/sys/bus/pci/devices"

/* The beginning of a PCI function's configuration: its ids, the command register, six BARs. */
enum { COMMAND = 4, COMMAND_LEN = 2, BARS = 16, BARS_LEN = 24, HEAD = 64 };

static struct {
	char config[512];
	unsigned char head[HEAD];
} erst;

static bool take(const char *config)
{
	static const unsigned char ids[] = { 0x36, 0x1b, 0x12, 0x00 }; /* docs/specs/acpi_erst.rst of QEMU: 1b36:0012 */
	int fd = open(config, O_RDONLY | O_CLOEXEC);
	bool found;

	if (fd < 0)
		return false;
	found = read(fd, erst.head, HEAD) == HEAD && !memcmp(erst.head, ids, sizeof(ids));
	close(fd);
	return found;
}

void remember_erst(void)
{
	DIR *dir = opendir(DEVICES);
	struct dirent *entry;

	while (dir && !erst.config[0] && (entry = readdir(dir))) {
		char config[512];

		snprintf(config, sizeof(config), DEVICES "/%s/config", entry->d_name);
		if (entry->d_name[0] != '.' && take(config))
			memcpy(erst.config, config, sizeof(config));
	}
	if (dir)
		closedir(dir);
}

void revive_erst(void)
{
	int fd = erst.config[0] ? open(erst.config, O_WRONLY | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	pwrite(fd, erst.head + BARS, BARS_LEN, BARS);
	pwrite(fd, erst.head + COMMAND, COMMAND_LEN, COMMAND);
	close(fd);
}
