/* What a Linux kernel says about itself in /sys/devices/system/cpu/vulnerabilities/spectre_v2. */
#ifndef TOOLS_GUEST_REPORT_SPECTRE_V2_H
#define TOOLS_GUEST_REPORT_SPECTRE_V2_H

#include <stdint.h>

/**
 * spectre_v2_report - the bits of MSR 0x50000002 that a guest with this kernel should report
 * @text: the file's content
 * @cmdline: /proc/cmdline; "" when it is not known
 * MITIGATION_BHB_CLEAR_SEQ_S, which asks for BHI_DIS_S where the sequence does not do, unless the
 * kernel has an answer of its own: BHI_DIS_S or retpolines. That it has none, or thinks that its
 * CPU needs none, is no wish to stay without. MITIGATION_RETPOLINE_S when it uses retpolines
 * (LFENCE ones included, as in the RFC's guest patch 20240410143446.797262-6), or nothing at all.
 * Whoever turned the mitigation off on the command line is not asked for: mitigations=off,
 * spectre_v2=off, nospectre_v2, and of the first bit spectre_bhi=off.
 * Return: 0; -EINVAL when the text is not of the kind that Linux writes
 * Source: Linux 6.12 arch/x86/kernel/cpu/bugs.c, spectre_v2_strings[], spectre_bhi_state()
 */
int spectre_v2_report(const char *text, const char *cmdline, uint64_t *bits);

#endif
