// SPDX-License-Identifier: GPL-2.0-only
/* KUnit tests of the ring alone: no device, no user space. They run when the module is loaded. */
#include <kunit/test.h>
#include <linux/module.h>

#include "kl_ring.h"

#define SIZE 8

static int kl_ring_test_init(struct kunit *test)
{
	struct kl_ring *ring = kunit_kzalloc(test, sizeof(*ring), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, ring);
	KUNIT_ASSERT_EQ(test, kl_ring_init(ring, SIZE), 0);
	test->priv = ring;
	return 0;
}

static void kl_ring_test_exit(struct kunit *test)
{
	kl_ring_free(test->priv);
}

static void kl_ring_keeps_the_order(struct kunit *test)
{
	u8 out[4] = {};

	KUNIT_EXPECT_EQ(test, kl_ring_put(test->priv, "abcd", 4), 4);
	KUNIT_EXPECT_EQ(test, kl_ring_get(test->priv, out, sizeof(out)), 4);
	KUNIT_EXPECT_MEMEQ(test, out, "abcd", 4);
}

static void kl_ring_takes_what_fits_and_no_more(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, kl_ring_put(test->priv, "0123456789", 10), SIZE);
	KUNIT_EXPECT_EQ(test, kl_ring_put(test->priv, "x", 1), 0);
	KUNIT_EXPECT_EQ(test, kl_ring_space(test->priv), 0);
}

static void kl_ring_goes_round(struct kunit *test)
{
	u8 out[3];
	int i;

	for (i = 0; i < 5 * SIZE; i++) {
		u8 in[3] = { i, i + 1, i + 2 };

		KUNIT_ASSERT_EQ(test, kl_ring_put(test->priv, in, 3), 3);
		KUNIT_ASSERT_EQ(test, kl_ring_get(test->priv, out, 3), 3);
		KUNIT_ASSERT_MEMEQ(test, out, in, 3);
	}
	KUNIT_EXPECT_EQ(test, kl_ring_used(test->priv), 0);
}

static void kl_ring_is_a_power_of_two(struct kunit *test)
{
	struct kl_ring ring;

	KUNIT_EXPECT_EQ(test, kl_ring_init(&ring, 0), -EINVAL);
	KUNIT_EXPECT_EQ(test, kl_ring_init(&ring, 100), -EINVAL);
}

static struct kunit_case kl_ring_cases[] = {
	KUNIT_CASE(kl_ring_keeps_the_order),
	KUNIT_CASE(kl_ring_takes_what_fits_and_no_more),
	KUNIT_CASE(kl_ring_goes_round),
	KUNIT_CASE(kl_ring_is_a_power_of_two),
	{}
};

static struct kunit_suite kl_ring_suite = {
	.name = "kl_ring",
	.init = kl_ring_test_init,
	.exit = kl_ring_test_exit,
	.test_cases = kl_ring_cases,
};
kunit_test_suite(kl_ring_suite);

MODULE_DESCRIPTION("KUnit tests of kl_ring.h");
MODULE_LICENSE("GPL");
