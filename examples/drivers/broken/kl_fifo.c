// SPDX-License-Identifier: GPL-2.0-only
/*
 * ../kl_fifo/kl_fifo.c with one mistake, in kl_fifo_resize(): a path that is taken
 * only when memory is short leaves the device without a ring, and the next write
 * goes to a NULL pointer.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#include "kl_ring.h"

#define KL_FIFO_CHUNK 64

static DEFINE_MUTEX(kl_fifo_lock);	/* protects kl_fifo_ring and kl_fifo_size */
static DECLARE_WAIT_QUEUE_HEAD(kl_fifo_wait);
static struct kl_ring kl_fifo_ring;
static unsigned int kl_fifo_size = 4096;

static bool kl_fifo_readable(void)
{
	bool readable;

	mutex_lock(&kl_fifo_lock);
	readable = kl_ring_used(&kl_fifo_ring);
	mutex_unlock(&kl_fifo_lock);
	return readable;
}

static bool kl_fifo_writable(void)
{
	bool writable;

	mutex_lock(&kl_fifo_lock);
	writable = kl_ring_space(&kl_fifo_ring);
	mutex_unlock(&kl_fifo_lock);
	return writable;
}

static ssize_t kl_fifo_read(struct file *file, char __user *to, size_t count, loff_t *pos)
{
	u8 chunk[KL_FIFO_CHUNK];
	size_t n;

	if (!count)
		return 0;
	for (;;) {
		mutex_lock(&kl_fifo_lock);
		n = kl_ring_get(&kl_fifo_ring, chunk, min(count, sizeof(chunk)));
		mutex_unlock(&kl_fifo_lock);
		if (n)
			break;
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		if (wait_event_interruptible(kl_fifo_wait, kl_fifo_readable()))
			return -ERESTARTSYS;
	}
	wake_up_interruptible(&kl_fifo_wait);
	return copy_to_user(to, chunk, n) ? -EFAULT : n;
}

static ssize_t kl_fifo_write(struct file *file, const char __user *from, size_t count, loff_t *pos)
{
	u8 chunk[KL_FIFO_CHUNK];
	size_t n;

	if (!count)
		return 0;
	count = min(count, sizeof(chunk));
	if (copy_from_user(chunk, from, count))
		return -EFAULT;
	for (;;) {
		mutex_lock(&kl_fifo_lock);
		n = kl_ring_put(&kl_fifo_ring, chunk, count);
		mutex_unlock(&kl_fifo_lock);
		if (n)
			break;
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		if (wait_event_interruptible(kl_fifo_wait, kl_fifo_writable()))
			return -ERESTARTSYS;
	}
	wake_up_interruptible(&kl_fifo_wait);
	return n;
}

static __poll_t kl_fifo_poll(struct file *file, poll_table *wait)
{
	__poll_t ready = 0;

	poll_wait(file, &kl_fifo_wait, wait);
	if (kl_fifo_readable())
		ready |= EPOLLIN | EPOLLRDNORM;
	if (kl_fifo_writable())
		ready |= EPOLLOUT | EPOLLWRNORM;
	return ready;
}

static const struct file_operations kl_fifo_fops = {
	.owner = THIS_MODULE,
	.read = kl_fifo_read,
	.write = kl_fifo_write,
	.poll = kl_fifo_poll,
};

static struct miscdevice kl_fifo_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "kl_fifo",
	.fops = &kl_fifo_fops,
};

/* The mistake: when there is no memory for the new ring, the old one is gone already. */
static int kl_fifo_resize(struct kl_ring *ring, size_t size)
{
	if (!is_power_of_2(size) || kl_ring_used(ring))
		return -EBUSY;
	kl_ring_free(ring);
	return kl_ring_init(ring, size);
}

static int kl_fifo_set_size(const char *text, const struct kernel_param *param)
{
	unsigned int size;
	int err;

	err = kstrtouint(text, 0, &size);
	if (err)
		return err;
	mutex_lock(&kl_fifo_lock);
	/* Before init there is no ring yet. */
	if (kl_fifo_ring.data)
		err = kl_fifo_resize(&kl_fifo_ring, size);
	if (!err)
		kl_fifo_size = size;
	mutex_unlock(&kl_fifo_lock);
	if (!err)
		wake_up_interruptible(&kl_fifo_wait);
	return err;
}

static const struct kernel_param_ops kl_fifo_size_ops = {
	.set = kl_fifo_set_size,
	.get = param_get_uint,
};
module_param_cb(size, &kl_fifo_size_ops, &kl_fifo_size, 0644);
MODULE_PARM_DESC(size, "bytes that it holds, a power of two");

static int __init kl_fifo_init(void)
{
	int err;

	err = kl_ring_init(&kl_fifo_ring, kl_fifo_size);
	if (err)
		return err;
	err = misc_register(&kl_fifo_device);
	if (err)
		kl_ring_free(&kl_fifo_ring);
	return err;
}
module_init(kl_fifo_init);

static void __exit kl_fifo_exit(void)
{
	misc_deregister(&kl_fifo_device);
	kl_ring_free(&kl_fifo_ring);
}
module_exit(kl_fifo_exit);

MODULE_DESCRIPTION("A first-in, first-out character device");
MODULE_LICENSE("GPL");
