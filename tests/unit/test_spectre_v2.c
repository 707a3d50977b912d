#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <errno.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "msr/spec_ctrl.h"
#include "tools/guest-report/spectre_v2.h"

#define SEQ MITIGATION_BHB_CLEAR_SEQ_S
#define RET MITIGATION_RETPOLINE_S

/* As real kernels write it, 4.15 to 6.18, and all forms of the BHI part. */
static const struct {
	const char *text;
	uint64_t bits;
} texts[] = {
	{"Not affected\n", RET | SEQ},
	{"Vulnerable\n", RET | SEQ},
	{"Vulnerable; IBPB: disabled; STIBP: disabled; PBRSB-eIBRS: Not affected; BHI: Not "
	 "affected\n",
	 RET | SEQ},
	{"Vulnerable: eIBRS with unprivileged eBPF\n", RET | SEQ},
	{"Vulnerable: LFENCE; IBPB: conditional; RSB filling; BHI: Not affected\n", RET | SEQ},
	{"Vulnerable: Minimal generic ASM retpoline\n", RET | SEQ},
	/* 6.17 on, built without KVM: the attack vectors leave it so by default */
	{"Vulnerable; IBPB: disabled; STIBP: disabled; PBRSB-eIBRS: Vulnerable; BHI: Vulnerable\n",
	 RET | SEQ},
	{"Mitigation: Full generic retpoline, IBPB: conditional, IBRS_FW, STIBP: conditional, RSB "
	 "filling\n",
	 RET | SEQ},
	{"Mitigation: Full AMD retpoline, IBPB: conditional\n", RET | SEQ},
	{"Mitigation: Retpolines; IBPB: conditional; IBRS_FW; STIBP: conditional; RSB filling; "
	 "PBRSB-eIBRS: Not affected; BHI: Not affected\n",
	 RET | SEQ},
	{"Mitigation: Retpolines; IBPB: conditional; RSB filling; PBRSB-eIBRS: Not affected; BHI: "
	 "Retpoline\n",
	 RET},
	{"Mitigation: Retpolines; IBPB: conditional; RSB filling; PBRSB-eIBRS: Not affected; BHI: "
	 "SW "
	 "loop, KVM: SW loop\n",
	 RET | SEQ},
	{"Mitigation: IBRS; IBPB: conditional; STIBP: conditional; RSB filling; PBRSB-eIBRS: Not "
	 "affected; BHI: SW loop, KVM: SW loop\n",
	 SEQ},
	{"Mitigation: Enhanced IBRS, IBPB: conditional, RSB filling, PBRSB-eIBRS: SW sequence\n",
	 SEQ},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; RSB filling; PBRSB-eIBRS: SW "
	 "sequence; BHI: SW loop, KVM: SW loop\n",
	 SEQ},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; RSB filling; PBRSB-eIBRS: SW "
	 "sequence; BHI: SW loop, KVM SW loop\n",
	 SEQ},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; PBRSB-eIBRS: Not affected; "
	 "BHI: "
	 "BHI_DIS_S\n",
	 0},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; BHI: Vulnerable, KVM: SW "
	 "loop\n",
	 SEQ},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: conditional; BHI: Vulnerable\n", SEQ},
	{"Mitigation: Enhanced / Automatic IBRS; IBPB: always-on; STIBP: always-on; BHI: SW loop, "
	 "KVM: SW loop",
	 SEQ},
	{"Mitigation: Enhanced / Automatic IBRS + Retpolines; IBPB: conditional; BHI: Retpoline\n",
	 RET},
	{"Mitigation: Enhanced / Automatic IBRS + LFENCE; IBPB: conditional; BHI: SW loop, KVM: SW "
	 "loop\n",
	 RET | SEQ},
	/* it relies on them, whatever stands before */
	{"Mitigation: Enhanced / Automatic IBRS; BHI: Retpoline\n", RET},
	/* a word of another part is not the kernel's own mitigation */
	{"Mitigation: Enhanced / Automatic IBRS; RSB filling: Retpolines; BHI: BHI_DIS_S\n", 0},
};

/* What the command line says of it. */
#define EIBRS "Mitigation: Enhanced / Automatic IBRS; "

static const struct {
	const char *text, *cmdline;
	uint64_t bits;
} lines[] = {
	{"Vulnerable; BHI: Vulnerable\n", "console=ttyS0 mitigations=off quiet\n", 0},
	{"Vulnerable; BHI: Vulnerable\n", "spectre_v2=off\n", 0},
	{"Vulnerable; BHI: Vulnerable\n", "nospectre_v2", 0},
	{"Vulnerable; BHI: Vulnerable\n", "nospectre_v2=\n", 0},
	{"Vulnerable; BHI: Vulnerable\n", "spectre_bhi=off\n", RET},
	{EIBRS "BHI: Vulnerable\n", "spectre_bhi=off\n", 0},
	{EIBRS "BHI: Vulnerable, KVM: SW loop\n", "spectre_bhi=vmexit\n", SEQ},
	{EIBRS "RSB filling\n", "mitigations=off\n", 0},
	/* what the kernel does counts, whatever it was told */
	{EIBRS "BHI: SW loop, KVM: SW loop\n", "spectre_bhi=off\n", SEQ},
	{"Mitigation: Retpolines; BHI: Retpoline\n", "mitigations=off\n", RET},
	/* the last one counts, a word is a whole one, and what follows "--" is init's */
	{"Vulnerable; BHI: Vulnerable\n", "mitigations=off mitigations=auto\n", RET | SEQ},
	{"Vulnerable; BHI: Vulnerable\n", "mitigations=auto mitigations=off\n", 0},
	{"Vulnerable; BHI: Vulnerable\n", "xmitigations=off mitigations=offx\n", RET | SEQ},
	{"Vulnerable; BHI: Vulnerable\n", "mitigations off spectre_v2=\n", RET | SEQ},
	{"Vulnerable; BHI: Vulnerable\n", "mitigations=auto,nosmt nospectre_v2x\n", RET | SEQ},
	{"Vulnerable; BHI: Vulnerable\n", "quiet -- mitigations=off nospectre_v2\n", RET | SEQ},
};

static const char *const others[] = {"", "\n", "BHI: SW loop", "Unknown: what\n",
				     "mitigation: IBRS\n"};

static void test_texts(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(texts); i++) {
		uint64_t bits = 99;

		if (spectre_v2_report(texts[i].text, "", &bits) != 0 || bits != texts[i].bits)
			fail_msg("%s gives %#llx", texts[i].text, (unsigned long long)bits);
	}
}

static void test_command_lines(void **state)
{
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(lines); i++) {
		uint64_t bits = 99;

		if (spectre_v2_report(lines[i].text, lines[i].cmdline, &bits) != 0 ||
		    bits != lines[i].bits)
			fail_msg("%s with %s gives %#llx", lines[i].text, lines[i].cmdline,
				 (unsigned long long)bits);
	}
}

static void test_other_texts(void **state)
{
	uint64_t bits;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(others); i++)
		if (spectre_v2_report(others[i], "mitigations=off", &bits) != -EINVAL)
			fail_msg("'%s' is taken", others[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_texts),
		cmocka_unit_test(test_command_lines),
		cmocka_unit_test(test_other_texts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
