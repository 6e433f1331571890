// SPDX-License-Identifier: Apache-2.0
#include "slabs.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

int read_slabs(struct slab_cache *caches)
{
	FILE *file = fopen("/proc/slabinfo", "re");
	char line[512];
	int count = 0;

	/* name active_objs num_objs objsize ... (mm/slab_common.c); two lines of heading do not read so */
	while (file && count < MAX_CACHES && fgets(line, sizeof(line), file)) {
		struct slab_cache *c = &caches[count];

		if (sscanf(line, "%31s %ld %*d %d", c->name, &c->objects, &c->size) == 3)
			count++;
	}
	if (file)
		fclose(file);
	return count;
}

const struct slab_cache *find_slab(const struct slab_cache *caches, int count, const char *name)
{
	for (int i = 0; i < count; i++)
		if (!strcmp(caches[i].name, name))
			return &caches[i];
	return NULL;
}
