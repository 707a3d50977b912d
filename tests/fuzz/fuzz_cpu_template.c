/* Any bytes as a CPU template: refused with one line, or taken with values inside their masks. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "policy/cpu_template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cpu_template t;
	struct err e = {0};
	unsigned int i;

	if (cpu_template_parse("fuzz", (const char *)data, size, &t, &e) < 0) {
		if (!e.text[0] || strchr(e.text, '\n'))
			abort();
		return 0;
	}
	for (i = 0; i < t.n_cpuid; i++)
		if (t.cpuid[i].value & ~t.cpuid[i].mask)
			abort();
	for (i = 0; i < t.n_msr; i++)
		if (t.msr[i].value & ~t.msr[i].mask)
			abort();
	return 0;
}
