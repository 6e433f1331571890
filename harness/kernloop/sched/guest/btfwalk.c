// SPDX-License-Identifier: Apache-2.0
#include "scxload.h"

#include <stdlib.h>
#include <string.h>

const struct btf_type *strip(const struct btf *btf, __u32 id)
{
	const struct btf_type *t = btf__type_by_id(btf, id);

	while (t && (btf_is_mod(t) || btf_is_typedef(t)))
		t = btf__type_by_id(btf, t->type);
	return t;
}

const struct btf_member *member(const struct btf *btf, const struct btf_type *t, const char *name)
{
	for (__u32 i = 0; i < btf_vlen(t); i++)
		if (!strcmp(btf__name_by_offset(btf, btf_members(t)[i].name_off), name))
			return &btf_members(t)[i];
	return NULL;
}

void each_var(const struct btf *btf, bool (*visit)(const struct var *, void *), void *ctx)
{
	for (__u32 id = 1; id < btf__type_cnt(btf); id++) {
		const struct btf_type *sec = btf__type_by_id(btf, id);

		if (!btf_is_datasec(sec))
			continue;
		for (__u32 i = 0; i < btf_vlen(sec); i++) {
			const struct btf_var_secinfo *info = &btf_var_secinfos(sec)[i];
			const struct btf_type *v = btf__type_by_id(btf, info->type);
			struct var var = { .section = btf__name_by_offset(btf, sec->name_off), .offset = info->offset };

			if (!btf_is_var(v))
				continue;
			var.name = btf__name_by_offset(btf, v->name_off);
			var.type = strip(btf, v->type);
			if (var.type && visit(&var, ctx))
				return;
		}
	}
}

static uint64_t enumerator_value(const struct btf_type *t, __u32 i)
{
	if (btf_is_enum64(t))
		return btf_enum64_value(&btf_enum64(t)[i]);
	return btf_kflag(t) ? (uint64_t)(int64_t)btf_enum(t)[i].val : (uint32_t)btf_enum(t)[i].val;
}

/* Enumerators have no index: one pass over the kernel's types for all of them, since a pass costs virtual time. */
void load_constants(const struct btf *kernel, struct constants *c)
{
	size_t room = 0;

	for (__u32 id = 1, end = btf__type_cnt(kernel); id < end; id++) {
		const struct btf_type *t = btf__type_by_id(kernel, id);
		__u32 count = btf_is_any_enum(t) ? btf_vlen(t) : 0;

		for (__u32 i = 0; i < count; i++) {
			const char *name = btf__name_by_offset(kernel, btf_is_enum64(t) ?
							       btf_enum64(t)[i].name_off : btf_enum(t)[i].name_off);

			if (strncmp(name, "SCX_", 4))
				continue;
			/* Old pahole keeps only the low half of a 64-bit enum: a guess would be a wrong DSQ id. */
			if (t->size == 8 && !btf_is_enum64(t))
				c->truncated = name;
			if (c->count == room) {
				room = room ? 2 * room : 256;
				c->list = realloc(c->list, room * sizeof(*c->list));
				if (!c->list)
					unusable("no memory");
			}
			c->list[c->count++] = (struct constant){ name, enumerator_value(t, i) };
		}
	}
}
