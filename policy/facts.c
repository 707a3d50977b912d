#include "policy/facts.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/text.h"
#include "msr/spec_ctrl.h"
#include "policy/json_read.h"

#define VERSION_KEY "testudo-host-facts"
#define BARRIERS    "barriers"
#define NESTED_EXIT "nested-exit"

/* "msr-exits", "kvm-cpuid" and "barriers" need not be there: older files do not have them */
static const char *const top_keys[] = {VERSION_KEY, "facts", "backend", "kvm-cpuid",
				       BARRIERS,    "info",  NULL};
#define CAN_HOLD	 "can-hold"
#define CAN_HOLD_EARLIER "can-force" /* its name in older files */

static const char *const backend_keys[] = {"name", CAN_HOLD, CAN_HOLD_EARLIER, "msr-exits", NULL};

#define MEMBER(m) offsetof(struct host_facts, m)

/* The numbers of struct host_facts. Families end at 15 + 255, models at 255 (SDM vol.2 CPUID). */
static const struct number_row {
	const char *key;
	size_t offset;
	uint64_t max; /* above 32 bits: the member is an uint64_t */
	bool hex;
	const char *leaf; /* key in "kvm-cpuid", which has it, too; NULL: that has it not */
} numbers[] = {
	{"family", MEMBER(family), 270, false, "1"},
	{"model", MEMBER(model), 255, false, "1"},
	{"stepping", MEMBER(stepping), 15, false, "1"},
	{"cpuid-7-0-ecx", MEMBER(leaf7_0_ecx), UINT32_MAX, true, NULL},
	{"cpuid-7-0-edx", MEMBER(leaf7_0_edx), UINT32_MAX, true, NULL},
	{"cpuid-7-2-edx", MEMBER(leaf7_2_edx), UINT32_MAX, true, NULL},
	{"kvm-cpuid-7-0-edx", MEMBER(kvm_leaf7_0_edx), UINT32_MAX, true, "7.0"},
	{"kvm-cpuid-7-2-edx", MEMBER(kvm_leaf7_2_edx), UINT32_MAX, true, "7.2"},
	{"kvm-arch-capabilities", MEMBER(kvm_arch_cap), UINT64_MAX, true, NULL},
};

#define N_KINDS (BACKEND_FORCE_VCPU + 1)

void host_info_set(char *member, size_t size, const char *text)
{
	size_t i;

	for (i = 0; i + 1 < size && text[i]; i++)
		member[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
	member[i] = '\0';
}

static int parse_numbers(const struct json_place *at, json_t *o, struct host_facts *f)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(numbers); i++) {
		const struct number_row *row = &numbers[i];
		uint64_t v;
		uint32_t v32;
		int ret = json_read_number(at, "facts.", row->key, json_object_get(o, row->key),
					   row->max, &v);

		if (ret < 0)
			return ret;
		v32 = (uint32_t)v;
		if (row->max > UINT32_MAX)
			memcpy((char *)f + row->offset, &v, sizeof(v));
		else
			memcpy((char *)f + row->offset, &v32, sizeof(v32));
	}
	return 0;
}

static int parse_facts(const struct json_place *at, json_t *o, struct host_facts *f)
{
	const char *known[ARRAY_SIZE(numbers) + 3] = {"vendor", "hypervisor"};
	json_t *v;
	size_t i;
	int ret;

	if (!json_is_object(o))
		return json_read_bad(at, "", "facts", o, "an object");
	for (i = 0; i < ARRAY_SIZE(numbers); i++)
		known[i + 2] = numbers[i].key;
	ret = json_read_known(at, "facts.", o, known);
	if (ret < 0)
		return ret;

	v = json_object_get(o, "vendor");
	if (!json_is_string(v) || json_string_length(v) != sizeof(f->vendor_id) - 1)
		return json_read_bad(at, "facts.", "vendor", v,
				     "the 12 letters of CPUID leaf 0, such as \"GenuineIntel\"");
	host_info_set(f->vendor_id, sizeof(f->vendor_id), json_string_value(v));
	if (strcmp(f->vendor_id, json_string_value(v)) != 0)
		return json_read_bad(at, "facts.", "vendor", v,
				     "the 12 letters of CPUID leaf 0, such as \"GenuineIntel\"");
	v = json_object_get(o, "hypervisor");
	if (!json_is_boolean(v))
		return json_read_bad(at, "facts.", "hypervisor", v, "true or false");
	f->hypervisor = json_is_true(v);
	return parse_numbers(at, o, f);
}

static uint64_t bit_by_name(const char *name)
{
	unsigned int shift;

	for (shift = 0; shift < 64; shift++) {
		const char *n = spec_ctrl_bit_name(1ULL << shift);

		if (n && strcmp(n, name) == 0)
			return 1ULL << shift;
	}
	return 0;
}

static int parse_backend(const struct json_place *at, json_t *o, struct backend_facts *b)
{
	char legal[256] = "";
	json_t *v, *word;
	size_t i;
	const char *key = CAN_HOLD;
	int kind, ret;

	if (!json_is_object(o))
		return json_read_bad(at, "", "backend", o, "an object");
	ret = json_read_known(at, "backend.", o, backend_keys);
	if (ret < 0)
		return ret;

	v = json_object_get(o, "name");
	for (kind = 0; kind < N_KINDS; kind++)
		if (json_is_string(v) &&
		    strcmp(json_string_value(v), backend_name((enum backend_kind)kind)) == 0)
			break;
	if (kind == N_KINDS) {
		for (kind = 0; kind < N_KINDS - 1; kind++)
			text_list_add(legal, sizeof(legal), backend_name((enum backend_kind)kind));
		text_list_end(legal, sizeof(legal), backend_name((enum backend_kind)kind));
		return json_read_bad(at, "backend.", "name", v, legal);
	}
	b->kind = (enum backend_kind)kind;

	v = json_object_get(o, CAN_HOLD_EARLIER);
	if (v && json_object_get(o, CAN_HOLD))
		return json_read_bad(at, "backend.", CAN_HOLD_EARLIER, v, CAN_HOLD " alone");
	if (v)
		key = CAN_HOLD_EARLIER;
	v = json_object_get(o, key);
	if (!json_is_array(v))
		return json_read_bad(at, "backend.", key, v, "an array of names of bits");
	json_array_foreach(v, i, word)
	{
		uint64_t bit = json_is_string(word) ? bit_by_name(json_string_value(word)) : 0;

		if (!bit)
			return json_read_bad(at, "backend.", key, word,
					     "bits of SPEC_CTRL, such as \"BHI_DIS_S\"");
		b->can_force |= bit;
	}
	if (b->kind == BACKEND_NONE && b->can_force)
		return json_read_bad(at, "backend.", key, v, "[] with the back end none");
	v = json_object_get(o, "msr-exits");
	if (v && !json_is_boolean(v))
		return json_read_bad(at, "backend.", "msr-exits", v, "true or false");
	b->no_msr_exits = v && json_is_false(v);
	return 0;
}

static const char *const barrier_keys[] = {"per-vm", "ibpb", "kernel", NESTED_EXIT, NULL};

/* Legal is what is written alike. */
static int parse_kernel(const struct json_place *at, json_t *v, struct barrier_facts *b)
{
	char same[48];
	const char *text = json_is_string(v) ? json_string_value(v) : "";

	sscanf(text, "%5" SCNu32 ".%5" SCNu32 ".%5" SCNu32, &b->major, &b->minor, &b->patch);
	barrier_kernel_name(b, same, sizeof(same));
	return strcmp(text, same) == 0 ? 0
				       : json_read_bad(at, BARRIERS ".", "kernel", v,
						       "its version, such as \"6.12.118\"");
}

/* Of earlier files nothing is known. */
static int parse_barriers(const struct json_place *at, json_t *o, struct barrier_facts *b)
{
	enum host_ibpb i = HOST_IBPB_UNKNOWN;
	json_t *v;
	int ret;

	if (!o)
		return 0;
	if (!json_is_object(o))
		return json_read_bad(at, "", BARRIERS, o, "an object");
	ret = json_read_known(at, BARRIERS ".", o, barrier_keys);
	if (ret < 0)
		return ret;
	v = json_object_get(o, "per-vm");
	if (!json_is_boolean(v))
		return json_read_bad(at, BARRIERS ".", "per-vm", v, "true or false");
	b->driven = json_is_true(v);
	v = json_object_get(o, "ibpb");
	while (i <= HOST_IBPB_ALWAYS &&
	       !(json_is_string(v) && strcmp(json_string_value(v), host_ibpb_name(i)) == 0))
		i++;
	if (i > HOST_IBPB_ALWAYS)
		return json_read_bad(at, BARRIERS ".", "ibpb", v,
				     "unknown, disabled, conditional or always-on");
	b->ibpb = i;
	v = json_object_get(o, NESTED_EXIT); /* a KVM that says nothing has none */
	if (v && !json_is_boolean(v))
		return json_read_bad(at, BARRIERS ".", NESTED_EXIT, v, "true or false");
	if (v && !b->driven)
		return err_set(at->e, -EINVAL,
			       "%s %s: " BARRIERS "." NESTED_EXIT
			       " is said by a KVM with per-vm: true only; leave it out",
			       at->what, at->name);
	if (v)
		b->nested_exit = json_is_true(v) ? NESTED_EXIT_BARRIER : NESTED_EXIT_BARE;
	return parse_kernel(at, json_object_get(o, "kernel"), b);
}

#define CPUID_KEY    "%x" /* "1", or with a sub-leaf "7.0" */
#define CPUID_SUBKEY "%x.%x"
#define CPUID_VALUE  "0x%08x 0x%08x 0x%08x 0x%08x"

static void format_leaf(const struct cpuid_leaf *l, char *key, char *value, size_t size)
{
	if (l->indexed)
		snprintf(key, size, CPUID_SUBKEY, l->leaf, l->subleaf);
	else
		snprintf(key, size, CPUID_KEY, l->leaf);
	snprintf(value, size, CPUID_VALUE, l->eax, l->ebx, l->ecx, l->edx);
}

/* Legal is what is written alike. */
static int parse_leaf(const struct json_place *at, const char *key, json_t *v,
		      struct cpuid_set *set)
{
	struct cpuid_leaf l = {.indexed = strchr(key, '.')};
	const char *text = json_is_string(v) ? json_string_value(v) : "";
	char same_key[64], same_text[64];

	sscanf(key, "%8" SCNx32 ".%8" SCNx32, &l.leaf, &l.subleaf);
	sscanf(text, "0x%8" SCNx32 " 0x%8" SCNx32 " 0x%8" SCNx32 " 0x%8" SCNx32, &l.eax, &l.ebx,
	       &l.ecx, &l.edx);
	format_leaf(&l, same_key, same_text, sizeof(same_key));
	if (strcmp(key, same_key) != 0)
		return err_set(at->e, -EINVAL,
			       "%s %s: kvm-cpuid.%s is not a key; give a leaf such as \"1\", or "
			       "one with its sub-leaf such as \"7.0\"",
			       at->what, at->name, text_quote(key, strlen(key)).s);
	if (strcmp(text, same_text) != 0)
		return json_read_bad(at, "kvm-cpuid.", key, v,
				     "EAX, EBX, ECX and EDX as \"0x00000000 0x00000000 0x00000000 "
				     "0x00000000\"");
	if (cpuid_add(set, &l) < 0)
		return err_set(at->e, -EINVAL,
			       "%s %s: kvm-cpuid: more than %d leaves; is it the right file?",
			       at->what, at->name, CPUID_SET_MAX);
	return 0;
}

static int parse_cpuid(const struct json_place *at, json_t *o, struct cpuid_set *set)
{
	const char *key;
	json_t *v;
	int ret = 0;

	if (!o)
		return 0;
	if (!json_is_object(o))
		return json_read_bad(at, "", "kvm-cpuid", o, "an object");
	json_object_foreach(o, key, v)
	{
		ret = parse_leaf(at, key, v, set);
		if (ret < 0)
			break;
	}
	return ret;
}

static uint32_t number_at(const struct host_facts *f, const struct number_row *row)
{
	uint32_t v;

	memcpy(&v, (const char *)f + row->offset, sizeof(v));
	return v;
}

/* Some is told twice: a file that was edited in one place would be judged half by the other. */
static int check_told_twice(const struct json_place *at, struct host_file *f)
{
	struct host_facts leaves = {0};
	size_t i;

	host_facts_from_cpuid(&leaves, &f->cpuid, &f->cpuid);
	if (cpuid_find(&f->cpuid, 0, 0) && strcmp(leaves.vendor_id, f->facts.vendor_id) != 0)
		return err_set(at->e, -EINVAL,
			       "%s %s: facts.vendor is not that of kvm-cpuid.0; change both, or "
			       "leave kvm-cpuid out",
			       at->what, at->name);
	for (i = 0; i < ARRAY_SIZE(numbers); i++) {
		const struct number_row *row = &numbers[i];
		uint32_t here, there;

		/* without the leaf nothing is told; without its sub-leaf, 0 */
		if (!row->leaf || !cpuid_find(&f->cpuid, (uint32_t)strtoul(row->leaf, NULL, 16), 0))
			continue;
		here = number_at(&f->facts, row);
		there = number_at(&leaves, row);
		if (here != there)
			return err_set(at->e, -EINVAL,
				       "%s %s: facts.%s is %#x, but kvm-cpuid.%s says %#x; change "
				       "both, or leave kvm-cpuid out",
				       at->what, at->name, row->key, here, row->leaf, there);
	}
	return 0;
}

/* Nothing in here decides anything: what is not understood is left out. */
static void parse_info(json_t *o, struct host_info *info)
{
	json_t *vulns = json_object_get(o, "vulnerabilities"), *v;
	const char *key;
	const struct {
		const char *key;
		char *member;
		size_t size;
	} texts[] = {
		{"cpu", info->cpu, sizeof(info->cpu)},
		{"microcode", info->microcode, sizeof(info->microcode)},
		{"kernel", info->kernel, sizeof(info->kernel)},
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(texts); i++) {
		v = json_object_get(o, texts[i].key);
		if (json_is_string(v))
			host_info_set(texts[i].member, texts[i].size, json_string_value(v));
	}
	json_object_foreach(vulns, key, v)
	{
		if (!json_is_string(v) || info->n_vulns == FACTS_VULN_MAX)
			continue;
		host_info_set(info->vuln[info->n_vulns].name, sizeof(info->vuln[0].name), key);
		host_info_set(info->vuln[info->n_vulns].text, sizeof(info->vuln[0].text),
			      json_string_value(v));
		info->n_vulns++;
	}
}

static int parse_root(const struct json_place *at, json_t *root, struct host_file *f)
{
	json_t *info = json_object_get(root, "info");
	json_t *version = json_object_get(root, VERSION_KEY);
	int ret;

	/* the version first: another one may well have other keys */
	if (!json_is_integer(version) || json_integer_value(version) != FACTS_VERSION)
		return json_read_bad(at, "", VERSION_KEY, version,
				     "1, the only version that this testudo reads");
	ret = json_read_known(at, "", root, top_keys);
	if (ret == 0)
		ret = parse_facts(at, json_object_get(root, "facts"), &f->facts);
	if (ret == 0)
		ret = parse_backend(at, json_object_get(root, "backend"), &f->backend);
	if (ret == 0)
		ret = parse_cpuid(at, json_object_get(root, "kvm-cpuid"), &f->cpuid);
	if (ret == 0)
		ret = parse_barriers(at, json_object_get(root, BARRIERS), &f->backend.barrier);
	if (ret == 0)
		ret = check_told_twice(at, f);
	if (ret == 0 && info && !json_is_object(info))
		ret = json_read_bad(at, "", "info", info, "an object");
	if (ret == 0)
		parse_info(info, &f->info);
	return ret;
}

int host_file_parse(const char *name, const char *text, size_t len, struct host_file *f,
		    struct err *e)
{
	const struct json_place at = {.what = "host facts", .name = name, .e = e};
	json_t *root;
	int ret;

	memset(f, 0, sizeof(*f));
	root = json_read_text(&at, text, len, FACTS_SIZE_MAX, &ret);
	if (!root)
		return ret;
	ret = parse_root(&at, root, f);
	json_decref(root);
	return ret;
}

static json_t *format_facts(const struct host_facts *f)
{
	json_t *o = json_pack("{s:s, s:b}", "vendor", f->vendor_id, "hypervisor", f->hypervisor);
	size_t i;

	for (i = 0; o && i < ARRAY_SIZE(numbers); i++) {
		const struct number_row *row = &numbers[i];
		uint64_t v;
		char hex[24];

		v = number_at(f, row);
		if (row->max > UINT32_MAX)
			memcpy(&v, (const char *)f + row->offset, sizeof(v));
		snprintf(hex, sizeof(hex), "0x%llx", (unsigned long long)v);
		json_object_set_new(o, row->key,
				    row->hex ? json_string(hex) : json_integer((json_int_t)v));
	}
	return o;
}

static json_t *format_bits(uint64_t bits)
{
	json_t *a = json_array();
	unsigned int shift;

	for (shift = 0; shift < 64; shift++)
		if (bits & 1ULL << shift && spec_ctrl_bit_name(1ULL << shift))
			json_array_append_new(a, json_string(spec_ctrl_bit_name(1ULL << shift)));
	return a;
}

static json_t *format_info(const struct host_info *info)
{
	json_t *vulns = json_object();
	unsigned int i;

	for (i = 0; i < info->n_vulns; i++)
		json_object_set_new(vulns, info->vuln[i].name, json_string(info->vuln[i].text));
	return json_pack("{s:s, s:s, s:s, s:o}", "cpu", info->cpu, "microcode", info->microcode,
			 "kernel", info->kernel, "vulnerabilities", vulns);
}

static json_t *format_backend(const struct backend_facts *b)
{
	return json_pack("{s:s, s:o, s:o*}", "name", backend_name(b->kind), CAN_HOLD,
			 format_bits(b->can_force), "msr-exits",
			 b->no_msr_exits ? json_false() : NULL);
}

/* NULL where nothing is known */
static json_t *format_barriers(const struct barrier_facts *b)
{
	char kernel[48];

	if (!barrier_facts_known(b))
		return NULL;
	barrier_kernel_name(b, kernel, sizeof(kernel));
	return json_pack("{s:b, s:s, s:s, s:o*}", "per-vm", b->driven, "ibpb",
			 host_ibpb_name(b->ibpb), "kernel", kernel, NESTED_EXIT,
			 b->nested_exit ? json_boolean(b->nested_exit == NESTED_EXIT_BARRIER)
					: NULL);
}

/* NULL where nothing is known */
static json_t *format_cpuid(const struct cpuid_set *set)
{
	json_t *o = set->n_leaves ? json_object() : NULL;
	uint32_t i;

	for (i = 0; o && i < set->n_leaves; i++) {
		char key[64], value[64];

		format_leaf(&set->leaf[i], key, value, sizeof(key));
		json_object_set_new(o, key, json_string(value));
	}
	return o;
}

char *host_file_format(const struct host_file *f)
{
	json_t *root =
		json_pack("{s:i, s:o, s:o, s:o*, s:o*, s:o}", VERSION_KEY, FACTS_VERSION, "facts",
			  format_facts(&f->facts), "backend", format_backend(&f->backend),
			  "kvm-cpuid", format_cpuid(&f->cpuid), BARRIERS,
			  format_barriers(&f->backend.barrier), "info", format_info(&f->info));
	char *text = root ? json_dumps(root, JSON_INDENT(8)) : NULL, *line = NULL;

	json_decref(root);
	if (text && asprintf(&line, "%s\n", text) < 0)
		line = NULL;
	free(text);
	return line;
}
