#include "tools/guest-report/spectre_v2.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "msr/spec_ctrl.h"

static bool starts_with(const char *s, const char *with)
{
	return strncmp(s, with, strlen(with)) == 0;
}

/* @word, first letter in either case, among the first @len characters */
static bool says(const char *text, size_t len, const char *word)
{
	const size_t n = strlen(word);
	size_t i;

	for (i = 0; i + n <= len; i++)
		if (tolower((unsigned char)text[i]) == word[0] &&
		    memcmp(text + i + 1, word + 1, n - 1) == 0)
			return true;
	return false;
}

/* Is what the kernel says of BHI @what? Kernels before 6.9 say nothing of it. */
static bool bhi_is(const char *text, const char *what)
{
	const char *bhi = strstr(text, "; BHI: ");

	return bhi && starts_with(bhi + strlen("; BHI: "), what);
}

/*
 * The value of the last @name on the command line, as Linux takes it; NULL: none. What follows "--"
 * is init's. @len receives its length, which is 0 for a name without a value.
 */
static const char *option(const char *cmdline, const char *name, size_t *len)
{
	const size_t n = strlen(name);
	const char *found = NULL;

	while (*(cmdline += strspn(cmdline, " \t\n"))) {
		const size_t word = strcspn(cmdline, " \t\n");

		if (word == 2 && starts_with(cmdline, "--"))
			break;
		if (word >= n && memcmp(cmdline, name, n) == 0 &&
		    (word == n || cmdline[n] == '=')) {
			found = word == n ? cmdline + n : cmdline + n + 1;
			*len = word == n ? 0 : word - n - 1;
		}
		cmdline += word;
	}
	return found;
}

static bool is_off(const char *cmdline, const char *name)
{
	size_t len;
	const char *value = option(cmdline, name, &len);

	return value && len == strlen("off") && starts_with(value, "off");
}

static bool all_off(const char *cmdline)
{
	size_t len;

	return is_off(cmdline, "mitigations") || is_off(cmdline, "spectre_v2") ||
	       option(cmdline, "nospectre_v2", &len);
}

int spectre_v2_report(const char *text, const char *cmdline, uint64_t *bits)
{
	const size_t first = strcspn(text, ";\n");
	const bool mitigated = starts_with(text, "Mitigation: ");
	const bool retpolines = says(text, first, "retpoline") || says(text, first, "lFENCE") ||
				bhi_is(text, "Retpoline");
	const bool covered = bhi_is(text, "BHI_DIS_S") || bhi_is(text, "Retpoline");
	const bool off = all_off(cmdline);

	*bits = 0;
	if (!mitigated && !starts_with(text, "Vulnerable") && !starts_with(text, "Not affected"))
		return -EINVAL;
	if (retpolines || (!mitigated && !off))
		*bits |= MITIGATION_RETPOLINE_S;
	if (bhi_is(text, "SW loop") || (!covered && !off && !is_off(cmdline, "spectre_bhi")))
		*bits |= MITIGATION_BHB_CLEAR_SEQ_S;
	return 0;
}
