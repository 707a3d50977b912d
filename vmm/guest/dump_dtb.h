/* --dump-dtb: the machine's description as a file, for people and tools that read device trees. */
#ifndef VMM_GUEST_DUMP_DTB_H
#define VMM_GUEST_DUMP_DTB_H

struct err;
struct guest;

/** dump_dtb_open - before the sandbox: where is the file, if one is wanted? Return: 0 or -errno */
int dump_dtb_open(struct guest *g, struct err *e);

/** dump_dtb_write - the first machine of the run is built: write it, once. Return: 0 or -errno */
int dump_dtb_write(struct guest *g, struct err *e);

#endif
