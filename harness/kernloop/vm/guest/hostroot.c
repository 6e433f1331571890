// SPDX-License-Identifier: Apache-2.0
/*
 * The root of a guest that shares the host's user space: an overlay, the host's / below (virtiofs, read-only), a tmpfs
 * above. What to do comes as virtme-ng says it: words of the kernel command line, which reach init as its environment.
 *
 *   kernloop_root=TAG                   the tag of the file system that is the root
 *   virtme_initmount0=FOLDER            a folder of the host with its own file system, tag virtme.initmount0
 *   virtme_initmount0_access=rw|ro      whether it can be written to
 *   virtme_link_mods=FOLDER             where the kernel's modules lie
 *   nr_open=N                           the host's limit of open files, which its programs may count on
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "hostroot.h"

bool host_root_wanted(void)
{
	return getenv("kernloop_root") != NULL;
}

/* mkdir -p; whether it worked is seen when the folder is used. */
static void make_folders(const char *path)
{
	char part[4096];

	snprintf(part, sizeof(part), "%s", path);
	for (char *at = strchr(part + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = 0;
		mkdir(part, 0755);
		*at = '/';
	}
	mkdir(part, 0755);
}

bool enter_host_root(const char **what)
{
	mkdir("/host", 0755);
	mkdir("/memory", 0755);
	mkdir("/whole", 0755);
	*what = "mounting the host's root (VIRTIO_FS?)";
	if (mount(getenv("kernloop_root"), "/host", "virtiofs", MS_RDONLY, NULL))
		return false;
	*what = "mounting a tmpfs";
	if (mount("tmpfs", "/memory", "tmpfs", 0, "mode=755"))
		return false;
	mkdir("/memory/upper", 0755);
	mkdir("/memory/work", 0755);
	/* virtiofs has no persistent inode numbers for xino to build on. */
	*what = "mounting an overlay (OVERLAY_FS?)";
	if (mount("overlay", "/whole", "overlay", 0,
		  "xino=off,lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work"))
		return false;
	*what = "changing the root";
	return !chdir("/whole") && !mount(".", "/", NULL, MS_MOVE, NULL) && !chroot(".") && !chdir("/");
}

/* No overlay here: a file that is replaced in its lower layer gives ESTALE for ever, and editors replace. */
static bool mount_shared(const char **what)
{
	for (int i = 0;; i++) {
		char name[64], tag[64], *folder, *access;

		snprintf(name, sizeof(name), "virtme_initmount%d", i);
		snprintf(tag, sizeof(tag), "virtme.initmount%d", i);
		folder = getenv(name);
		if (!folder)
			return true;
		strcat(name, "_access");
		access = getenv(name);
		make_folders(folder);
		*what = folder;
		if (mount(tag, folder, "virtiofs", access && !strcmp(access, "rw") ? 0 : MS_RDONLY, NULL))
			return false;
	}
}

/* Whatever the host's own modules are: those of this kernel are found by its release. */
static void link_modules(const char *folder)
{
	struct utsname name;
	char path[512];

	uname(&name);
	make_folders("/lib/modules");
	snprintf(path, sizeof(path), "/lib/modules/%s", name.release);
	symlink(folder, path); /* EEXIST: the host has this kernel installed */
}

bool furnish_host_root(const char **what)
{
	const char *files = getenv("nr_open"), *modules = getenv("virtme_link_mods");
	int fd;

	if (modules)
		link_modules(modules);
	if (files) {
		fd = open("/proc/sys/fs/nr_open", O_WRONLY | O_CLOEXEC);
		if (fd >= 0) {
			write(fd, files, strlen(files));
			close(fd);
		}
	}
	return mount_shared(what);
}
