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

/* "Vulnerable, KVM: SW loop" clears at VM exits only: user space is not kept out by it. */
static bool clears_at_system_calls(const char *text)
{
	const char *bhi = strstr(text, "; BHI: ");

	return bhi && starts_with(bhi + strlen("; BHI: "), "SW loop");
}

int spectre_v2_report(const char *text, uint64_t *bits)
{
	const size_t first = strcspn(text, ";\n");

	*bits = 0;
	if (starts_with(text, "Not affected"))
		return 0;
	if (!starts_with(text, "Mitigation: ") && !starts_with(text, "Vulnerable"))
		return -EINVAL;
	if (says(text, first, "retpoline") || says(text, first, "lFENCE"))
		*bits |= MITIGATION_RETPOLINE_S;
	if (clears_at_system_calls(text))
		*bits |= MITIGATION_BHB_CLEAR_SEQ_S;
	return 0;
}
