/*
 * Preloaded by a test: takes things away from /dev/kvm, as an old kernel would.
 * KVM_LACKS=version: another API version; KVM_LACKS=<number>: that capability is missing.
 */
#include <dlfcn.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

int ioctl(int fd, unsigned long request, ...)
{
	static int (*real)(int, unsigned long, ...);
	const char *lacks = getenv("KVM_LACKS");
	va_list ap;
	void *arg;

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "ioctl");
	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (lacks && request == KVM_GET_API_VERSION && strcmp(lacks, "version") == 0)
		return KVM_API_VERSION - 1;
	if (lacks && request == KVM_CHECK_EXTENSION &&
	    (unsigned long)arg == strtoul(lacks, NULL, 10))
		return 0;
	return real(fd, request, arg);
}
