/*
 * The host fact file: what a host is, as JSON that `testudo host --json` writes and a pool or the
 * what-if tool reads elsewhere. Read as hostile: it comes from another machine and a guest's
 * protection is decided by it.
 */
#ifndef POLICY_FACTS_H
#define POLICY_FACTS_H

#include <stddef.h>

#include "msr/decide.h"

struct err;

#define FACTS_VERSION  1
#define FACTS_SIZE_MAX (64 * 1024) /* bytes of a fact file */
#define FACTS_VULN_MAX 48

/* What people want to know beside the facts; decides nothing. Texts are printable ASCII. */
struct host_info {
	char cpu[64];	    /* "Sapphire Rapids" */
	char microcode[32]; /* "0x2b000461" */
	char kernel[128];   /* uname -r */
	unsigned int n_vulns;
	struct {
		char name[48]; /* file of /sys/devices/system/cpu/vulnerabilities */
		char text[256];
	} vuln[FACTS_VULN_MAX];
};

struct host_file {
	struct host_facts facts;
	struct backend_facts backend;
	struct cpuid_set cpuid; /* what KVM offers to guests; no leaves: the file does not tell */
	struct host_info info;
};

/**
 * host_file_parse - read a fact file
 * @name: the file's name, for messages
 * @text: @len bytes of it, up to FACTS_SIZE_MAX; need not end with NUL
 * @f: unspecified on error
 * Every fact must be there and in range, and nothing that is none, and what "kvm-cpuid" tells again
 * must be the same; "kvm-cpuid", "barriers" and the back end's "msr-exits" may be missing, as in
 * files of earlier releases. In "info" an unknown key is ignored,
 * and a text that is too long or not printable is cut or cleaned.
 * Return: 0; -EINVAL with "host facts NAME: ..." in @e; -EFBIG; -ENOMEM
 */
int host_file_parse(const char *name, const char *text, size_t len, struct host_file *f,
		    struct err *e);

/**
 * host_file_format - the fact file as text, newline at the end
 * Return: a block that the caller frees; NULL when out of memory
 */
char *host_file_format(const struct host_file *f);

/** host_info_set - copy @text into a member of @size bytes: cut, and '?' for what is not printable
 */
void host_info_set(char *member, size_t size, const char *text);

#endif
