// SPDX-License-Identifier: Apache-2.0
/* The names of claims, as --claims and --seen have them. */
#define _GNU_SOURCE
#include <string.h>

#include "suite.h"

static const struct {
	const char *name;
	enum claim bit;
} claims[] = {
	{ "weights", CLAIM_WEIGHTS },
	{ "cgroups", CLAIM_CGROUPS },
	{ "partial", CLAIM_PARTIAL },
	{ "hotplug", CLAIM_HOTPLUG },
};

enum { NR_CLAIMS = sizeof(claims) / sizeof(claims[0]) };

bool read_claims(char *list, unsigned int *into)
{
	char *name;

	while ((name = strsep(&list, ","))) {
		int i = 0;

		while (i < NR_CLAIMS && strcmp(claims[i].name, name))
			i++;
		if (i == NR_CLAIMS)
			return false;
		*into |= claims[i].bit;
	}
	return true;
}

const char *missing_claim(unsigned int needs)
{
	for (int i = 0; i < NR_CLAIMS; i++)
		if (needs & claims[i].bit & ~(suite.claims | suite.seen))
			return claims[i].name;
	return NULL;
}
