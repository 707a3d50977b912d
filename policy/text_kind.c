#include "policy/text_kind.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/text.h"

/* Each JSON file by a key that only its kind has at the top; a policy is no JSON. */
static const struct {
	enum text_kind kind;
	bool json;
	const char *mark, *name, *cure;
} kinds[] = {
	{TEXT_FACTS, true, "\"testudo-host-facts\"", "a host's facts",
	 "give it with --host-facts, or to testudo policy explain with --host or --from"},
	{TEXT_TEMPLATE, true, "\"cpuid_modifiers\"", "a CPU template", "give it with --cpu"},
	{TEXT_TEMPLATE, true, "\"msr_modifiers\"", "a CPU template", "give it with --cpu"},
	{TEXT_TEMPLATE, true, "\"kvm_capabilities\"", "a CPU template", "give it with --cpu"},
	{TEXT_REPORT, true, "\"schema\"", "a mitigation report",
	 "testudo writes it and never reads it"},
	{TEXT_POLICY, false, "\nversion:", "a policy", "give it with --policy"},
};

/* A mark that begins with a newline is looked for at the start, too. */
static bool has(const char *text, size_t len, const char *mark)
{
	const size_t n = strlen(mark);

	if (*mark == '\n' && len >= n - 1 && memcmp(text, mark + 1, n - 1) == 0)
		return true;
	return memmem(text, len, mark, n) != NULL;
}

int text_kind_check(const char *what, const char *name, const char *text, size_t len,
		    enum text_kind wanted, struct err *e)
{
	const bool json = text[strspn(text, " \t\r\n")] == '{';
	size_t i;

	if (memchr(text, '\0', len))
		return err_set(e, -EINVAL,
			       "%s %s: is no text file: it begins with %s; is it the right file?",
			       what, name, text_quote(text, len < 8 ? len : 8).s);
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (kinds[i].json != json || !has(text, len, kinds[i].mark))
			continue;
		if (kinds[i].kind == wanted)
			return 0;
		return err_set(e, -EINVAL, "%s %s: is %s; %s", what, name, kinds[i].name,
			       kinds[i].cure);
	}
	return 0;
}
