#include "vmm/guest/dump_dtb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "migration/description/description.h"
#include "vmm/guest/describe.h"
#include "vmm/guest/run.h"

int dump_dtb_open(struct run *r, struct err *e)
{
	if (!r->config.dump_dtb)
		return 0;
	return file_replace_open(&r->dtb, "--dump-dtb", r->config.dump_dtb, 0644, SANDBOX_DTB_FD,
				 e);
}

static int write_blob(struct run *r, const void *blob, size_t len, struct err *e)
{
	/* a signal that ends the program is heard also while the reader of a FIFO takes its time */
	const int ret = file_replace_write(&r->dtb, blob, len, r->signal_fd, -1);

	return ret < 0 ? err_set(e, ret, "--dump-dtb %s: %s; give a file that can be written",
				 r->config.dump_dtb, strerror(-ret))
		       : 0;
}

int dump_dtb_write(struct run *r, struct err *e)
{
	struct machine_description *d;
	void *blob = NULL;
	size_t len = 0;
	int ret;

	if (!r->dtb.path)
		return 0;
	d = description_new();
	ret = d ? describe_guest(r, d, e) : err_set(e, -ENOMEM, "out of memory");
	if (!ret)
		ret = description_to_fdt(d, &blob, &len, e);
	if (!ret)
		ret = write_blob(r, blob, len, e);
	free(blob);
	description_free(d);
	file_replace_close(&r->dtb);
	return ret;
}
