// SPDX-License-Identifier: GPL-2.0
/*
 * Hangs on purpose, whose locks, holders and waiters are known:
 *
 *	echo NAME > /sys/module/kl_hang/parameters/what
 *
 * All in threads of their own, so that who writes comes back, but for the machine.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/semaphore.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/wait.h>

static volatile int kl_never;
static DEFINE_MUTEX(kl_a);
static DEFINE_MUTEX(kl_b);
static DECLARE_RWSEM(kl_rwsem);
static DEFINE_SEMAPHORE(kl_sem, 1);
static DEFINE_SPINLOCK(kl_spinlock);
static DECLARE_COMPLETION(kl_done);
static DECLARE_WAIT_QUEUE_HEAD(kl_queue);
static int kl_flag;
static int kl_holding;

static noinline void kl_sleep_for_ever(void)
{
	while (!kl_never)
		schedule_timeout_uninterruptible(HZ * 3600);
}

static int kl_first(void *unused)
{
	mutex_lock(&kl_a);
	msleep(50);
	mutex_lock(&kl_b);
	mutex_unlock(&kl_b);
	mutex_unlock(&kl_a);
	return 0;
}

static int kl_second(void *unused)
{
	mutex_lock(&kl_b);
	msleep(50);
	mutex_lock(&kl_a);
	mutex_unlock(&kl_a);
	mutex_unlock(&kl_b);
	return 0;
}

static int kl_completes(void *unused)
{
	wait_for_completion(&kl_done);
	return 0;
}

/* What complete() does, without the wake-up. */
static int kl_forgets(void *unused)
{
	msleep(50);
	raw_spin_lock_irq(&kl_done.wait.lock);
	kl_done.done++;
	raw_spin_unlock_irq(&kl_done.wait.lock);
	return 0;
}

static int kl_waits(void *unused)
{
	wait_event(kl_queue, READ_ONCE(kl_flag));
	return 0;
}

static int kl_sets(void *unused)
{
	msleep(50);
	WRITE_ONCE(kl_flag, 1);
	return 0;
}

static int kl_writes(void *unused)
{
	down_write(&kl_rwsem);
	WRITE_ONCE(kl_holding, 1);
	kl_sleep_for_ever();
	up_write(&kl_rwsem);
	return 0;
}

static int kl_reads(void *unused)
{
	while (!READ_ONCE(kl_holding))
		msleep(10);
	down_read(&kl_rwsem);
	up_read(&kl_rwsem);
	return 0;
}

static int kl_downs(void *unused)
{
	down(&kl_sem);
	WRITE_ONCE(kl_holding, 2);
	kl_sleep_for_ever();
	up(&kl_sem);
	return 0;
}

static int kl_downs_too(void *unused)
{
	while (READ_ONCE(kl_holding) != 2)
		msleep(10);
	down(&kl_sem);
	up(&kl_sem);
	return 0;
}

static noinline void kl_spin_for_ever(void)
{
	while (!kl_never)
		cpu_relax();
}

static int kl_holds(void *unused)
{
	unsigned long flags;

	spin_lock_irqsave(&kl_spinlock, flags);
	WRITE_ONCE(kl_holding, 3);
	kl_spin_for_ever();
	spin_unlock_irqrestore(&kl_spinlock, flags);
	return 0;
}

static int kl_spins(void *unused)
{
	while (READ_ONCE(kl_holding) != 3)
		cpu_relax();
	spin_lock(&kl_spinlock);
	spin_unlock(&kl_spinlock);
	return 0;
}

static const struct {
	const char *what;
	const char *name;
	int (*thread)(void *unused);
	int cpu;
} kl_threads[] = {
	{ "abba", "kl_first", kl_first, 0 },
	{ "abba", "kl_second", kl_second, 1 },
	{ "completion", "kl_completes", kl_completes, 0 },
	{ "completion", "kl_forgets", kl_forgets, 1 },
	{ "queue", "kl_waits", kl_waits, 0 },
	{ "queue", "kl_sets", kl_sets, 1 },
	{ "rwsem", "kl_writes", kl_writes, 0 },
	{ "rwsem", "kl_reads", kl_reads, 1 },
	{ "semaphore", "kl_downs", kl_downs, 0 },
	{ "semaphore", "kl_downs_too", kl_downs_too, 1 },
	{ "spinlock", "kl_spins", kl_spins, 1 },
	{ "spinlock", "kl_holds", kl_holds, 0 },
};

static int kl_set_what(const char *value, const struct kernel_param *param)
{
	struct task_struct *task;
	int found = -EINVAL;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(kl_threads); i++) {
		if (!sysfs_streq(value, kl_threads[i].what))
			continue;
		task = kthread_create(kl_threads[i].thread, NULL, "%s", kl_threads[i].name);
		if (IS_ERR(task))
			return PTR_ERR(task);
		kthread_bind(task, kl_threads[i].cpu);
		wake_up_process(task);
		found = 0;
	}
	return found;
}

static const struct kernel_param_ops kl_what_ops = { .set = kl_set_what };

module_param_cb(what, &kl_what_ops, NULL, 0200);
MODULE_PARM_DESC(what, "the hang to make");
MODULE_DESCRIPTION("Hangs on purpose");
MODULE_LICENSE("GPL");
