/*
 * Preloaded by a test: takes things away from /dev/kvm, as an old kernel would.
 * KVM_LACKS=version: another API version; KVM_LACKS=<number>,..: those capabilities are missing;
 * KVM_LACKS=high:<hex>: KVM_SET_MSRS keeps the low half of that MSR only.
 */
#include <dlfcn.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

static void cut(struct kvm_msrs *msrs, uint32_t index)
{
	uint32_t i;

	for (i = 0; i < msrs->nmsrs; i++)
		if (msrs->entries[i].index == index)
			msrs->entries[i].data = (uint32_t)msrs->entries[i].data;
}

static int lists(const char *numbers, long cap)
{
	char *end;

	for (; strtol(numbers, &end, 10) != cap; numbers = end + 1)
		if (*end != ',')
			return 0;
	return 1;
}

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
	if (lacks && *lacks <= '9' && request == KVM_CHECK_EXTENSION && lists(lacks, (long)arg))
		return 0;
	if (lacks && request == KVM_SET_MSRS && strncmp(lacks, "high:", 5) == 0)
		cut(arg, (uint32_t)strtoul(lacks + 5, NULL, 16));
	return real(fd, request, arg);
}
