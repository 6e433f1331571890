/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A ring of bytes. Its size is a power of two; head and tail only ever grow, and
 * what lies between them is what it holds. The caller does the locking.
 */
#ifndef KL_RING_H
#define KL_RING_H

#include <linux/errno.h>
#include <linux/log2.h>
#include <linux/slab.h>
#include <linux/types.h>

struct kl_ring {
	u8 *data;
	size_t size;
	size_t head;
	size_t tail;
};

static inline int kl_ring_init(struct kl_ring *ring, size_t size)
{
	u8 *data;

	if (!is_power_of_2(size))
		return -EINVAL;
	/* A size that cannot be had is the caller's mistake and not worth a warning. */
	data = kmalloc(size, GFP_KERNEL | __GFP_NOWARN);
	if (!data)
		return -ENOMEM;
	*ring = (struct kl_ring){ .data = data, .size = size };
	return 0;
}

static inline void kl_ring_free(struct kl_ring *ring)
{
	kfree(ring->data);
	ring->data = NULL;
}

static inline size_t kl_ring_used(const struct kl_ring *ring)
{
	return ring->head - ring->tail;
}

static inline size_t kl_ring_space(const struct kl_ring *ring)
{
	return ring->size - kl_ring_used(ring);
}

/* Returns how many of @count bytes there was room for. */
static inline size_t kl_ring_put(struct kl_ring *ring, const u8 *from, size_t count)
{
	size_t done;

	for (done = 0; done < count && kl_ring_space(ring); done++)
		ring->data[ring->head++ & (ring->size - 1)] = from[done];
	return done;
}

/* Returns how many bytes there were, @count at most. */
static inline size_t kl_ring_get(struct kl_ring *ring, u8 *to, size_t count)
{
	size_t done;

	for (done = 0; done < count && kl_ring_used(ring); done++)
		to[done] = ring->data[ring->tail++ & (ring->size - 1)];
	return done;
}

#endif
