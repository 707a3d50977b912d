/*
 * Is a block of bytes that somebody sent a whole flattened device tree? Asked before libfdt sees
 * it, which believes much of what a tree says of itself: some of its versions follow a version
 * number below 17 or an offset out of the block. Nothing here is guessed or repaired.
 */
#ifndef MIGRATION_DESCRIPTION_DTB_H
#define MIGRATION_DESCRIPTION_DTB_H

#include <stddef.h>

struct err;

/* Bounds of our own: what libfdt does with a tree that has passed takes time linear in its size. */
#define DTB_SIZE_MAX  (1u << 20) /* bytes */
#define DTB_DEPTH_MAX 16	 /* nodes in each other, the root is 1 */
#define DTB_NAME_MAX  63	 /* bytes of the name of a node or property */

/**
 * dtb_check - may @len bytes at @blob be given to libfdt?
 * Pure. What has passed is, from the first byte to the last one:
 *   header     version 17, readable as such; says that it has @len bytes
 *   blocks     aligned, in the order of the specification, apart from each other, within @len
 *   memory     reservations that end with an entry of zeroes before the structure begins
 *   structure  one root without a name and nodes with one, all closed again; properties before
 *              nodes; values within the block; FDT_END at its end and nowhere else; no FDT_NOP
 *              outside of the root, which the specification allows and libfdt does not follow
 *   names      ended by a NUL within their block, those of properties in the strings block
 * @blob: at 8 bytes, as malloc() gives
 * Return: 0; -E2BIG or -EINVAL with the place in @e
 * Source: Devicetree Specification v0.4, chapter 5.
 */
int dtb_check(const void *blob, size_t len, struct err *e);

#endif
