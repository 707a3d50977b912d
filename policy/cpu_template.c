#include "policy/cpu_template.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "policy/json_read.h"

#define PLACE_MAX 96

static const char *const top_keys[] = {"kvm_capabilities", "cpuid_modifiers", "msr_modifiers",
				       NULL};
static const char *const cpuid_keys[] = {"leaf", "subleaf", "flags", "modifiers", NULL};
static const char *const register_keys[] = {"register", "bitmap", NULL};
static const char *const msr_keys[] = {"addr", "bitmap", NULL};
static const char *const registers[] = {"eax", "ebx", "ecx", "edx"};

static int read_bitmap(const struct json_place *at, const char *path, json_t *o, unsigned int width,
		       uint64_t *mask, uint64_t *value)
{
	json_t *v = json_object_get(o, "bitmap");
	char legal[96];

	if (json_is_string(v) &&
	    template_bitmap_parse("", json_string_value(v), width, mask, value, NULL) == 0)
		return 0;
	snprintf(legal, sizeof(legal),
		 "0b and 1 to %u of the characters 0, 1 and x, with _ between", width);
	return json_read_bad(at, path, "bitmap", v, legal);
}

static int read_u32(const struct json_place *at, const char *path, json_t *o, const char *key,
		    uint32_t *out)
{
	json_t *v = json_object_get(o, key);
	uint64_t mask, value;
	int ret;

	/* a number in binary is a bitmap without x */
	if (json_is_string(v) &&
	    template_bitmap_parse("", json_string_value(v), 32, &mask, &value, NULL) == 0 &&
	    !strchr(json_string_value(v), 'x')) {
		*out = (uint32_t)value;
		return 0;
	}
	ret = json_read_number(at, path, key, v, UINT32_MAX, &value);
	if (ret == 0)
		*out = (uint32_t)value;
	return ret;
}

static int too_many(const struct json_place *at, const char *key, unsigned int max)
{
	return err_set(at->e, -EINVAL, "%s %s: %s: more than %u; leave some out", at->what,
		       at->name, key, max);
}

static int parse_cap(const struct json_place *at, json_t *v, struct cpu_template_cap *cap)
{
	const char *s = json_is_string(v) ? json_string_value(v) : "";
	uint64_t n = 0;
	size_t i;

	cap->remove = *s == '!';
	s += cap->remove;
	for (i = 0; s[i] >= '0' && s[i] <= '9' && i < 10; i++)
		n = 10 * n + (uint64_t)(s[i] - '0');
	if (i == 0 || s[i] || n > UINT32_MAX)
		return json_read_bad(at, "", "kvm_capabilities", v,
				     "the number of a KVM capability as a string, \"171\" or "
				     "\"!171\"");
	cap->cap = (uint32_t)n;
	return 0;
}

static int parse_register(const struct json_place *at, const char *path, json_t *o,
			  struct cpu_template_op *op)
{
	json_t *v = json_object_get(o, "register");
	uint64_t mask, value;
	size_t i;
	int ret;

	if (!json_is_object(o))
		return json_read_bad(at, path, "modifiers", o, "an object with register, bitmap");
	ret = json_read_known(at, path, o, register_keys);
	if (ret < 0)
		return ret;
	for (i = 0; i < ARRAY_SIZE(registers); i++)
		if (json_is_string(v) && strcmp(json_string_value(v), registers[i]) == 0)
			break;
	if (i == ARRAY_SIZE(registers))
		return json_read_bad(at, path, "register", v, "eax, ebx, ecx or edx");
	op->reg = (enum cpuid_reg)i;
	ret = read_bitmap(at, path, o, 32, &mask, &value);
	if (ret < 0)
		return ret;
	op->mask = (uint32_t)mask;
	op->value = (uint32_t)value;
	return 0;
}

static int parse_leaf(const struct json_place *at, size_t index, json_t *o, struct cpu_template *t)
{
	struct cpu_template_op op = {0};
	uint32_t flags;
	char path[PLACE_MAX];
	json_t *list, *v;
	size_t i;
	int ret;

	snprintf(path, sizeof(path), "cpuid_modifiers[%zu].", index);
	if (!json_is_object(o))
		return json_read_bad(at, "", "cpuid_modifiers", o, "objects");
	ret = json_read_known(at, path, o, cpuid_keys);
	if (ret == 0)
		ret = read_u32(at, path, o, "leaf", &op.leaf);
	if (ret == 0)
		ret = read_u32(at, path, o, "subleaf", &op.subleaf);
	if (ret == 0)
		ret = read_u32(at, path, o, "flags", &flags);
	if (ret < 0)
		return ret;
	list = json_object_get(o, "modifiers");
	if (!json_is_array(list))
		return json_read_bad(at, path, "modifiers", list, "an array of objects");
	json_array_foreach(list, i, v)
	{
		if (t->n_cpuid == CPU_TEMPLATE_CPUID_MAX)
			return too_many(at, "cpuid_modifiers", CPU_TEMPLATE_CPUID_MAX);
		snprintf(path, sizeof(path), "cpuid_modifiers[%zu].modifiers[%zu].", index, i);
		ret = parse_register(at, path, v, &op);
		if (ret < 0)
			return ret;
		t->cpuid[t->n_cpuid++] = op;
	}
	return 0;
}

static int parse_msr(const struct json_place *at, size_t index, json_t *o,
		     struct msr_template_op *op)
{
	char path[PLACE_MAX];
	int ret;

	snprintf(path, sizeof(path), "msr_modifiers[%zu].", index);
	if (!json_is_object(o))
		return json_read_bad(at, "", "msr_modifiers", o, "objects");
	ret = json_read_known(at, path, o, msr_keys);
	if (ret == 0)
		ret = read_u32(at, path, o, "addr", &op->index);
	if (ret == 0)
		ret = read_bitmap(at, path, o, 64, &op->mask, &op->value);
	return ret;
}

static int parse_root(const struct json_place *at, json_t *root, struct cpu_template *t)
{
	json_t *list[3], *v;
	size_t i;
	int ret;

	if (json_object_get(root, "reg_modifiers") || json_object_get(root, "vcpu_features"))
		return err_set(at->e, -EINVAL,
			       "%s %s: reg_modifiers and vcpu_features are for Arm; give a "
			       "template for x86-64",
			       at->what, at->name);
	ret = json_read_known(at, "", root, top_keys);
	if (ret < 0)
		return ret;
	for (i = 0; i < ARRAY_SIZE(list); i++) {
		list[i] = json_object_get(root, top_keys[i]);
		if (list[i] && !json_is_array(list[i]))
			return json_read_bad(at, "", top_keys[i], list[i], "an array");
	}
	json_array_foreach(list[0], i, v)
	{
		if (t->n_caps == CPU_TEMPLATE_CAP_MAX)
			return too_many(at, top_keys[0], CPU_TEMPLATE_CAP_MAX);
		ret = parse_cap(at, v, &t->cap[t->n_caps++]);
		if (ret < 0)
			return ret;
	}
	json_array_foreach(list[1], i, v)
	{
		ret = parse_leaf(at, i, v, t);
		if (ret < 0)
			return ret;
	}
	json_array_foreach(list[2], i, v)
	{
		if (t->n_msr == CPU_TEMPLATE_MSR_MAX)
			return too_many(at, top_keys[2], CPU_TEMPLATE_MSR_MAX);
		ret = parse_msr(at, i, v, &t->msr[t->n_msr++]);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int cpu_template_parse(const char *name, const char *text, size_t len, struct cpu_template *t,
		       struct err *e)
{
	const struct json_place at = {.what = "CPU template", .name = name, .e = e};
	json_t *root;
	int ret;

	memset(t, 0, sizeof(*t));
	root = json_read_text(&at, text, len, CPU_TEMPLATE_SIZE_MAX, &ret);
	if (!root)
		return ret;
	ret = parse_root(&at, root, t);
	json_decref(root);
	return ret;
}
