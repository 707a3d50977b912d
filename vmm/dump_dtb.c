#include "vmm/dump_dtb.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "migration/description.h"
#include "vmm/describe.h"
#include "vmm/run.h"

static int cannot_write(const struct run *r, int error, struct err *e)
{
	return err_set(e, -error, "--dump-dtb '%s': %s; give a file that can be written",
		       r->config.dump_dtb, strerror(error));
}

int dump_dtb_open(struct run *r, struct err *e)
{
	if (!r->config.dump_dtb)
		return 0;
	r->dtb_fd = open(r->config.dump_dtb, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	return r->dtb_fd < 0 ? cannot_write(r, errno, e) : 0;
}

static int write_blob(struct run *r, const char *blob, size_t len, struct err *e)
{
	while (len) {
		const ssize_t n = write(r->dtb_fd, blob, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return cannot_write(r, n < 0 ? errno : ENOSPC, e);
		blob += n;
		len -= (size_t)n;
	}
	return 0;
}

int dump_dtb_write(struct run *r, struct err *e)
{
	struct machine_description *d;
	void *blob = NULL;
	size_t len = 0;
	int ret;

	if (r->dtb_fd < 0)
		return 0;
	d = description_new();
	ret = d ? describe_guest(r, d, e) : err_set(e, -ENOMEM, "out of memory");
	if (!ret)
		ret = description_to_fdt(d, &blob, &len, e);
	if (!ret)
		ret = write_blob(r, blob, len, e);
	free(blob);
	description_free(d);
	close(r->dtb_fd);
	r->dtb_fd = -1;
	return ret;
}
