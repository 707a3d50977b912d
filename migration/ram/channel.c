#include "migration/ram/channel.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/err.h"
#include "migration/ram/frame.h"

int ram_channel_open(struct ram_channel *ch, int fd, unsigned int n, struct err *e)
{
	void *p = mmap(NULL, RAM_PAYLOAD_BYTES, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	*ch = (struct ram_channel) {.fd = fd};
	if (p == MAP_FAILED)
		return err_set(e, -ENOMEM, "migration: no memory for %u data channels", n);
	ch->staging = p;
	return 0;
}

int ram_channel_start(struct ram_channel *ch, unsigned int number, void *(*fn)(void *), void *arg,
		      struct err *e)
{
	const int ret = pthread_create(&ch->thread, NULL, fn, arg);

	if (ret)
		return err_set(e, -ret, "migration: no thread for data channel %u: %s", number,
			       strerror(ret));
	ch->started = true;
	return 0;
}

void ram_channel_join(struct ram_channel *ch)
{
	if (ch->started)
		pthread_join(ch->thread, NULL);
	ch->started = false;
}

void ram_channel_close(struct ram_channel *ch)
{
	ram_channel_join(ch);
	if (ch->staging)
		munmap(ch->staging, RAM_PAYLOAD_BYTES);
	ch->staging = NULL;
}
