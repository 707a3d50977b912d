/* Opens vhost-net. Where it is missing, the refusal says what to do, or to do without. */
#include "devices/vhost.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/err.h"

#define DEVICE	"/dev/vhost-net"
#define WITHOUT "leave vhost out of -n"

static int kernel_call(const struct vhost *v, unsigned long request, void *arg)
{
	return ioctl(v->fd, request, arg) < 0 ? -errno : 0;
}

static int fail_open(int code, struct err *e)
{
	switch (code) {
	case -ENOENT:
	case -ENODEV:
	case -ENXIO:
		return err_set(e, code,
			       "there is no " DEVICE " for -n vhost; have root load the module: "
			       "modprobe vhost_net, or " WITHOUT);
	case -EACCES:
	case -EPERM:
		return err_set(e, code,
			       "no permission to open " DEVICE " for -n vhost; join its group "
			       "(ls -l " DEVICE "), mostly kvm, pass an open one with vhostfd=N, "
			       "or " WITHOUT);
	default:
		return err_set(e, code, "cannot open " DEVICE " for -n vhost: %s; " WITHOUT,
			       strerror(-code));
	}
}

int vhost_setup(struct vhost *v, struct err *e)
{
	/* without the last a guest could not move away from here */
	const uint64_t needed = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VHOST_F_LOG_ALL;
	int ret = v->call(v, VHOST_GET_FEATURES, &v->features);

	if (ret < 0)
		return err_set(e, ret,
			       "-n vhost: the descriptor is no vhost-net: %s; pass an open " DEVICE
			       " with vhostfd=N, or " WITHOUT,
			       strerror(-ret));
	if (needed & ~v->features)
		return err_set(e, -ENOTSUP,
			       "-n vhost: this host's vhost-net has features %#llx and lacks "
			       "%#llx; use a newer kernel, or " WITHOUT,
			       (unsigned long long)v->features,
			       (unsigned long long)(needed & ~v->features));
	ret = v->call(v, VHOST_SET_OWNER, NULL);
	if (ret == -EBUSY)
		return err_set(e, ret,
			       "-n vhostfd: the descriptor is in use already; pass a " DEVICE
			       " of its own for each -n");
	if (ret < 0)
		return err_set(e, ret, "-n vhost: no thread of the kernel for it: %s; " WITHOUT,
			       strerror(-ret));
	return 0;
}

int vhost_open(struct vhost *v, int inherited, struct err *e)
{
	memset(v, 0, sizeof(*v));
	if (inherited && fcntl(inherited, F_SETFD, FD_CLOEXEC) < 0)
		return err_set(e, -errno,
			       "-n vhostfd=%d: no descriptor of that number is open; pass one that "
			       "the starting program leaves open",
			       inherited);
	v->fd = inherited ? inherited : open(DEVICE, O_RDWR | O_CLOEXEC);
	if (v->fd < 0)
		return fail_open(-errno, e);
	v->call = kernel_call;
	return vhost_setup(v, e);
}

void vhost_close(struct vhost *v)
{
	if (v->call)
		close(v->fd);
	memset(v, 0, sizeof(*v));
}
