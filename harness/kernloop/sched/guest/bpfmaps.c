// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "bpfmaps.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A map that is written to while it is read could be read for ever. */
enum { MAX_ELEMENTS = 1 << 20 };

static long bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

static long elements_of(int fd, uint32_t key_size)
{
	char *key = calloc(2, key_size), *next = key + key_size;
	union bpf_attr attr = { .map_fd = fd };
	long count = 0;

	attr.next_key = (uintptr_t)next;
	while (count < MAX_ELEMENTS && !bpf(BPF_MAP_GET_NEXT_KEY, &attr)) {
		count++;
		memcpy(key, next, key_size);
		attr.key = (uintptr_t)key;
	}
	free(key);
	return count;
}

static bool is_hash(uint32_t type)
{
	return type == BPF_MAP_TYPE_HASH || type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_HASH_OF_MAPS;
}

int count_elements(struct map_count *counts)
{
	union bpf_attr next = { 0 };
	int maps = 0;

	for (; maps < MAX_MAPS && !bpf(BPF_MAP_GET_NEXT_ID, &next); next.start_id = next.next_id) {
		struct bpf_map_info info = { 0 };
		union bpf_attr open = { .map_id = next.next_id }, ask = { 0 };
		int fd = bpf(BPF_MAP_GET_FD_BY_ID, &open);

		if (fd < 0)
			continue;
		ask.info.bpf_fd = fd;
		ask.info.info_len = sizeof(info);
		ask.info.info = (uintptr_t)&info;
		if (!bpf(BPF_OBJ_GET_INFO_BY_FD, &ask) && is_hash(info.type)) {
			counts[maps].id = info.id;
			memcpy(counts[maps].name, info.name, sizeof(info.name));
			counts[maps++].elements = elements_of(fd, info.key_size);
		}
		close(fd);
	}
	return maps;
}
