#include "base/num.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

/* strtoull() accepts signs and leading blanks; a number given by a user starts with a digit. */
static int parse_digits(const char *s, int base, uint64_t *out, const char **end)
{
	unsigned long long v;
	char *stop;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	errno = 0;
	v = strtoull(s, &stop, base);
	if (errno)
		return -errno;
	*out = v;
	*end = stop;
	return 0;
}

int num_parse_u64(const char *what, const char *s, uint64_t min, uint64_t max, uint64_t *out,
		  struct err *e)
{
	int hex = s[0] == '0' && (s[1] == 'x' || s[1] == 'X') && isxdigit((unsigned char)s[2]);
	const char *end = s;
	uint64_t v = 0;

	if (parse_digits(s, hex ? 16 : 10, &v, &end) || *end || v < min || v > max)
		return err_set(e, -EINVAL,
			       "%s: '%s' is not a number from %llu to %llu; give one in that range",
			       what, s, (unsigned long long)min, (unsigned long long)max);
	*out = v;
	return 0;
}

int num_parse_size(const char *what, const char *s, uint64_t *out, struct err *e)
{
	static const char suffixes[] = "BKMGTP";
	const char *end = s, *suffix;
	unsigned int shift = 20;
	uint64_t v = 0;

	if (parse_digits(s, 10, &v, &end))
		goto bad;
	if (*end) {
		suffix = strchr(suffixes, toupper((unsigned char)*end));
		if (!suffix || end[1])
			goto bad;
		shift = 10 * (unsigned int)(suffix - suffixes);
	}
	if (!v || v > UINT64_MAX >> shift)
		goto bad;
	*out = v << shift;
	return 0;
bad:
	return err_set(
		e, -EINVAL,
		"%s: '%s' is not a size; give a whole number above 0 with an optional suffix "
		"B, K, M, G, T or P (no suffix: MiB), below 16E",
		what, s);
}
