#include "migration/state.h"

#include <errno.h>

#include "base/err.h"

int state_check_tiling(const struct state_field *fields, uint32_t size, struct err *e)
{
	const struct state_field *f;
	uint64_t next = 0;

	for (f = fields; f->kind != STATE_KIND_END; f++) {
		if (f->offset != next)
			return err_set(
				e, -EINVAL,
				"state row '%s' is at offset %u, the rows before it end at %llu; "
				"list every member once, in order, padding included",
				f->name, f->offset, (unsigned long long)next);
		if (f->kind == STATE_KIND_STRUCT) {
			int ret = state_check_tiling(f->sub, f->size, e);

			if (ret)
				return ret;
		}
		if (f->kind == STATE_KIND_UINT && f->size != 1 && f->size != 2 && f->size != 4 &&
		    f->size != 8)
			return err_set(e, -EINVAL,
				       "state row '%s' is an integer of %u bytes; use STATE_BYTES",
				       f->name, f->size);
		next += (uint64_t)f->size * f->count;
	}
	if (next != size)
		return err_set(
			e, -EINVAL,
			"the state rows end at offset %llu, the struct has %u bytes; the last "
			"members have no row",
			(unsigned long long)next, size);
	return 0;
}
