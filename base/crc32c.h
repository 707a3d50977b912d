/* CRC-32C (Castagnoli, as in RFC 3720 appendix B.4), by the SSE4.2 instruction where it is there.
 */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/**
 * crc32c - checksum of @len_bytes bytes, continuing from @crc
 * @crc: 0 to begin, or what an earlier call returned: the parts of a message give the same as the
 *       whole
 */
uint32_t crc32c(uint32_t crc, const void *data, size_t len_bytes);

/** crc32c_portable - the same without the instruction; for CPUs without it, and for tests */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len_bytes);

#endif
