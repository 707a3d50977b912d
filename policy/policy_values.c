/* The values of a policy's keys: words, bits of SPEC_CTRL, paths and CPU numbers. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "msr/spec_ctrl.h"
#include "policy/policy_reader.h"

/* The members are bool or an enum, which has the size of an int. */
static void store(struct policy *p, const struct policy_key *k, int value)
{
	char *at = (char *)p + k->offset;

	if (k->size == sizeof(bool))
		*(bool *)at = value;
	else
		memcpy(at, &value, sizeof(value));
}

static int read_choice(struct policy_reader *r, const struct policy_key *k)
{
	const struct policy_choice *c = reader_find_choice(r, k);

	if (c)
		store(r->p, k, c->value);
	else if (k->type == KEY_TRUTH && reader_is(r, "true"))
		store(r->p, k, true);
	else if (k->type == KEY_TRUTH && reader_is(r, "false"))
		store(r->p, k, false);
	else
		return reader_bad_value(r, k, NULL);
	return 0;
}

static int read_version(struct policy_reader *r, const struct policy_key *k)
{
	char known[16];

	snprintf(known, sizeof(known), "%d", POLICY_VERSION);
	return reader_is(r, known) ? 0 : reader_bad_value(r, k, NULL);
}

/* A bit's name, all capitals as in the SDM or all small; 0 when it is none. */
static uint64_t find_bit(const struct policy_reader *r)
{
	unsigned int shift;

	for (shift = 0; shift < N_RAW_BITS; shift++) {
		const char *name = spec_ctrl_bit_name(1ULL << shift);
		char small[32];
		size_t i;

		if (!name)
			continue;
		for (i = 0; name[i] && i < sizeof(small) - 1; i++)
			small[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] - 'A' + 'a')
								    : name[i];
		small[i] = '\0';
		if (reader_is(r, name) || reader_is(r, small))
			return 1ULL << shift;
	}
	return 0;
}

static int unknown_bit(struct policy_reader *r, const struct policy_key *k)
{
	char legal[256] = "";
	const char *name, *last = NULL;
	unsigned int shift;

	for (shift = 0; shift < N_RAW_BITS; shift++) {
		name = spec_ctrl_bit_name(1ULL << shift);
		if (name && last)
			text_list_add(legal, sizeof(legal), last);
		if (name)
			last = name;
	}
	text_list_end(legal, sizeof(legal), last ? last : "");
	return err_set(r->e, -EINVAL,
		       "policy %s: line %u: %s: %s is not a bit; give %s, or the same in small "
		       "letters",
		       r->name, reader_line(r), k->name, reader_quote(r).s, legal);
}

static void set_bit(struct mitigation_policy *m, uint64_t bit, int how)
{
	if (how == RAW_GUEST)
		m->raw_guest |= bit;
	else
		m->raw_mask |= bit;
	if (how == RAW_ON)
		m->raw_value |= bit;
}

static int read_bits(struct policy_reader *r, const struct policy_key *k)
{
	int ret;

	if (r->event.type != YAML_MAPPING_START_EVENT)
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: %s: %s is not a value; give a map of bits, "
			       "such as 'BHI_DIS_S: on'",
			       r->name, reader_line(r), k->name, reader_quote(r).s);
	while ((ret = reader_next(r)) == 0 && r->event.type != YAML_MAPPING_END_EVENT) {
		const struct policy_choice *c;
		unsigned int *line;
		uint64_t bit = find_bit(r);

		if (!bit)
			return unknown_bit(r, k);
		line = &r->bit_line[__builtin_ctzll(bit)];
		if (*line)
			return err_set(r->e, -EINVAL,
				       "policy %s: line %u: %s.%s: given on line %u already; leave "
				       "one out",
				       r->name, reader_line(r), k->name, spec_ctrl_bit_name(bit),
				       *line);
		*line = reader_line(r);
		ret = reader_next(r);
		if (ret < 0)
			return ret;
		c = reader_find_choice(r, k);
		if (!c)
			return reader_bad_value(r, k, spec_ctrl_bit_name(bit));
		set_bit(&r->p->mitigation, bit, c->value);
	}
	return ret;
}

static int read_pool(struct policy_reader *r, const struct policy_key *k)
{
	struct policy *p = r->p;
	const unsigned int start = reader_line(r);
	int ret;

	if (r->event.type != YAML_SEQUENCE_START_EVENT)
		return read_choice(r, k);
	p->pool = POOL_FILES;
	while ((ret = reader_next(r)) == 0 && r->event.type != YAML_SEQUENCE_END_EVENT) {
		size_t len = reader_is_scalar(r) ? r->event.data.scalar.length : 0;

		if (len == 0 || len >= POLICY_PATH_MAX ||
		    memchr(r->event.data.scalar.value, '\0', len))
			return err_set(r->e, -EINVAL,
				       "policy %s: line %u: %s: %s is not a path; give a host fact "
				       "file of at most %d bytes",
				       r->name, reader_line(r), k->name, reader_quote(r).s,
				       POLICY_PATH_MAX - 1);
		if (p->n_pool_paths == POLICY_POOL_MAX)
			return err_set(
				r->e, -EINVAL,
				"policy %s: line %u: %s: more than %d files; leave out hosts "
				"that are like another one",
				r->name, reader_line(r), k->name, POLICY_POOL_MAX);
		memcpy(p->pool_path[p->n_pool_paths], r->event.data.scalar.value, len);
		p->pool_path[p->n_pool_paths++][len] = '\0';
	}
	if (!ret && !p->n_pool_paths)
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: %s: an empty list; name host fact files, or "
			       "give this-host",
			       r->name, start, k->name);
	return ret;
}

/* "3" or "3-7". Digits only, so neither signs nor octal numbers. */
static int parse_cpus(const char *s, size_t len, unsigned int *first, unsigned int *last)
{
	unsigned int n[2] = {0, 0}, part = 0, digits = 0;
	size_t i;

	for (i = 0; i < len; i++) {
		if (s[i] == '-' && part == 0 && digits) {
			part = 1;
			digits = 0;
			continue;
		}
		if (s[i] < '0' || s[i] > '9' || ++digits > 5)
			return -EINVAL;
		n[part] = 10 * n[part] + (unsigned int)(s[i] - '0');
	}
	if (!digits)
		return -EINVAL;
	*first = n[0];
	*last = part ? n[1] : n[0];
	return *first <= *last && *last < POLICY_CPU_LIMIT ? 0 : -EINVAL;
}

/* Two vCPUs on one CPU would see each other's predictors: what pinning is there to prevent. */
static int add_pin(struct policy_reader *r, const struct policy_key *k, unsigned int cpu)
{
	struct isolation_policy *iso = &r->p->isolation;
	char path[64];
	unsigned int i;

	reader_key_path(k, path, sizeof(path));
	for (i = 0; i < iso->n_pins; i++)
		if (iso->pin[i] == cpu)
			return err_set(r->e, -EINVAL,
				       "policy %s: line %u: %s: CPU %u is given twice; each vCPU "
				       "needs one of its own",
				       r->name, reader_line(r), path, cpu);
	if (iso->n_pins == POLICY_PIN_MAX)
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: %s: more than %d CPUs; a guest has no more "
			       "vCPUs than that",
			       r->name, reader_line(r), path, POLICY_PIN_MAX);
	iso->pin[iso->n_pins++] = (uint16_t)cpu;
	return 0;
}

static int read_cpus(struct policy_reader *r, const struct policy_key *k)
{
	const unsigned int start = reader_line(r);
	char path[64];
	int ret;

	reader_key_path(k, path, sizeof(path));
	if (r->event.type != YAML_SEQUENCE_START_EVENT)
		return reader_find_choice(r, k) ? 0 : reader_bad_value(r, k, NULL);
	while ((ret = reader_next(r)) == 0 && r->event.type != YAML_SEQUENCE_END_EVENT) {
		unsigned int first, last;

		if (!reader_is_scalar(r) ||
		    parse_cpus((const char *)r->event.data.scalar.value,
			       r->event.data.scalar.length, &first, &last) < 0)
			return err_set(r->e, -EINVAL,
				       "policy %s: line %u: %s: %s is not a host CPU; give a "
				       "number below %d, or a range such as 4-7",
				       r->name, reader_line(r), path, reader_quote(r).s,
				       POLICY_CPU_LIMIT);
		for (; first <= last; first++) {
			ret = add_pin(r, k, first);
			if (ret < 0)
				return ret;
		}
	}
	if (!ret && !r->p->isolation.n_pins)
		return err_set(r->e, -EINVAL,
			       "policy %s: line %u: %s: an empty list; name host CPUs, or give off",
			       r->name, start, path);
	return ret;
}

int value_read(struct policy_reader *r, const struct policy_key *k)
{
	switch (k->type) {
	case KEY_CHOICE:
	case KEY_TRUTH:
		return read_choice(r, k);
	case KEY_VERSION:
		return read_version(r, k);
	case KEY_BITS:
		return read_bits(r, k);
	case KEY_POOL:
		return read_pool(r, k);
	case KEY_CPUS:
		return read_cpus(r, k);
	case KEY_MAP:
		break;
	}
	return -EINVAL;
}
