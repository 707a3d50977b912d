/* What goes along with a kernel of any kind: the command line and the initrd. */
#include <errno.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/file_magic.h"
#include "base/guest_mem.h"
#include "vmm/layout.h"
#include "vmm/machine/boot/loader.h"

int cmdline_load(const struct loader *l, uint64_t limit, struct err *e)
{
	const char *text = l->cfg->cmdline ? l->cfg->cmdline : "";
	const size_t len = strlen(text);
	char *p = gpa_span(l->gm, LAYOUT_CMDLINE, LAYOUT_CMDLINE_MAX);

	if (limit > LAYOUT_CMDLINE_MAX - 1)
		limit = LAYOUT_CMDLINE_MAX - 1;
	if (len > limit)
		return err_set(e, -EINVAL,
			       "kernel command line has %zu bytes, kernel %s takes at most %llu; "
			       "shorten it",
			       len, l->kernel.path, (unsigned long long)limit);
	if (!p)
		return err_set(
			e, -EINVAL,
			"guest memory does not reach the command line at 0x%x; give more with -m",
			LAYOUT_CMDLINE);
	memcpy(p, text, len + 1);
	return 0;
}

/* Return: 1: there is one, and @im is it; 0: there is none; -errno */
static int initrd_open(const struct loader *l, struct image *im, struct err *e)
{
	int ret;

	if (l->cfg->initrd_fd < 0)
		return 0;
	ret = image_init(im, "initrd", l->cfg->initrd_path, l->cfg->initrd_fd, e);
	return ret ? ret : 1;
}

int initrd_check(const struct loader *l, struct err *e)
{
	const struct file_magic *m;
	char cure[FILE_CURE_MAX];
	struct image im;
	int ret;

	ret = initrd_open(l, &im, e);
	if (ret <= 0)
		return ret;
	m = file_magic_find(im.fd, im.size_bytes);
	if (!m || m->class == FILE_INITRD || m->class == FILE_PACKED || m->class == FILE_RAW)
		return 0;
	return image_err(&im, e, "is %s, which Linux takes for no initrd; %s", m->name,
			 file_magic_cure(m, false, cure));
}

int initrd_load(const struct loader *l, gpa_t kernel_end, gpa_t limit, struct initrd *out,
		struct err *e)
{
	const char *cure = "use a smaller one: this kernel takes it no higher";
	struct image im;
	void *dst;
	int ret;

	*out = (struct initrd) {0};
	ret = initrd_open(l, &im, e);
	if (ret <= 0)
		return ret;
	if (limit >= l->map.low_end) {
		limit = l->map.low_end;
		cure = limit == LAYOUT_HOLE_START ? "use a smaller one" : "give more with -m";
	}
	/* whole pages below, so that rounding the start down cannot meet the kernel */
	kernel_end = align_up(kernel_end, GUEST_PAGE);
	if (kernel_end > limit)
		kernel_end = limit;
	if (im.size_bytes > limit - kernel_end)
		return image_err(&im, e,
				 "has %llu bytes, %llu are free between the kernel's end at 0x%llx "
				 "and 0x%llx; %s",
				 (unsigned long long)im.size_bytes,
				 (unsigned long long)(limit - kernel_end),
				 (unsigned long long)kernel_end, (unsigned long long)limit, cure);
	out->len_bytes = im.size_bytes;
	out->gpa = (limit - im.size_bytes) & -(uint64_t)GUEST_PAGE;
	dst = gpa_span(l->gm, out->gpa, out->len_bytes);
	if (!dst)
		return image_err(&im, e, "0x%llx is not RAM", (unsigned long long)out->gpa);
	return image_read(&im, 0, dst, out->len_bytes, e);
}
