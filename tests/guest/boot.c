/*
 * The PVH hand-over (Xen docs/misc/pvh.pandoc, include/xen/interface/hvm/start_info.h) and options.
 */
#include "tests/guest/guest.h"

#define START_INFO_MAGIC 0x336ec578

struct start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr;
	/* version 1 */
	uint64_t memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct start_module {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct start_region {
	uint64_t addr, size;
	uint32_t type, reserved;
};

struct boot_info boot;

const char *boot_init(uint64_t start_info)
{
	const struct start_info *si = (const struct start_info *)start_info;
	const struct start_region *map = (const struct start_region *)si->memmap_paddr;
	const char *cmdline = (const char *)si->cmdline_paddr;

	if (si->magic != START_INFO_MAGIC)
		return "hvm_start_info has a wrong magic";
	if (si->version < 1)
		return "hvm_start_info is of version 0, without a memory map";
	if (cmdline) {
		for (size_t i = 0; i < sizeof(boot.cmdline) - 1 && cmdline[i] != '\0'; i++)
			boot.cmdline[i] = cmdline[i];
	}
	boot.rsdp = si->rsdp_paddr;
	if (si->nr_modules) {
		const struct start_module *mod = (const struct start_module *)si->modlist_paddr;

		boot.initrd_addr = mod->paddr;
		boot.initrd_size = mod->size;
	}
	if (si->memmap_entries > BOOT_MAX_REGIONS)
		return "the memory map has too many entries";
	boot.n_regions = si->memmap_entries;
	for (uint32_t i = 0; i < boot.n_regions; i++) {
		boot.region[i] = (struct boot_region) {map[i].addr, map[i].size, map[i].type};
	}
	return NULL;
}

const char *opt_command(void)
{
	static char word[32];
	const char *p = boot.cmdline;
	size_t n = 0;

	/* a VMM may put options of its own, such as console=ttyS0, before ours */
	while (*p != '\0' && n == 0) {
		bool option = false;

		while (*p == ' ')
			p++;
		for (; *p > ' '; p++) {
			option |= *p == '=';
			if (n < sizeof(word) - 1)
				word[n++] = *p;
		}
		if (option)
			n = 0;
	}
	word[n] = '\0';
	return word;
}

const char *opt_str(const char *key, const char *otherwise)
{
	/* answers stay valid: every one of a run has its own place */
	static char pool[4096];
	static size_t used;
	const char *p = boot.cmdline;

	while (*p != '\0') {
		size_t n = 0;
		char *value = pool + used;

		while (*p == ' ')
			p++;
		while (key[n] != '\0' && p[n] == key[n])
			n++;
		if (key[n] == '\0' && p[n] == '=') {
			for (p += n + 1; *p > ' ' && used < sizeof(pool) - 1; p++)
				pool[used++] = *p;
			pool[used++] = '\0';
			return value;
		}
		while (*p > ' ')
			p++;
	}
	return otherwise;
}

uint64_t opt_u64(const char *key, uint64_t otherwise)
{
	const char *s = opt_str(key, NULL);
	uint64_t base = 10, v = 0;

	if (!s)
		return otherwise;
	if (s[0] == '0' && s[1] == 'x') {
		base = 16;
		s += 2;
	}
	for (; *s != '\0'; s++) {
		uint64_t digit = (uint64_t)(*s <= '9' ? *s - '0' : (*s | 0x20) - 'a' + 10);

		if (digit >= base) {
			print("bad number in option %s\n", key);
			guest_end_as("poweroff");
		}
		v = v * base + digit;
	}
	return v;
}
