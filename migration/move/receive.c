#include "migration/move/receive.h"

#include "migration/description/description.h"
#include "migration/wire/channel.h"

int receive_description(struct channel *ch, struct machine_description **d, struct err *e)
{
	struct frame f;
	int ret = channel_expect(ch, FRAME_DESCRIPTION, &f, e);

	if (ret < 0)
		return ret;
	ret = description_from_fdt(f.payload, f.len, d, e);
	frame_fini(&f);
	return ret;
}
