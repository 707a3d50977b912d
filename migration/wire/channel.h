/*
 * A channel: blocking transfer of bytes and frames over one descriptor, by one thread a direction.
 * Every operation ends: with success, when the other side has moved no byte for too long, when it
 * closes, or at once when the cancel descriptor becomes readable.
 */
#ifndef MIGRATION_WIRE_CHANNEL_H
#define MIGRATION_WIRE_CHANNEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migration/wire/frame.h"
#include "migration/wire/transport.h"

#define CHANNEL_FDS_MAX	 4  /* descriptors in one frame */
#define CHANNEL_SKIP_MAX 64 /* unknown frames in a row that are skipped */

struct channel {
	struct transport *transport; /* &plain, or one of the caller's */
	struct transport plain;
	enum frame_side peer; /* who the other end is; what it may send depends on it */
	/*
	 * An eventfd, borrowed; readable: give up. -1: none. Set it to -1 to say goodbye (CANCEL,
	 * FAIL) after it fired.
	 */
	int cancel_fd;
	unsigned int timeout_ms; /* that the other side may stand still; 0: for ever */
	/* Of the frame or bytes sent last: did the system take any of it, or all of it? */
	bool send_started;
	bool send_broken; /* a part of a frame was sent: nothing sensible can follow it */
	_Atomic uint64_t sent_bytes, received_bytes; /* may be read by other threads */
};

/**
 * channel_init - a channel over a plain descriptor
 * @fd: owned by the channel, also on error
 * @peer: FRAME_FROM_SOURCE on the destination and the other way round
 * Return: 0 or -errno
 */
int channel_init(struct channel *ch, int fd, enum frame_side peer, int cancel_fd,
		 unsigned int timeout_ms);
/** channel_init_transport - the same over @t, which the channel closes and the caller stores */
void channel_init_transport(struct channel *ch, struct transport *t, enum frame_side peer,
			    int cancel_fd, unsigned int timeout_ms);
/** channel_zero - closed; channel_fini() is safe from here on */
void channel_zero(struct channel *ch);
/** channel_fini - close; accepts a channel that is closed */
void channel_fini(struct channel *ch);

/** channel_release - close all but a plain descriptor. Return: it, the caller's from here on */
int channel_release(struct channel *ch);

/*
 * All of the following return 0, or
 *   -ECANCELED   the cancel descriptor became readable
 *   -ETIMEDOUT   the other side stood still for timeout_ms
 *   -ECONNRESET  the other side closed the connection (before or within what was asked for)
 *   -EBADMSG, -EPROTO, -EPROTONOSUPPORT  what came is damaged or not understood (frame.h)
 *   -ENOMEM or the errno of the system call
 * with one line in @e.
 */

/**
 * channel_writev - send all of @iov
 * @iov: @n parts, used up while sending
 * On failure @ch->send_started says whether the other side may have seen a part, or all of it.
 */
int channel_writev(struct channel *ch, struct iovec *iov, int n, struct err *e);
/** channel_write - send @len bytes */
int channel_write(struct channel *ch, const void *buf, size_t len, struct err *e);
/** channel_read - receive exactly @len bytes */
int channel_read(struct channel *ch, void *buf, size_t len, struct err *e);

/**
 * channel_send_head - the stream head of channel number @channel, and @session behind it when it is
 * a data channel
 */
int channel_send_head(struct channel *ch, uint16_t channel, uint64_t session, struct err *e);
/** channel_recv_head - the other half; @session receives 0 on a control channel */
int channel_recv_head(struct channel *ch, struct stream_head *h, uint64_t *session, struct err *e);

/**
 * channel_send - one frame, in one system call if the other side keeps up
 * @len: within the bounds of the table of frames, else -EMSGSIZE and nothing is sent
 * @ch->send_started as for channel_writev(): false means that no byte of this frame left
 */
int channel_send(struct channel *ch, enum frame_type type, const void *payload, uint32_t len,
		 struct err *e);

struct wbuf;

/** channel_send_built - the same with a payload that was built in @w, which is released */
int channel_send_built(struct channel *ch, enum frame_type type, struct wbuf *w, struct err *e);

/**
 * channel_recv - the next frame; unknown ones that are not critical are skipped
 * @f: the caller's to frame_fini(); empty on error
 */
int channel_recv(struct channel *ch, struct frame *f, struct err *e);

/**
 * channel_wait - until something has come, or something happens elsewhere
 * @other_fd: readable: do not wait any more
 * Return: 0: there is something to receive, or the other side has closed; -ETIMEDOUT, without a
 * text, when nothing came for timeout_ms; -ECANCELED, without one, for @other_fd; else as above
 */
int channel_wait(struct channel *ch, int other_fd, struct err *e);

/**
 * channel_expect - the next frame, which must be a @type
 * FAIL from the other side is an error with its text: -EPERM when it refuses by policy, -ECANCELED
 * for CANCEL or a FAIL that says so, -EREMOTEIO for anything else. Any other frame is -EPROTO.
 */
int channel_expect(struct channel *ch, enum frame_type type, struct frame *f, struct err *e);

/** channel_check_due - the same for a frame that channel_recv() got */
int channel_check_due(const struct channel *ch, const struct frame *f, enum frame_type type,
		      struct err *e);

/**
 * channel_send_fail - tell the other side why; the result does not matter any more
 * Ignores the cancel descriptor and waits a second at most. Sends nothing after a broken frame.
 */
void channel_send_fail(struct channel *ch, enum frame_code code, const char *text);

/**
 * channel_recv_reason - after a failed send: did the other side say why before it closed?
 * Looks at what has arrived, and waits no longer than 200 ms for it. No other thread may be
 * receiving.
 * Return: false; or true with the other side's code and text in @fail
 */
bool channel_recv_reason(struct channel *ch, struct frame_fail *fail);

/**
 * channel_send_fds - a frame with descriptors beside it (unix sockets)
 * @fds: @n of them, 1 to CHANNEL_FDS_MAX; stay open here
 */
int channel_send_fds(struct channel *ch, enum frame_type type, const void *payload, uint32_t len,
		     const int *fds, unsigned int n, struct err *e);
/**
 * channel_recv_fds - the next frame, which must be a @type, and exactly @n descriptors
 * @fds: receives them, close-on-exec, the caller's; untouched on error
 * Fewer or more are -EPROTO; those that came are closed.
 */
int channel_recv_fds(struct channel *ch, enum frame_type type, struct frame *f, int *fds,
		     unsigned int n, struct err *e);

#endif
