#include "vmm/guest/dump_dtb.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "migration/description/description.h"
#include "vmm/guest/describe.h"
#include "vmm/guest/guest.h"
#include "vmm/guest/sandbox.h"

int dump_dtb_open(struct guest *g, struct err *e)
{
	if (!g->config.dump_dtb)
		return 0;
	return file_replace_open(&g->dtb, "--dump-dtb", g->config.dump_dtb, 0644, SANDBOX_DTB_FD,
				 e);
}

static int write_blob(struct guest *g, const void *blob, size_t len, struct err *e)
{
	/* a signal that ends the program is heard also while the reader of a FIFO takes its time */
	const int ret = file_replace_write(&g->dtb, blob, len, g->signal_fd, -1);

	return ret < 0 ? err_set(e, ret, "--dump-dtb %s: %s; give a file that can be written",
				 g->config.dump_dtb, strerror(-ret))
		       : 0;
}

int dump_dtb_write(struct guest *g, struct err *e)
{
	struct machine_description *d;
	void *blob = NULL;
	size_t len = 0;
	int ret;

	if (!g->dtb.path)
		return 0;
	d = description_new();
	ret = d ? describe_guest(g, d, e) : err_no_memory(e);
	if (!ret)
		ret = description_to_fdt(d, &blob, &len, e);
	if (!ret)
		ret = write_blob(g, blob, len, e);
	free(blob);
	description_free(d);
	file_replace_close(&g->dtb);
	return ret;
}
