/* Any bytes as a policy file: refused with one line, or taken with a value inside its mask. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "policy/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = {0};
	struct policy p;

	if (policy_parse("fuzz", (const char *)data, size, &p, &e) < 0) {
		if (!e.text[0] || strchr(e.text, '\n'))
			abort();
	} else if (p.mitigation.raw_value & ~p.mitigation.raw_mask) {
		abort();
	}
	return 0;
}
