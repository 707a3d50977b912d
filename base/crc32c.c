#include "base/crc32c.h"

#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* bit-reversed */

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len_bytes)
{
	const uint8_t *p = data;
	int bit;

	crc = ~crc;
	for (; len_bytes; len_bytes--) {
		crc ^= *p++;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
	}
	return ~crc;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const uint8_t *p,
							       size_t len_bytes)
{
	uint64_t c = ~crc, word;

	for (; len_bytes >= sizeof(word); len_bytes -= sizeof(word), p += sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		c = __builtin_ia32_crc32di(c, word);
	}
	for (; len_bytes; len_bytes--)
		c = __builtin_ia32_crc32qi((uint32_t)c, *p++);
	return ~(uint32_t)c;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t len_bytes)
{
	if (__builtin_cpu_supports("sse4.2"))
		return crc32c_sse42(crc, data, len_bytes);
	return crc32c_portable(crc, data, len_bytes);
}
