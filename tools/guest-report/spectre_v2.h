/* What a Linux kernel says about itself in /sys/devices/system/cpu/vulnerabilities/spectre_v2. */
#ifndef TOOLS_GUEST_REPORT_SPECTRE_V2_H
#define TOOLS_GUEST_REPORT_SPECTRE_V2_H

#include <stdint.h>

/**
 * spectre_v2_report - the bits of MSR 0x50000002 that a kernel of this state would report
 * @text: the file's content
 * MITIGATION_BHB_CLEAR_SEQ_S when it clears branch history in software at system calls,
 * MITIGATION_RETPOLINE_S when it uses retpolines (LFENCE ones included, as in the RFC's guest
 * patch 20240410143446.797262-6).
 * Return: 0; -EINVAL when the text is not of the kind that Linux writes
 * Source: Linux 6.12 arch/x86/kernel/cpu/bugs.c, spectre_v2_strings[], spectre_bhi_state()
 */
int spectre_v2_report(const char *text, uint64_t *bits);

#endif
