/* What commands do with a guest that is on its way here: wait for it, but not for ever. */
#ifndef VMM_CMD_GUEST_WAIT_H
#define VMM_CMD_GUEST_WAIT_H

struct err;
struct qmp_client;

/**
 * guest_await - until the guest is here
 * @c: negotiated
 * Return: 0 it is, or never was to come; -EAGAIN it has not after 10 s, and where it is awaited;
 * -EINTR one of SIGINT, SIGTERM, SIGHUP is pending, which only matters where they are blocked;
 * as qmp_client_execute()
 */
int guest_await(struct qmp_client *c, struct err *e);

/** guest_await_arriving - the same if its source has begun to send it, else nothing */
int guest_await_arriving(struct qmp_client *c, struct err *e);

#endif
