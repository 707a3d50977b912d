#include "vmm/hold/host_here.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/file.h"
#include "vmm/hold/backend.h"
#include "vmm/hold/host_facts.h"
#include "vmm/kvm/kvm.h"

#define SYSFS_CPU "/sys/devices/system/cpu/"

static void read_microcode(struct host_info *info)
{
	char line[256], *colon;
	FILE *f;

	if (file_read_line(SYSFS_CPU "cpu0/microcode/version", line, sizeof(line)) == 0) {
		host_info_set(info->microcode, sizeof(info->microcode), line);
		return;
	}
	/* guests of other hypervisors have no such folder, but the line */
	f = fopen("/proc/cpuinfo", "re");
	while (f && fgets(line, sizeof(line), f)) {
		colon = strchr(line, ':');
		if (strncmp(line, "microcode", strlen("microcode")) != 0 || !colon)
			continue;
		line[strcspn(line, "\n")] = '\0';
		host_info_set(info->microcode, sizeof(info->microcode),
			      colon + 1 + strspn(colon + 1, " "));
		break;
	}
	if (f)
		fclose(f);
}

static int is_file(const struct dirent *d)
{
	return d->d_name[0] != '.';
}

static void read_vulnerabilities(struct host_info *info)
{
	static const char dir[] = SYSFS_CPU "vulnerabilities";
	struct dirent **names = NULL;
	int n = scandir(dir, &names, is_file, alphasort), i;

	for (i = 0; i < n; i++) {
		char path[sizeof(dir) + 1 + sizeof(names[i]->d_name)], text[256];

		snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name);
		if (info->n_vulns < FACTS_VULN_MAX &&
		    file_read_line(path, text, sizeof(text)) == 0) {
			host_info_set(info->vuln[info->n_vulns].name, sizeof(info->vuln[0].name),
				      names[i]->d_name);
			host_info_set(info->vuln[info->n_vulns].text, sizeof(info->vuln[0].text),
				      text);
			info->n_vulns++;
		}
		free(names[i]);
	}
	free(names);
}

static void read_info(struct host_info *info, const struct host_facts *facts)
{
	struct host_traits t;
	struct utsname name;

	host_traits_derive(facts, &t);
	host_info_set(info->cpu, sizeof(info->cpu), t.name);
	read_microcode(info);
	if (uname(&name) == 0)
		host_info_set(info->kernel, sizeof(info->kernel), name.release);
	read_vulnerabilities(info);
}

static int read_backend(struct backend_facts *b, const struct kvm *kvm, uint32_t force_cap,
			struct err *e)
{
	struct backend found;
	int ret = backend_probe(&found, kvm, force_cap, e);

	if (!ret)
		*b = backend_facts(&found);
	backend_fini(&found);
	return ret;
}

int host_here_read(struct host_file *f, uint32_t force_cap, struct err *e)
{
	struct kvm kvm;
	int ret = kvm_open(&kvm, e);

	memset(f, 0, sizeof(*f));
	if (ret == 0) {
		host_facts_read(&f->facts, &kvm);
		f->cpuid = kvm.cpuid;
		ret = read_backend(&f->backend, &kvm, force_cap, e);
	}
	if (ret == 0)
		read_info(&f->info, &f->facts);
	kvm_close(&kvm);
	return ret;
}
