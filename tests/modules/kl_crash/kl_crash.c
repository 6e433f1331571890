// SPDX-License-Identifier: GPL-2.0
/*
 * Crashes on purpose that lkdtm does not have on x86-64, or has under another name in each release:
 *
 *	echo NAME > /sys/module/kl_crash/parameters/what
 *
 * A test asserts the line that a report names by the comment "here: NAME" on it.
 */
#include <linux/delay.h>
#include <linux/irq_work.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/objtool.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/timer.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

struct kl_item {
	struct list_head node;
	char name[40];
	struct kl_item *next;
	int value;
};

static volatile int kl_zero;
static volatile int kl_sink;
static DEFINE_SPINLOCK(kl_spin);
static DEFINE_MUTEX(kl_first);
static DEFINE_MUTEX(kl_second);

/* A pointer of which the compiler knows nothing. */
static struct kl_item *kl_hidden(unsigned long value)
{
	struct kl_item *item = (struct kl_item *)value;

	OPTIMIZER_HIDE_VAR(item);
	return item;
}

static noinline void kl_null(void)
{
	kl_sink = kl_hidden(0)->value; /* here: null */
}

static __always_inline int kl_value_of(struct kl_item *item)
{
	return item->next->value; /* here: inlined */
}

static noinline void kl_inlined(void)
{
	struct kl_item item = { .next = kl_hidden(0) };

	kl_sink = kl_value_of(&item);
}

static noinline void kl_divide(void)
{
	kl_sink = 1000 / kl_zero; /* here: divide */
}

static noinline void kl_gpf(void)
{
	kl_sink = kl_hidden(0xdead000000000000)->value; /* here: gpf */
}

/* A nop that must not have the lock prefix. */
static noinline void kl_opcode(void)
{
	pr_info("a locked nop\n"); /* else the compiler may charge what is below to the function's first line */
	asm volatile(".byte 0xf0, 0x90"); /* here: opcode */
}

/* What kfree() left: poison where slub_debug=P is set, else what the allocator keeps there. */
static noinline void kl_after_free(void)
{
	struct kl_item *item = kzalloc(sizeof(*item), GFP_KERNEL);
	struct kl_item *stale = item;

	if (!item)
		return;
	item->next = item;
	OPTIMIZER_HIDE_VAR(stale);
	kfree(item);
	kl_sink = stale->next->value; /* here: after_free */
}

static noinline void kl_unmapped(void)
{
	struct kl_item *item = vmalloc(PAGE_SIZE);
	struct kl_item *stale = item;

	OPTIMIZER_HIDE_VAR(stale);
	vfree(item);
	kl_sink = stale->value; /* here: unmapped */
}

/* Neither the fault's frame nor another can be pushed; no guard page of a stack is near. */
static noinline void kl_double_fault(void)
{
	asm volatile("movq %0, %%rsp\n\tpushq $0" : : "r"(0xdead000000000000) : "memory"); /* here: double_fault */
}
STACK_FRAME_NON_STANDARD(kl_double_fault);

static noinline void kl_add_twice(void)
{
	LIST_HEAD(head);
	struct kl_item item;

	list_add(&item.node, &head);
	list_add(&item.node, &head); /* here: add_twice */
}

static noinline void kl_delete_twice(void)
{
	LIST_HEAD(head);
	struct kl_item item;

	list_add(&item.node, &head);
	list_del(&item.node);
	list_del(&item.node); /* here: delete_twice */
}

static noinline void kl_sleep_atomic(void)
{
	spin_lock(&kl_spin);
	mutex_lock(&kl_first); /* here: sleep_atomic */
	mutex_unlock(&kl_first);
	spin_unlock(&kl_spin);
}

static noinline void kl_wait_atomic(void)
{
	preempt_disable();
	schedule_timeout_uninterruptible(1); /* here: schedule_atomic */
	/* The report has enabled it: __schedule_bug() is followed by preempt_count_set(PREEMPT_DISABLED). */
	if (preempt_count())
		preempt_enable();
}

static noinline void kl_spin_twice(void)
{
	unsigned long flags;

	spin_lock_irqsave(&kl_spin, flags);
	spin_lock(&kl_spin); /* here: spin_twice */
	spin_unlock(&kl_spin);
	spin_unlock_irqrestore(&kl_spin, flags);
}

static noinline void kl_soft_lockup(void)
{
	preempt_disable();
	while (!kl_zero) /* here: soft_lockup */
		cpu_relax(); /* here: soft_lockup */
	preempt_enable();
}

/* With set rcupdate.rcu_cpu_stall_timeout below the watchdog's threshold. */
static noinline void kl_endless_reader(void)
{
	rcu_read_lock();
	preempt_disable();
	while (!kl_zero) /* here: rcu_stall */
		cpu_relax(); /* here: rcu_stall */
	preempt_enable();
	rcu_read_unlock();
}

static noinline int kl_other_order(void *unused)
{
	mutex_lock(&kl_second);
	msleep(100);
	mutex_lock(&kl_first);
	mutex_unlock(&kl_first);
	mutex_unlock(&kl_second);
	return 0;
}

static noinline void kl_two_mutexes(void)
{
	struct task_struct *other = kthread_run(kl_other_order, NULL, "kl_other");

	if (IS_ERR(other))
		return;
	mutex_lock(&kl_first);
	msleep(100);
	mutex_lock(&kl_second); /* here: two_mutexes */
	mutex_unlock(&kl_second);
	mutex_unlock(&kl_first);
}

static noinline void kl_irq(struct irq_work *work)
{
	kl_sink = kl_hidden(0)->value; /* here: irq */
}

static noinline void kl_fatal_irq(struct irq_work *work)
{
	panic("kl_crash: of an interrupt"); /* here: panic_irq */
}

static struct irq_work kl_irq_work = IRQ_WORK_INIT_HARD(kl_irq);
static struct irq_work kl_fatal_irq_work = IRQ_WORK_INIT_HARD(kl_fatal_irq);

static noinline void kl_start_irq(void)
{
	irq_work_queue(&kl_irq_work);
	irq_work_sync(&kl_irq_work);
}

static noinline void kl_start_fatal_irq(void)
{
	irq_work_queue(&kl_fatal_irq_work);
	irq_work_sync(&kl_fatal_irq_work);
}

static noinline void kl_timer(struct timer_list *timer)
{
	kl_sink = kl_hidden(0)->value; /* here: timer */
}

static DEFINE_TIMER(kl_timer_list, kl_timer);

static noinline void kl_start_timer(void)
{
	mod_timer(&kl_timer_list, jiffies + 1);
	msleep(1000);
}

static noinline void kl_work(struct work_struct *work)
{
	kl_sink = kl_hidden(0)->value; /* here: work */
}

static noinline void kl_stuck_work(struct work_struct *work)
{
	preempt_disable();
	while (!kl_zero) /* here: stuck_work */
		cpu_relax(); /* here: stuck_work */
	preempt_enable();
}

static noinline void kl_waiting_work(struct work_struct *work)
{
}

static DECLARE_WORK(kl_work_struct, kl_work);
static DECLARE_WORK(kl_stuck_work_struct, kl_stuck_work);
static DECLARE_WORK(kl_waiting_work_struct, kl_waiting_work);

static noinline void kl_start_work(void)
{
	schedule_work(&kl_work_struct);
	msleep(1000);
}

/* A pool is stuck when work waits in it. */
static noinline void kl_start_stuck_work(void)
{
	schedule_work_on(0, &kl_stuck_work_struct);
	schedule_work_on(0, &kl_waiting_work_struct);
}

static noinline int kl_thread(void *unused)
{
	kl_sink = kl_hidden(0)->value; /* here: thread */
	return 0;
}

static noinline void kl_start_thread(void)
{
	kthread_run(kl_thread, NULL, "kl_thread");
	msleep(1000);
}

/* A page that is freed while somebody else still counts on it. */
static noinline void kl_bad_page(void)
{
	struct page *page = alloc_page(GFP_KERNEL);

	if (!page)
		return;
	page->mapping = (void *)kl_hidden(0xdead000000000400);
	__free_page(page); /* here: bad_page */
	kl_sink = 0;
}

/* Memory that no killed process gives back. */
static noinline void kl_oom(void)
{
	while (alloc_page(GFP_KERNEL)) /* here: oom */
		;
}

static const struct {
	const char *name;
	void (*crash)(void);
} kl_crashes[] = {
	{ "null", kl_null },
	{ "inlined", kl_inlined },
	{ "divide", kl_divide },
	{ "gpf", kl_gpf },
	{ "opcode", kl_opcode },
	{ "after_free", kl_after_free },
	{ "unmapped", kl_unmapped },
	{ "double_fault", kl_double_fault },
	{ "add_twice", kl_add_twice },
	{ "delete_twice", kl_delete_twice },
	{ "sleep_atomic", kl_sleep_atomic },
	{ "schedule_atomic", kl_wait_atomic },
	{ "spin_twice", kl_spin_twice },
	{ "soft_lockup", kl_soft_lockup },
	{ "rcu_stall", kl_endless_reader },
	{ "two_mutexes", kl_two_mutexes },
	{ "irq", kl_start_irq },
	{ "panic_irq", kl_start_fatal_irq },
	{ "timer", kl_start_timer },
	{ "work", kl_start_work },
	{ "stuck_work", kl_start_stuck_work },
	{ "thread", kl_start_thread },
	{ "bad_page", kl_bad_page },
	{ "oom", kl_oom },
};

static int kl_set_what(const char *value, const struct kernel_param *param)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(kl_crashes); i++) {
		if (!sysfs_streq(value, kl_crashes[i].name))
			continue;
		kl_crashes[i].crash();
		return 0;
	}
	return -EINVAL;
}

static const struct kernel_param_ops kl_what_ops = { .set = kl_set_what };

module_param_cb(what, &kl_what_ops, NULL, 0200);
MODULE_PARM_DESC(what, "the crash to make, at once");
MODULE_DESCRIPTION("Crashes on purpose");
MODULE_LICENSE("GPL");
