#include "base/file_magic.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"

#define BLOCK 4096 /* the largest unit of direct I/O, and more than any magic */

#define MAGIC(at, bytes) (at), sizeof(bytes) - 1, (bytes)

/*
 * The narrower row stands first. LUKS, file systems and partition tables are a guest's own: a raw
 * disk begins with them. Sources: QEMU block/ and its docs/interop/, for each format the probe of
 * its driver (vpc and dmg have their mark at the end); VMware "Virtual Disk Format 5.0"; Linux
 * lib/decompress.c, boot.rst of x86, arm64 and riscv, initramfs-format; RFC 1952; ECMA-119;
 * AOSP system/core libsparse; 7-Zip DOC/7zFormat.txt; RARLAB technote; lzip's manual.
 */
static const struct file_magic table[] = {
	{"a guest that testudo save wrote", FILE_SAVED, MAGIC(0, "TSTUDOMG"), NULL},
	{"a qcow disk image", FILE_DISK, MAGIC(0, "QFI\xfb\0\0\0\1"), "qcow"},
	{"a qcow2 disk image", FILE_DISK, MAGIC(0, "QFI\xfb"), "qcow2"},
	{"a qed disk image", FILE_DISK, MAGIC(0, "QED\0"), "qed"},
	{"a vmdk disk image", FILE_DISK, MAGIC(0, "KDMV"), "vmdk"},
	{"a vmdk disk image", FILE_DISK, MAGIC(0, "COWD"), "vmdk"},
	{"a vmdk disk image", FILE_DISK, MAGIC(0, "\xbe\xba\xfe\xca\0\0\0\0"), "vmdk"},
	{"the description of a vmdk disk image", FILE_DISK, MAGIC(0, "# Disk DescriptorFile"),
	 "vmdk"},
	{"a vdi disk image", FILE_DISK, MAGIC(0x40, "\x7f\x10\xda\xbe"), "vdi"},
	{"a vhdx disk image", FILE_DISK, MAGIC(0, "vhdxfile"), "vhdx"},
	{"a dynamic vhd disk image", FILE_DISK, MAGIC(0, "conectix"), "vpc"},
	{"a fixed vhd disk image", FILE_DISK, MAGIC(-512, "conectix"), "vpc"},
	{"a Parallels disk image", FILE_DISK, MAGIC(0, "WithoutFreeSpace"), "parallels"},
	{"a Parallels disk image", FILE_DISK, MAGIC(0, "WithouFreSpacExt"), "parallels"},
	{"a Bochs disk image", FILE_DISK, MAGIC(0, "Bochs Virtual HD Image"), "bochs"},
	{"a cloop disk image", FILE_DISK, MAGIC(0, "#!/bin/sh\n#V2.0 Format\n"), "cloop"},
	{"a dmg disk image", FILE_DISK, MAGIC(-512, "koly\0\0\0\4\0\0\2\0"), "dmg"},
	{"compressed with gzip", FILE_PACKED, MAGIC(0, "\x1f\x8b\x08"), "gzip -d"},
	{"compressed with xz", FILE_PACKED, MAGIC(0, "\xfd\x37zXZ\0"), "xz -d"},
	{"compressed with zstd", FILE_PACKED, MAGIC(0, "\x28\xb5\x2f\xfd"), "zstd -d"},
	{"compressed with lz4", FILE_PACKED, MAGIC(0, "\x04\x22\x4d\x18"), "lz4 -d"},
	{"compressed with lz4", FILE_PACKED, MAGIC(0, "\x02\x21\x4c\x18"), "lz4 -d"},
	{"compressed with lzop", FILE_PACKED, MAGIC(0, "\x89LZO\0\r\n\x1a\n"), "lzop -d"},
	{"compressed with bzip2", FILE_PACKED, MAGIC(0, "BZh"), "bzip2 -d"},
	{"compressed with lzma", FILE_PACKED, MAGIC(0, "\x5d\0\0\0"), "lzma -d"},
	{"compressed with lzip", FILE_PACKED, MAGIC(0, "LZIP\1"), "lzip -d"},
	{"a ZIP archive", FILE_PACKED, MAGIC(0, "PK\3\4"), "unzip"},
	{"a 7z archive", FILE_PACKED, MAGIC(0, "7z\xbc\xaf\x27\x1c"), "7z x"},
	{"a RAR archive", FILE_PACKED, MAGIC(0, "Rar!\x1a\7"), "unrar x"},
	{"an Android sparse image", FILE_PACKED, MAGIC(0, "\x3a\xff\x26\xed"), "simg2img"},
	{"an initrd (cpio archive)", FILE_INITRD, MAGIC(0, "07070"), NULL},
	{"an ELF file", FILE_KERNEL, MAGIC(0, "\177ELF"), NULL},
	{"a Linux kernel", FILE_KERNEL, MAGIC(0x202, "HdrS"), NULL},
	{"a kernel for arm64", FILE_OTHER_KERNEL, MAGIC(0x38, "ARM\x64"), NULL},
	{"a kernel for RISC-V", FILE_OTHER_KERNEL, MAGIC(0x38, "RSC\x05"), NULL},
	{"a U-Boot image", FILE_OTHER_KERNEL, MAGIC(0, "\x27\x05\x19\x56"), NULL},
	{"a device tree or FIT image", FILE_OTHER_KERNEL, MAGIC(0, "\xd0\x0d\xfe\xed"), NULL},
	{"an ISO 9660 image", FILE_RAW, MAGIC(0x8001, "CD001"), NULL},
	{"a disk image with a partition table", FILE_RAW, MAGIC(0x200, "EFI PART"), NULL},
	{"a disk image with a boot sector", FILE_RAW, MAGIC(0x1fe, "\x55\xaa"), NULL},
};

const struct file_magic *file_magic_table(size_t *n)
{
	*n = ARRAY_SIZE(table);
	return table;
}

/* Two blocks of the file: nothing that is looked for reaches beyond the second. */
struct window {
	int fd;
	char *buf;
	uint64_t start;
	size_t len;
	bool filled;
};

static bool fits(struct window *w, uint64_t at, const struct file_magic *m)
{
	const uint64_t start = at / BLOCK * BLOCK;
	ssize_t n;

	if (!w->filled || w->start != start) {
		n = pread(w->fd, w->buf, (size_t)2 * BLOCK, (off_t)start);
		w->len = n < 0 ? 0 : (size_t)n;
		w->start = start;
		w->filled = true;
	}
	at -= start;
	return at + m->len <= w->len && memcmp(w->buf + at, m->bytes, m->len) == 0;
}

const struct file_magic *file_magic_find(int fd, uint64_t size)
{
	AUTO_FREE void *buf = NULL;
	struct window w = {.fd = fd};
	size_t i;

	if (posix_memalign(&buf, BLOCK, (size_t)2 * BLOCK))
		return NULL;
	w.buf = buf;
	for (i = 0; i < ARRAY_SIZE(table); i++) {
		const struct file_magic *m = &table[i];
		const uint64_t back = m->offset < 0 ? (uint64_t)-m->offset : 0;

		if (back <= size && fits(&w, back ? size - back : (uint64_t)m->offset, m))
			return m;
	}
	return NULL;
}

const char *file_magic_cure(const struct file_magic *m, bool disk_wanted, char buf[FILE_CURE_MAX])
{
	static const struct {
		const char *before, *after; /* the tool */
	} cures[] = {
		[FILE_DISK] = {"make a raw one with qemu-img convert -f ", " -O raw"},
		[FILE_RAW] = {"give it with -d", ""},
		[FILE_PACKED] = {"unpack it with ", ""},
		[FILE_KERNEL] = {"give it with -k", ""},
		[FILE_OTHER_KERNEL] = {"give one for x86-64", ""},
		[FILE_INITRD] = {"give it with -i", ""},
		[FILE_SAVED] = {"give it with --incoming file:", ""},
	};

	snprintf(buf, FILE_CURE_MAX, "%s%s%s%s", cures[m->class].before, m->tool ? m->tool : "",
		 cures[m->class].after,
		 m->class == FILE_DISK && !disk_wanted ? ", and give it with -d" : "");
	return buf;
}
