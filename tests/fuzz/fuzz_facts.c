/* Any bytes as a host fact file: refused with one line, or the same after writing and reading. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "policy/facts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct host_file f, again;
	struct err e = {0};
	char *text;

	if (host_file_parse("fuzz", (const char *)data, size, &f, &e) < 0) {
		if (!e.text[0] || strchr(e.text, '\n'))
			abort();
		return 0;
	}
	text = host_file_format(&f);
	if (!text || host_file_parse("again", text, strlen(text), &again, NULL) < 0 ||
	    memcmp(&f.facts, &again.facts, sizeof(f.facts)) != 0 ||
	    f.backend.kind != again.backend.kind || f.backend.can_force != again.backend.can_force)
		abort();
	free(text);
	return 0;
}
