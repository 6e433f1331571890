// SPDX-License-Identifier: GPL-2.0
/*
 * What a debugger finds in a module: code that is there while it loads only,
 * code that stays, and a variable that both change.
 */
#include <linux/module.h>

static int kl_answer = 42;

static noinline int kl_work(int by)
{
	kl_answer += by;
	return kl_answer;
}

static int __init kl_begin(void)
{
	return kl_work(1) > 100 ? -EINVAL : 0;
}

static void __exit kl_end(void)
{
	kl_work(-1);
}

module_init(kl_begin);
module_exit(kl_end);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A module to be debugged");
