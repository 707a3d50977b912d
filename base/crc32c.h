/*
 * CRC-32C (Castagnoli, as in RFC 3720 appendix B.4), by the SSE4.2 instruction where it is there.
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

/**
 * crc32c_pages - one checksum for @n_pages pages of GUEST_PAGE bytes that lie one behind the other
 * It is the crc32c() of the array of each page's crc32c() (little-endian, 32 bits), which lets
 * three pages be summed at a time: the instruction takes three cycles and begins one each cycle.
 */
uint32_t crc32c_pages(const void *data, size_t n_pages);

/** crc32c_pages_narrow - the same without AVX-512; for CPUs without it, and for tests */
uint32_t crc32c_pages_narrow(const void *data, size_t n_pages);

/** crc32c_portable - the same without the instruction; for CPUs without it, and for tests */
uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len_bytes);

#endif
