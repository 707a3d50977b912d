/* Opens kernel and initrd, tells by the first bytes what the kernel is, and calls its loader. */
#include "vmm/machine/boot/kernel.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/file.h"
#include "base/file_magic.h"
#include "vmm/layout.h"
#include "vmm/machine/boot/loader.h"

/* offsets in a bzImage, Documentation/arch/x86/boot.rst */
#define BZIMAGE_MAGIC_OFFSET 0x202
/* of what is no regular file, and copied into memory */
#define STREAM_MAX (512 * MiB)

static int open_file(const char *what, const char *path, int *out, struct err *e)
{
	struct image im;
	int fd, ret;

	fd = file_open_whole(what, path, STREAM_MAX, e);
	if (fd < 0)
		return fd;
	ret = image_init(&im, what, path, fd, e);
	if (ret) {
		close(fd);
		return ret;
	}
	*out = fd;
	return 0;
}

int kernel_open(struct kernel_config *cfg, struct err *e)
{
	int ret;

	cfg->kernel_fd = cfg->initrd_fd = -1;
	ret = open_file("kernel", cfg->kernel_path, &cfg->kernel_fd, e);
	if (!ret && cfg->initrd_path)
		ret = open_file("initrd", cfg->initrd_path, &cfg->initrd_fd, e);
	if (ret)
		kernel_close(cfg);
	return ret;
}

void kernel_close(struct kernel_config *cfg)
{
	if (cfg->kernel_fd >= 0)
		close(cfg->kernel_fd);
	if (cfg->initrd_fd >= 0)
		close(cfg->initrd_fd);
	cfg->kernel_fd = cfg->initrd_fd = -1;
}

static int refuse(const struct loader *l, struct err *e)
{
	const struct file_magic *m = file_magic_find(l->kernel.fd, l->kernel.size_bytes);
	char hex[3 * 8 + 1], cure[FILE_CURE_MAX];
	uint32_t i;

	/* a bzImage that is also an EFI program starts like this; one cut short shows no more */
	if (l->head_len < BZIMAGE_MAGIC_OFFSET + 4 && l->head_len >= 2 && !memcmp(l->head, "MZ", 2))
		return image_err(&l->kernel, e,
				 "setup header cut: the file has 0x%x bytes, the header's magic is "
				 "at 0x%x; give a whole bzImage",
				 l->head_len, BZIMAGE_MAGIC_OFFSET);
	if (m)
		return image_err(&l->kernel, e, "is %s; %s", m->name,
				 file_magic_cure(m, false, cure));
	if (!memcmp(l->head, "MZ", 2))
		return image_err(&l->kernel, e,
				 "is an EFI program, not a bzImage; if it is a unified kernel "
				 "image, take the kernel out of it with objcopy -O binary "
				 "--only-section=.linux");
	for (i = 0; i < 8 && i < l->head_len; i++)
		snprintf(hex + 3 * i, 4, "%02x ", l->head[i]);
	hex[3 * i - 1] = '\0';
	return image_err(
		&l->kernel, e,
		"not a kernel: starts with %s; give a bzImage, or an ELF file with a PVH note",
		hex);
}

int loader_err_memory(const struct loader *l, const char *what, gpa_t start, gpa_t end,
		      struct err *e)
{
	uint64_t need = end + MiB - 1, have = 0;
	unsigned int i;

	if (start < LAYOUT_HOLE_END && end > LAYOUT_HOLE_START)
		return image_err(&l->kernel, e,
				 "%s takes 0x%llx to 0x%llx; there is never RAM from 0x%x to "
				 "0x%llx, give a kernel for other addresses",
				 what, (unsigned long long)start, (unsigned long long)end,
				 LAYOUT_HOLE_START, (unsigned long long)LAYOUT_HOLE_END);
	if (start >= LAYOUT_HOLE_END)
		need -= LAYOUT_HOLE_END - LAYOUT_HOLE_START;
	for (i = 0; i < l->gm->n_regions; i++)
		have += l->gm->region[i].len_bytes;
	return image_err(&l->kernel, e,
			 "%s takes 0x%llx to 0x%llx: that needs %llu MiB of memory, the guest has "
			 "%llu; give more with -m",
			 what, (unsigned long long)start, (unsigned long long)end,
			 (unsigned long long)(need >> 20), (unsigned long long)(have >> 20));
}

int kernel_load(const struct kernel_config *cfg, const struct guest_mem *gm, gpa_t rsdp,
		struct boot_entry *entry, struct err *e)
{
	struct loader l = {.cfg = cfg, .gm = gm, .rsdp = rsdp};
	struct boot_entry found = {0};
	int ret;

	ret = memory_map_build(gm, &l.map, e);
	if (!ret)
		ret = image_init(&l.kernel, "kernel", cfg->kernel_path, cfg->kernel_fd, e);
	if (ret)
		return ret;
	l.head_len = sizeof(l.head);
	if (l.head_len > l.kernel.size_bytes)
		l.head_len = (uint32_t)l.kernel.size_bytes;
	ret = image_read(&l.kernel, 0, l.head, l.head_len, e);
	if (ret)
		return ret;
	if (l.head_len >= SELFMAG && !memcmp(l.head, ELFMAG, SELFMAG))
		ret = elf_load(&l, &found, e);
	else if (l.head_len >= BZIMAGE_MAGIC_OFFSET + 4 &&
		 !memcmp(l.head + BZIMAGE_MAGIC_OFFSET, "HdrS", 4))
		ret = bzimage_load(&l, &found, e);
	else
		ret = refuse(&l, e);
	if (!ret)
		ret = entry_write_tables(gm, found.mode, e);
	if (!ret)
		*entry = found;
	return ret;
}
