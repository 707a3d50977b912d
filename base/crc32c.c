#include "base/crc32c.h"

#include <immintrin.h>
#include <stdbool.h>
#include <string.h>

#include "base/guest_mem.h"

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

/* sums[i]: of the page at p + i * GUEST_PAGE, three of them */
__attribute__((target("sse4.2"))) static void crc32c_3_pages(uint32_t sums[3], const uint8_t *p)
{
	uint64_t a = ~0u, b = ~0u, c = ~0u, word[3];
	size_t i;

	for (i = 0; i < GUEST_PAGE; i += sizeof(uint64_t)) {
		memcpy(&word[0], p + i, sizeof(uint64_t));
		memcpy(&word[1], p + i + GUEST_PAGE, sizeof(uint64_t));
		memcpy(&word[2], p + i + 2 * GUEST_PAGE, sizeof(uint64_t));
		a = __builtin_ia32_crc32di(a, word[0]);
		b = __builtin_ia32_crc32di(b, word[1]);
		c = __builtin_ia32_crc32di(c, word[2]);
	}
	sums[0] = ~(uint32_t)a;
	sums[1] = ~(uint32_t)b;
	sums[2] = ~(uint32_t)c;
}

#define WIDE __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.2")))

/* @acc moved on by the distance that @k stands for, and what lies there */
WIDE static inline __m512i fold(__m512i acc, __m512i k, __m512i there)
{
	const __m512i low = _mm512_clmulepi64_epi128(acc, k, 0x00);
	const __m512i high = _mm512_clmulepi64_epi128(acc, k, 0x11);

	return _mm512_ternarylogic_epi64(low, high, there, 0x96); /* low ^ high ^ there */
}

/*
 * By carry-less multiplication, 256 bytes at a time: a remainder that stands D bits further on is
 * multiplied by x^D. The constants are x^(D + 32) and x^(D - 32) modulo the polynomial,
 * bit-reversed and shifted by one. Source: V. Gopal et al., "Fast CRC Computation for Generic
 * Polynomials Using PCLMULQDQ Instruction", Intel, 2009.
 */
WIDE static uint32_t crc32c_page_wide(const uint8_t *p)
{
	const __m512i by_2048 = _mm512_broadcast_i32x4(_mm_set_epi64x(0xb9e02b86, 0xdcb17aa4));
	const __m512i by_512 = _mm512_broadcast_i32x4(_mm_set_epi64x(0x9e4addf8, 0x740eef02));
	const __m128i by_128 = _mm_set_epi64x(0x14cd00bd6, 0xf20c0dfe);
	const __m512i begin = _mm512_zextsi128_si512(_mm_cvtsi32_si128(-1));
	__m512i acc[4], all;
	uint64_t lane[8], crc;
	__m128i last;
	size_t i, at;

	for (i = 0; i < 4; i++)
		acc[i] = _mm512_loadu_si512(p + i * 64);
	acc[0] = _mm512_xor_si512(acc[0], begin);
	for (at = 256; at < GUEST_PAGE; at += 256)
		for (i = 0; i < 4; i++)
			acc[i] = fold(acc[i], by_2048, _mm512_loadu_si512(p + at + i * 64));
	all = acc[0];
	for (i = 1; i < 4; i++)
		all = fold(all, by_512, acc[i]);
	_mm512_storeu_si512(lane, all);
	last = _mm_set_epi64x((long long)lane[1], (long long)lane[0]);
	for (i = 2; i < 8; i += 2) {
		const __m128i low = _mm_clmulepi64_si128(last, by_128, 0x00);
		const __m128i high = _mm_clmulepi64_si128(last, by_128, 0x11);
		const __m128i there = _mm_set_epi64x((long long)lane[i + 1], (long long)lane[i]);

		last = _mm_xor_si128(_mm_xor_si128(low, high), there);
	}
	crc = __builtin_ia32_crc32di(0, (uint64_t)_mm_cvtsi128_si64(last));
	crc = __builtin_ia32_crc32di(crc, (uint64_t)_mm_cvtsi128_si64(_mm_srli_si128(last, 8)));
	return ~(uint32_t)crc;
}

static bool has_wide(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq") &&
	       __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.2");
}

static uint32_t pages_wide(const uint8_t *p, size_t n_pages)
{
	uint32_t crc = 0, sum;

	for (; n_pages; n_pages--, p += GUEST_PAGE) {
		sum = crc32c_page_wide(p);
		crc = crc32c_sse42(crc, (const uint8_t *)&sum, sizeof(sum));
	}
	return crc;
}

uint32_t crc32c_pages_narrow(const void *data, size_t n_pages)
{
	const bool fast = __builtin_cpu_supports("sse4.2");
	const uint8_t *p = data;
	uint32_t crc = 0, sums[3];

	while (n_pages) {
		const size_t n = fast && n_pages >= 3 ? 3 : 1;

		if (n == 3)
			crc32c_3_pages(sums, p);
		else
			sums[0] = crc32c(0, p, GUEST_PAGE);
		crc = crc32c(crc, sums, n * sizeof(*sums));
		p += n * GUEST_PAGE;
		n_pages -= n;
	}
	return crc;
}

uint32_t crc32c_pages(const void *data, size_t n_pages)
{
	return has_wide() ? pages_wide(data, n_pages) : crc32c_pages_narrow(data, n_pages);
}
