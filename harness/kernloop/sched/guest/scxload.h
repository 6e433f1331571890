/* SPDX-License-Identifier: Apache-2.0 */
/* What scxload reads from BTF: the object's variables and the running kernel's constants. */
#ifndef KERNLOOP_SCXLOAD_H
#define KERNLOOP_SCXLOAD_H

#include <bpf/btf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A variable of the object, found through its BTF. */
struct var {
	const char *name;
	const struct btf_type *type;
	const char *section;
	size_t offset;
};

/* An enumerator of the running kernel. */
struct constant {
	const char *name;
	uint64_t value;
};

struct constants {
	struct constant *list;
	size_t count;
	const char *truncated;	/* one whose value the BTF does not have in full, NULL when all are whole */
};

/* Says why on stderr and as an event, and ends the program. */
_Noreturn void unusable(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A type without its typedefs and qualifiers. */
const struct btf_type *strip(const struct btf *btf, __u32 id);
const struct btf_member *member(const struct btf *btf, const struct btf_type *t, const char *name);
/* Calls visit for every variable of every data section; a true answer ends the walk. */
void each_var(const struct btf *btf, bool (*visit)(const struct var *, void *), void *ctx);
/* All SCX_* enumerators of a kernel. */
void load_constants(const struct btf *kernel, struct constants *c);

#endif
