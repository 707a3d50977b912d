/*
 * Any bytes as a machine description: refused with one line, or within bounds, and the same after
 * writing and reading; and comparing it with another machine ends. libfdt sees no device tree that
 * it would call broken.
 */
#include <libfdt.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "migration/description/description.h"
#include "tests/unit/description_sample.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_line(const struct err *e)
{
	if (!e->text[0] || strchr(e->text, '\n'))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine_description *d, *again, *here;
	void *copy = malloc(size ? size : 1), *blob, *blob2;
	struct err e = {0};
	size_t len, len2;

	memcpy(copy, data, size); /* at 8 bytes, as a frame's payload is */
	if (dtb_check(copy, size, NULL) == 0 && fdt_check_full(copy, size) != 0)
		abort();
	if (description_from_fdt(copy, size, &d, &e) < 0) {
		check_line(&e);
		free(copy);
		return 0;
	}
	if (description_check_bounds(d, NULL) < 0 || description_to_fdt(d, &blob, &len, NULL) < 0 ||
	    description_from_fdt(blob, len, &again, NULL) < 0 ||
	    description_to_fdt(again, &blob2, &len2, NULL) < 0 || len != len2 ||
	    memcmp(blob, blob2, len) != 0)
		abort();
	here = description_sample(4);
	if (description_check(d, here, &e) < 0)
		check_line(&e);
	e = (struct err) {0};
	if (description_check(d, again, &e) < 0) /* a side that is made for it */
		check_line(&e);
	description_free(here);
	description_free(again);
	description_free(d);
	free(blob2);
	free(blob);
	free(copy);
	return 0;
}
