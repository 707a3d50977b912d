#include "migration/wire/stranger.h"

#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/text.h"

#define SHOWN_MAX 16

/* The first row that fits counts. Sources: RFC 9110, 9113, 8446, 4253, 6143, 5321, QEMU's
 * docs/interop/qmp-spec and docs/devel/migration, libvirt src/qemu/qemu_saveimage.h. */
static const struct {
	const char *bytes;
	size_t len;
	const char *name;
} strangers[] = {
#define SPEAKS(bytes, name)                        \
	{                                          \
		(bytes), sizeof(bytes) - 1, (name) \
	}
	SPEAKS("GET ", "HTTP"),
	SPEAKS("HEAD ", "HTTP"),
	SPEAKS("POST ", "HTTP"),
	SPEAKS("PUT ", "HTTP"),
	SPEAKS("OPTIONS ", "HTTP"),
	SPEAKS("CONNECT ", "HTTP"),
	SPEAKS("HTTP/", "HTTP"),
	SPEAKS("PRI * HTTP", "HTTP/2"),
	SPEAKS("\x16\x03", "TLS"),
	SPEAKS("\x15\x03", "TLS"),
	SPEAKS("SSH-", "SSH"),
	SPEAKS("{\"QMP\"", "a QMP monitor"),
	SPEAKS("{", "JSON: QMP?"),
	SPEAKS("QEVM", "QEMU's migration"),
	SPEAKS("LibvirtQemud", "libvirt's saved guest"),
	SPEAKS("RFB ", "VNC"),
	SPEAKS("220 ", "SMTP or FTP"),
	SPEAKS("-ERR ", "Redis or POP3"),
};

bool stranger_describe(const uint8_t *bytes, size_t n, char buf[STRANGER_MAX])
{
	struct text_quote shown;
	const char *name = NULL;
	size_t i, used = 0, text = 0;

	for (i = 0; i < ARRAY_SIZE(strangers) && !name; i++)
		if (n >= strangers[i].len &&
		    memcmp(bytes, strangers[i].bytes, strangers[i].len) == 0)
			name = strangers[i].name;
	if (n > SHOWN_MAX)
		n = SHOWN_MAX;
	for (i = 0; i < n; i++)
		text += (bytes[i] >= ' ' && bytes[i] <= '~') || bytes[i] == '\r' ||
			bytes[i] == '\n';
	shown = text_quote((const char *)bytes, n);
	if (text != n)
		for (i = 0; i < n; i++)
			used += (size_t)snprintf(shown.s + used, sizeof(shown.s) - used, "%02x",
						 bytes[i]);
	snprintf(buf, STRANGER_MAX, "%s%s%s%s", shown.s, name ? " (" : "", name ? name : "",
		 name ? ")" : "");
	return name || text == n;
}
