/* SPDX-License-Identifier: Apache-2.0 */
/* How many objects the kernel's slab caches hold. */
#ifndef KERNLOOP_SLABS_H
#define KERNLOOP_SLABS_H

enum { MAX_CACHES = 320 };

struct slab_cache {
	char name[32];
	long objects;
	int size;
};

/* Answers how many caches there are, 0 on a kernel that does not tell (SLUB_DEBUG is off). */
int read_slabs(struct slab_cache *caches);
/* The cache of that name, or NULL. */
const struct slab_cache *find_slab(const struct slab_cache *caches, int count, const char *name);

#endif
